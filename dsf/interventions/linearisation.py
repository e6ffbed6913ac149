"""``linearise``: which keys a trained softmax model needs, what the others cost, and a plan.

The query heads of a group share their keys. The signs of predicted changes differ from text to
text, and a choice by signed sums fits the noise: a prediction is the mean over texts of magnitudes.
The plan goes along the lower convex hulls of the groups. A derivative at the whole model says
little of large moves, so that it is taken once more half of the way, and what is run decides.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import exp, log1p
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from dsf.inspection.capture.isolation import restored
from dsf.inspection.model_input import IDS, MASK, model_input
from dsf.inspection.results.saving import load, save
from dsf.inspection.results.table import Table
from dsf.interventions.kept_keys import (
    IGNORED,
    KeptForm,
    Maps,
    StateFeatures,
    anchors_of,
    compared,
    fitted,
    full_precision,
)
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least

WINDOWS = tuple(2**power for power in range(1, 13))
"""Windows of the default candidates, as far as they are shorter than the texts."""
SINKS = 4
"""First keys of the default candidates."""
FEATURES = 16
"""Features of the states of the default candidates."""
LABELS = "labels"
"""Name of the labels, as in transformers."""
PLAN = ("plan.json", "plan.safetensors")
"""Names of the files of a stored plan."""


@dataclass(frozen=True)
class PlanRow:
    """What the plan keeps of one key-value group.

    Attributes:
        layer: path of the attention module.
        head: number of the group's key-value head within the layer.
        form: ``keep``, ``Window(w)``, ``SinkWindow(s, w)`` or ``SinkWindowState(s, w, r)``.
        predicted: predicted harm, in nats per token.
        bytes: of cache at the length of the texts, for one sample.
        distance: bound on the distance of every row of the map from that of the whole one, in total
            variation (0 to 1), over the rows of the texts and the query heads of the group.
        heads: numbers of the query heads of the group.
    """

    layer: str
    head: int
    form: str
    predicted: float
    bytes: int
    distance: float
    heads: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class LinearisationPlan:
    """What every key-value group keeps, and what that is predicted to cost.

    Attributes:
        rows: for each group the form that was chosen.
        candidates: for each group, in the same order, a row for each form that was measured.
        tokens: length of the texts, at which bytes are counted.
        states: for the groups and forms with a state their features, by ``layer head form``.
        measured: relative rise of the perplexity of the texts under the plan; None where the plan
            was not run.
        rounds: how often the derivatives were taken again.
    """

    rows: tuple[PlanRow, ...]
    candidates: tuple[tuple[PlanRow, ...], ...]
    tokens: int
    states: Mapping[str, StateFeatures] = field(default_factory=dict)
    measured: float | None = None
    rounds: int = 0

    @property
    def predicted(self) -> float:
        """Predicted relative rise of the perplexity."""
        return exp(sum(row.predicted for row in self.rows)) - 1

    @property
    def bytes(self) -> int:
        """Bytes of the cache of one sample, at the length of the texts."""
        return sum(row.bytes for row in self.rows)

    @property
    def whole_bytes(self) -> int:
        """Bytes of the cache that keeps everything, at the length of the texts."""
        return sum(max(row.bytes for row in rows) for rows in self.candidates)

    @checked
    def within(
        self, *, harm: float | None = None, bytes: int | float | None = None
    ) -> "LinearisationPlan":
        """Return the plan for another budget, from the same predictions.

        Args:
            harm, bytes: as for :func:`linearise`; the plan is not run.
        """
        _check_budget(harm, bytes)
        most = int(bytes * self.whole_bytes) if isinstance(bytes, float) else bytes
        *_, last = _path(self.candidates, harm, most)
        return replace(self, rows=last, measured=None)

    @checked
    def applied(self, model: nn.Module) -> Any:
        """Return a model of the same class that keeps only what the plan keeps.

        It shares its weights with ``model``, which is not changed. Called with ``use_cache``, or by
        ``generate``, it makes a cache whose attribute ``bytes`` counts its memory. A long prompt is
        read in chunks with ``generate(..., prefill_chunk_size=512)``.

        Raises:
            ValueError: if the model has not the layers of the plan; or, when it is called, if it
                has other groups.
        """
        from dsf.interventions.kept_cache import linearised

        modules, forms = dict(model.named_modules()), self.forms()
        for layer in forms:
            if not hasattr(modules.get(layer), "layer_idx"):
                raise ValueError(
                    f"applied: 'model' expected an attention {layer}, got {type(model).__name__} "
                    "without. Apply the plan to the model it was made of."
                )
        return linearised(model, forms)

    def forms(self) -> dict[str, list[tuple[KeptForm, StateFeatures | None]]]:
        """Return the forms of the groups of every layer, with the features of their states."""
        found: dict[str, list[tuple[KeptForm, StateFeatures | None]]] = {}
        for row in self.rows:
            form = (KeptForm.parse(row.form), self.states.get(_state_name(row)))
            found.setdefault(row.layer, []).append(form)
        return found

    def table(self) -> Table:
        """Return one record for each group."""
        return Table(tuple(asdict(row) for row in self.rows))

    def save(self, folder: str | Path) -> None:
        """Write ``plan.json``, and the features of states as ``plan.safetensors``."""
        save(self, folder, PLAN)

    @classmethod
    def load(cls, folder: str | Path) -> "LinearisationPlan":
        """Read a plan that :meth:`save` wrote.

        Raises:
            FileNotFoundError: if there is none.
        """
        found: LinearisationPlan = load(folder, PLAN)
        return found

    def figure(self) -> Any:
        """Return a matplotlib figure: layers by key-value heads, coloured by form."""
        from matplotlib import colormaps
        from matplotlib.figure import Figure

        layers = list(dict.fromkeys(row.layer for row in self.rows))
        by_size = sorted({(row.bytes, row.form) for rows in self.candidates for row in rows})
        names = list(dict.fromkeys(form for _, form in by_size))
        used = [name for name in names if name in {row.form for row in self.rows}]
        heads = max(row.head for row in self.rows) + 1
        shades = torch.full((heads, len(layers)), float("nan"))
        for row in self.rows:
            shades[row.head, layers.index(row.layer)] = names.index(row.form)
        figure = Figure(figsize=(max(5.0, 0.3 * len(layers)), 1.6 + 0.3 * heads))
        axes = figure.subplots()
        last = max(1, len(names) - 1)
        axes.imshow(shades.numpy(), cmap="viridis", vmin=0, vmax=last, aspect="auto")
        axes.set(xlabel="layer", ylabel="key-value head", yticks=range(heads))
        colours = {name: colormaps["viridis"](names.index(name) / last) for name in used}
        patches = [
            axes.scatter([], [], color=[colour], marker="s", label=name)
            for name, colour in colours.items()
        ]
        figure.legend(handles=patches, loc="outside upper center", ncols=4, fontsize="small")
        figure.tight_layout(rect=(0, 0, 1, 0.82))
        return figure

    def __repr__(self) -> str:
        measured = "" if self.measured is None else f", measured {100 * self.measured:.2g} %"
        return (
            f"{self.table()!r}\n{self.bytes:,} of {self.whole_bytes:,} bytes of cache at "
            f"{self.tokens} tokens; rise of the perplexity: predicted {100 * self.predicted:.2g} %"
            f"{measured}"
        )


@checked
@torch.inference_mode(False)
def linearise(
    model: nn.Module | str | Path,
    *inputs: Any,
    harm: float | None = None,
    bytes: int | float | None = None,
    candidates: Sequence[str] | None = None,
    rounds: int = 1,
    begin: LinearisationPlan | None = None,
    **named: Any,
) -> LinearisationPlan:
    """Plan which keys every group of a softmax model keeps, within a budget of harm or memory.

    The texts should have the length that is meant: what a window costs grows with it. Several
    texts, better from several sources, keep the plan from fitting one of them.

    Args:
        model: a causal language model, or its folder or hub id.
        inputs, named: texts, ``input_ids`` and the other options of :func:`dsf.inspect`. Every
            sample is one text. With ``labels``, only the tokens count whose label is not -100.
        harm: allowed rise of the perplexity, predicted and measured, such as 0.02 for 2 %.
        bytes: allowed bytes of cache for one sample at the length of the longest text, as a whole
            number; or their share of the whole cache, as a float up to 1.
        candidates: names of the forms that may replace ``keep``; by default windows without and
            with four first keys, and windows with a state.
        rounds: how often the derivatives are taken once more half of the way to the plan.
        begin: an earlier plan for the same model, which the rounds start from; its candidates stay.

    Returns:
        A plan with ``rows`` (layer, head, form, predicted, bytes), to be ``applied`` to the model.

    Raises:
        ValueError: if not exactly one budget is passed, it is out of range, or a candidate is not
            a form.
        InspectionError: if the model has no causal softmax attention that is reached through
            transformers' attention interface.

    Example:
        >>> import dsf, torch
        >>> from dsf.loading import load_model
        >>> from dsf.models import folder, recall
        >>> model = load_model(folder("llama")).model
        >>> ids = recall.draw(torch.Generator().manual_seed(0), samples=4).tokens
        >>> plan = dsf.linearise(model, input_ids=ids, harm=0.02)
        >>> plan.bytes < plan.whole_bytes
        True
        >>> small = plan.applied(model)
        >>> small.generate(input_ids=ids[:, :16], max_new_tokens=2).shape
        torch.Size([4, 18])
    """
    _check_budget(harm, bytes)
    at_least(0, "linearise", "rounds", rounds)
    from dsf.interventions.kept_cache import recorded

    given = model_input(model, inputs, named, where="linearise")
    texts = _texts(given.numbers, given.named)
    longest = max(len(text) for text, _ in texts)
    forms = _forms(candidates, longest)
    runs = [recorded(given.model, *text) for text in texts]
    groups = [(path, group) for path, maps in runs[0].items() for group in range(len(maps.key))]
    if begin is None:
        states: dict[str, StateFeatures] = {}
        found = [
            _measured(path, group, [run[path].of(group) for run in runs], forms, longest, states)
            for path, group in groups
        ]
        begin = LinearisationPlan((), tuple(found), longest, states)
    elif [(rows[0].layer, rows[0].head) for rows in begin.candidates] != groups:
        raise ValueError(
            "linearise: 'begin' expected a plan for the layers and groups of this model, got one "
            "for others. Leave it out."
        )
    plan = begin.within(harm=harm, bytes=bytes)
    tried = [plan]
    for _ in range(rounds):
        runs = [recorded(given.model, *text, plan.forms()) for text in texts]
        found = [
            _averaged(rows, [run[rows[0].layer].of(rows[0].head) for run in runs], plan)
            for rows in plan.candidates
        ]
        plan = replace(plan, candidates=tuple(found), rounds=plan.rounds + 1)
        plan = plan.within(harm=harm, bytes=bytes)
        tried.append(plan)
    whole = _loss(given.model, texts)

    def rise(plan: LinearisationPlan) -> float:
        return exp(_loss(plan.applied(given.model), texts) - whole) - 1

    if harm is None:  # another round is an estimate as well: what is run decides
        tried = [replace(each, measured=rise(each)) for each in tried]
        return min(tried, key=lambda each: each.measured or 0.0)
    # The last plan of the path whose measured harm is within the budget, found by bisection.
    steps = list(_path(plan.candidates, harm, None))
    best, good, worst = replace(plan, rows=steps[0], measured=0.0), 0, len(steps)
    number = len(steps) - 1
    while good < worst - 1:
        one = replace(plan, rows=steps[number])
        if (measured := rise(one)) <= harm:
            best, good = replace(one, measured=measured), number
        else:
            worst = number
        number = (good + worst) // 2
    return best


def _loss(model: Any, texts: Sequence[tuple[Tensor, Tensor]]) -> float:
    losses = []
    with restored(model), torch.no_grad():
        model.eval()
        for text, labels in texts:
            logits = model(input_ids=text.unsqueeze(0), use_cache=False).logits[0, :-1]
            losses.append(
                cross_entropy(full_precision(logits), labels[1:], ignore_index=IGNORED).item()
            )
    return sum(losses) / len(losses)


def _check_budget(harm: float | None, bytes: int | float | None) -> None:
    if (harm is None) == (bytes is None):
        raise ValueError("linearise: expected one of 'harm' and 'bytes'. Pass exactly one of them.")
    if harm is not None and not harm >= 0:
        raise ValueError(f"linearise: 'harm' expected a rise of at least 0, got {harm}.")
    if bytes is not None and (bytes < 0 or (isinstance(bytes, float) and bytes > 1)):
        raise ValueError(
            "linearise: 'bytes' expected a whole number of bytes, or a share from 0.0 to 1.0, got "
            f"{bytes}."
        )


def _texts(ids: Any, named: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
    """The texts and their labels, one by one and without padding."""
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        raise ValueError(
            "linearise: 'input_ids' expected whole numbers with the axes (sample, time), got "
            f"{tuple(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__}."
        )
    if others := sorted(named.keys() - {IDS, MASK, LABELS}):
        raise ValueError(f"linearise: expected texts or input_ids, got '{others[0]}' as well.")
    mask, labels = named.get(MASK, torch.ones_like(ids)).bool(), named.get(LABELS, ids)
    texts = [(row[seen], wanted[seen]) for row, wanted, seen in zip(ids, labels, mask, strict=True)]
    if not texts or any(not bool((wanted[1:] != IGNORED).any()) for _, wanted in texts):
        raise ValueError(
            "linearise: 'input_ids' expected texts with at least one token to predict, got one "
            "without."
        )
    return texts


def _forms(candidates: Sequence[str] | None, longest: int) -> list[KeptForm]:
    """The forms to compare, ``keep`` among them, smallest first."""
    if candidates is None:
        forms = [
            KeptForm(window, sinks, features)
            for window in WINDOWS
            for sinks, features in ((0, 0), (SINKS, 0), (SINKS, FEATURES))
            if sinks + window + features < longest
        ]
    else:
        forms = [KeptForm.parse(each) for each in candidates]
    unique = dict.fromkeys([*forms, KeptForm()])
    return sorted(unique, key=lambda form: form.bytes(longest, 1, 1, 4))


def _measured(
    path: str,
    group: int,
    maps: Sequence[Maps],
    forms: Sequence[KeptForm],
    longest: int,
    states: dict[str, StateFeatures],
) -> tuple[PlanRow, ...]:
    """One row for each form of one group; the features of states are added to ``states``."""
    heads, key = len(maps[0].query), maps[0].key
    counts = dict.fromkeys(form.features for form in forms if form.features)
    anchors = {count: anchors_of(maps, count) for count in counts}
    features = {form: fitted(form, maps, anchors[form.features]) for form in forms if form.features}
    found = zip(*(compared(one, forms, features) for one in maps), strict=True)
    changes, distances = (torch.stack(parts) for parts in found)
    predicted, apart = changes.abs().mean(dim=0).tolist(), distances.amax(dim=0).tolist()
    rows = []
    for form, change, distance in zip(forms, predicted, apart, strict=True):
        row = PlanRow(
            layer=path,
            head=group,
            form=str(form),
            predicted=change,
            bytes=form.bytes(longest, key.shape[-1], maps[0].value.shape[-1], key.element_size()),
            distance=distance,
            heads=tuple(range(group * heads, (group + 1) * heads)),
        )
        rows.append(row)
        if form.features:
            states[_state_name(row)] = features[form]
    return tuple(rows)


def _averaged(
    rows: Sequence[PlanRow], maps: Sequence[Maps], plan: LinearisationPlan
) -> tuple[PlanRow, ...]:
    """The rows of a group with one more round in the mean of their predictions."""
    forms = [KeptForm.parse(row.form) for row in rows]
    features = {
        form: plan.states[name]
        for form, row in zip(forms, rows, strict=True)
        if (name := _state_name(row)) in plan.states
    }
    changes = torch.stack([compared(one, forms, features)[0] for one in maps]).abs().mean(dim=0)
    return tuple(
        replace(row, predicted=row.predicted + (change - row.predicted) / (plan.rounds + 2))
        for row, change in zip(rows, changes.tolist(), strict=True)
    )


def _path(
    candidates: Sequence[Sequence[PlanRow]], harm: float | None, bytes: int | None
) -> Iterable[tuple[PlanRow, ...]]:
    """Plans from ``keep`` on, each a step smaller, as far as the predicted harm or the bytes go.

    Along the lower convex hulls every plan has the least predicted harm of all with no more bytes.
    """
    chosen = [max(rows, key=lambda row: row.bytes) for rows in candidates]
    steps = []
    for number, (rows, here) in enumerate(zip(candidates, chosen, strict=True)):
        now = here
        # Along a hull the harm per byte saved grows, so that steps keep their order.
        while smaller := [row for row in rows if row.bytes < now.bytes]:
            costs = ((row.predicted - now.predicted) / (now.bytes - row.bytes) for row in smaller)
            pairs = zip(costs, smaller, strict=True)
            cost, now = min(pairs, key=lambda pair: (pair[0], pair[1].bytes))
            steps.append((cost, number, now))
    spent, held = sum(row.predicted for row in chosen), sum(row.bytes for row in chosen)
    yield tuple(chosen)
    for _, number, row in sorted(steps, key=lambda step: step[:2]):
        if bytes is not None and held <= bytes:
            return
        more = row.predicted - chosen[number].predicted
        if harm is not None and spent + more > log1p(harm):
            return
        spent, held = spent + more, held + row.bytes - chosen[number].bytes
        chosen[number] = row
        yield tuple(chosen)
    if bytes is not None and held > bytes:
        raise ValueError(
            f"linearise: 'bytes' expected at least {held:,}, which the smallest candidates need, "
            f"got {bytes:,}. Pass smaller candidates."
        )


def _state_name(row: PlanRow) -> str:
    return f"{row.layer} {row.head} {row.form}"
