"""Inspections of drawn mixers, and texts that would like to be more than text."""

from dsf.inspection import InspectedLayer, Inspection, Unsupported

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "</script/x",
    "\u202eevil\u2028",
    '=cmd|"/C calc"!A1',
    "{{ 7 * 7 }}",
    "$x^2$",
    "\ud800",
)


def of_mixers(mixers, *, words=None, unsupported=(), axes=None, model="drawn/model"):
    layers = []
    for k, mixer in enumerate(mixers):
        batch = len(mixer.system().batch)
        names = axes or ("sample", "head", "channel")[:batch] if batch != 1 else ("head",)
        layers.append(
            InspectedLayer(
                name=f"model.layers.{k}.mixer",
                family=type(mixer).__name__.lower(),
                mixer=mixer,
                axes=axes or names,
                error=1e-9 * (k + 1),
                tolerance=1e-6,
            )
        )
    tokens = None if words is None else (tuple(words),)
    return Inspection(
        layers=tuple(layers),
        unsupported=tuple(Unsupported(*each) for each in unsupported),
        model=model,
        tokens=tokens,
        environment={"dsf": "0", "torch": "0"},
    )
