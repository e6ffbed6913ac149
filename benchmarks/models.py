"""The four models inside the package as a whole: inspected, phase by phase.

``dsf`` runs the model, rebuilds every mixer in double precision and compares it with the layer;
with checks it also asks which modules mix tokens. Beside it the plain run of the library, and what
maps and measures take on top.
"""

from typing import Any

import torch
from transformers import AutoModelForCausalLM

import dsf
from benchmarks.limits import interleaved
from benchmarks.record import Row, row
from dsf.models import NAMES, folder, recall


def inspected(*, tokens: int = 128) -> list[Row]:
    """All models, one case each."""
    return [each for name in NAMES for each in _inspected(name, tokens)]


def _inspected(name: str, tokens: int) -> list[Row]:
    model = AutoModelForCausalLM.from_pretrained(folder(name))
    rng = torch.Generator().manual_seed(0)
    prompt = recall.draw(rng, samples=1, length=tokens).tokens
    inspection = dsf.inspect(model, input_ids=prompt)

    def run() -> Any:
        with torch.no_grad():
            return model(input_ids=prompt)

    phases = {
        "dsf": lambda: dsf.inspect(model, input_ids=prompt, checks="none"),
        "dsf, with checks": lambda: dsf.inspect(model, input_ids=prompt),
        "library, the run alone": run,
        "dsf, maps": lambda: [layer.map() for layer in inspection],
        "dsf, measures": inspection.measure,
    }
    taken = interleaved(phases, rounds=3)
    errors = {"dsf": max(layer.error for layer in inspection)}
    return [
        row(
            f"Inspection of {name}, {tokens} tokens",
            phase,
            seconds,
            taken["dsf"],
            errors.get(phase, 0.0),
        )
        for phase, seconds in taken.items()
    ]
