"""Deletion and insertion curves: do the tokens that a method ranks first carry the logit?

For every prompt the model's own next token is explained. Tokens are taken away in the order of
their shares, those with the largest first (deletion), or put back into an empty prompt in that
order (insertion). A token that is away is a blank. The last token, from which the model predicts,
stays. Written down is the mean of the log probability of the explained token along the curve,
which should be low for deletion and high for insertion.

    python -m experiments.deletion.run [--prompts 40] [--tokens 32] [MODEL ...]
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsf.loading import load_model
from dsf.models import TEXT_NAMES, folder
from dsf.saving import replace_file
from experiments.deletion.methods import Method, known
from experiments.page import put_into, table
from experiments.text_models.text import read
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
PRETRAINED = Path(os.environ.get("DSF_PRETRAINED") or FOLDER.parents[1] / ".pretrained")
RESULTS = FOLDER / "results.json"
SMOLLM2 = "smollm2"


@dataclass(frozen=True, eq=False)
class Curves:
    """The log probability of the explained token while tokens go and come.

    Attributes:
        deleted: after 0, 1, ... tokens were taken away, the largest shares first.
        inserted: after 0, 1, ... tokens were put back, the largest shares first.
    """

    deleted: Float[Tensor, " count"]
    inserted: Float[Tensor, " count"]


def curves(
    model: nn.Module, ids: Int[Tensor, "1 time"], target: int, ranked: Tensor, blank: int
) -> Curves:
    """The curves of one prompt, for tokens in the order ``ranked``."""
    length = ids.shape[1]
    place = torch.empty(length, dtype=torch.long)
    place[ranked] = torch.arange(length)
    counts = torch.arange(length + 1)[:, None]
    away = torch.cat([place < counts, place >= counts])
    away = away[:, :-1]
    shown = ids.expand(2 * (length + 1), -1).clone()
    shown[:, :-1][away] = blank
    with torch.no_grad():
        logits = model(input_ids=shown, use_cache=False).logits[:, -1].double()
    both = logits.log_softmax(dim=-1)[:, target]
    return Curves(*both.chunk(2))


def explained(
    model: nn.Module, prompts: Sequence[Int[Tensor, "1 time"]], blank: int
) -> dict[str, dict[str, list[float]]]:
    """For every method the mean curves over the prompts."""
    methods = known(torch.Generator().manual_seed(0))
    sums: dict[str, list[Tensor]] = {}
    begun = time.monotonic()
    for number, ids in enumerate(prompts, start=1):
        with torch.no_grad():
            target = int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax())
        for name, method in methods.items():
            found = curves(model, ids, target, _ranked(method, model, ids, target), blank)
            sums.setdefault(name, []).append(torch.stack([found.deleted, found.inserted]))
        left = (time.monotonic() - begun) / number * (len(prompts) - number)
        print(f"  prompt {number} of {len(prompts)}, {left:.0f} s left", flush=True)
    means = {name: torch.stack(each).mean(dim=0) for name, each in sums.items()}
    return {
        name: {"deletion": both[0].tolist(), "insertion": both[1].tolist()}
        for name, both in means.items()
    }


def _ranked(method: Method, model: nn.Module, ids: Tensor, target: int) -> Int[Tensor, " time"]:
    return method(model, ids, target).argsort(descending=True)


def run(name: str, count: int, length: int) -> dict[str, Any]:
    loaded = load_model(PRETRAINED / name if name == SMOLLM2 else folder(name))
    tokenizer: Any = loaded.tokenizer
    ids = tokenizer(read().held_out[: 40 * count * length])["input_ids"]
    prompts = [torch.tensor([ids[k * length : (k + 1) * length]]) for k in range(count)]
    blank = tokenizer(" ")["input_ids"][-1]
    print(name, flush=True)
    return {
        "model": name,
        "prompts": count,
        "tokens": length,
        "curves": explained(loaded.model.eval(), prompts, blank),
    }


def mean(curve: Sequence[float]) -> float:
    return sum(curve) / len(curve)


def as_table(results: Sequence[dict[str, Any]]) -> str:
    """The mean along the curves, a row for each model and method."""
    lines = []
    for result in results:
        for method, both in result["curves"].items():
            means = [f"{mean(both[kind]):.2f}" for kind in ("deletion", "insertion")]
            lines.append([result["model"], method, *means])
    return table(["model", "tokens in the order of", "deletion", "insertion"], lines)


def draw(results: Sequence[dict[str, Any]], page: Path) -> None:
    """The mean curves, one row for each model."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        len(results), 2, figsize=(8, 2.4 * len(results)), squeeze=False, layout="constrained"
    )
    for row, result in zip(axes, results, strict=True):
        for axis, kind in zip(row, ("deletion", "insertion"), strict=True):
            for method, both in result["curves"].items():
                style = {"color": "0.6", "linestyle": ":"} if method == "chance" else {}
                axis.plot(both[kind], label=method, **style)
            axis.set_title(f"{result['model']}, {kind}", fontsize=9)
            axis.set_xlabel("tokens taken away" if kind == "deletion" else "tokens put back")
            axis.set_ylabel("log probability (nat)")
    axes[0, 0].legend(fontsize=7)
    replace_file(page, lambda draft: figure.savefig(draft, dpi=120, format="png"))
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=[*TEXT_NAMES, SMOLLM2])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--tokens", type=int, default=32)
    given = parser.parse_args()
    try:
        import captum  # noqa: F401
    except ImportError:
        sys.exit("captum is not installed: pip install --group curves")
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else []
    results = {result["model"]: result for result in kept}
    for name in given.models:
        results[name] = run(name, given.prompts, given.tokens)
        write_json(RESULTS, list(results.values()))
    put_into(FOLDER / "README.md", as_table(list(results.values())))
    draw(list(results.values()), FOLDER / "figure.png")


if __name__ == "__main__":
    main()
