"""Deletion and insertion curves: do the tokens that a method ranks first carry the logit?

For every prompt the model's own next token is explained. Tokens are taken away in the order of
their shares, those with the largest first (deletion), or put back into an empty prompt in that
order (insertion). A token that is away is a blank. The last token, from which the model predicts,
stays. Written down is the mean of the log probability of the explained token along the curve,
which should be low for deletion and high for insertion.

    python -m experiments.deletion.run [--prompts 40] [--tokens 32] [MODEL ...]

What is interrupted goes on where it was. Beside the results the script leaves its prompts in a file
for ``experiments.deletion.attnlrp``, and adds the scores that this one has written.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from dsf.loading import load_model
from dsf.models import TEXT_NAMES, folder
from dsf.runtime.files import replace_file
from experiments.deletion import typeseg
from experiments.deletion.attnlrp import PROMPTS, READS, SCORES
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


@dataclass(frozen=True, eq=False)
class Prompt:
    """The numbers of its tokens, and the token that the model says next, with its logit."""

    ids: Int[Tensor, "1 time"]
    target: int
    logit: float


def explain(
    name: str, prompts: Sequence[Prompt], model: nn.Module, blank: int, kept: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    """The mean curves of every method so far, after each prompt that was not counted in ``kept``.

    A method that has no scores for a prompt is left out from there on.
    """
    result = {"model": name, "tokens": prompts[0].ids.shape[1], "counted": {}, "curves": {}} | kept
    begun = time.monotonic()
    for number, prompt in enumerate(prompts):
        methods = known(torch.Generator().manual_seed(number)) | beside(name, number)
        for method, scores in methods.items():
            if result["counted"].get(method, 0) != number:
                continue
            ranked = scores(model, prompt.ids, prompt.target).argsort(descending=True)
            found = curves(model, prompt.ids, prompt.target, ranked, blank)
            before = result["curves"].get(method)
            both = {"deletion": found.deleted.tolist(), "insertion": found.inserted.tolist()}
            result["curves"][method] = both if before is None else _with(before, both, number)
            result["counted"][method] = number + 1
        left = (time.monotonic() - begun) / (number + 1) * (len(prompts) - number - 1)
        print(f"  prompt {number + 1} of {len(prompts)}, {left:.0f} s left", flush=True)
        yield result


def _with(
    means: dict[str, list[float]], one: dict[str, list[float]], count: int
) -> dict[str, list[float]]:
    """The means of ``count`` curves and of one more."""
    return {
        kind: [
            (count * mean + more) / (count + 1)
            for mean, more in zip(means[kind], one[kind], strict=True)
        ]
        for kind in means
    }


def read_model(name: str, count: int, length: int) -> tuple[nn.Module, list[Prompt], int]:
    """A model, what it is asked about, and the token that stands for none."""
    if name == typeseg.NAME:
        tagger = typeseg.Kinds(PRETRAINED / name).eval()
        parts, blank = typeseg.passages(count, length)
        return tagger, [asked(tagger, part) for part in parts], blank
    loaded = load_model(PRETRAINED / name if name == SMOLLM2 else folder(name))
    tokenizer: Any = loaded.tokenizer
    ids = tokenizer(read().held_out[: 40 * count * length])["input_ids"]
    model, blank = loaded.model.eval(), tokenizer(" ")["input_ids"][-1]
    parts = [torch.tensor([ids[k * length : (k + 1) * length]]) for k in range(count)]
    return model, [asked(model, part) for part in parts], blank


def asked(model: nn.Module, ids: Int[Tensor, "1 time"]) -> Prompt:
    """A prompt with what the model itself says after it."""
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits[0, -1]
    return Prompt(ids, int(logits.argmax()), float(logits.max()))


def leave(name: str, prompts: Sequence[Prompt]) -> None:
    """Write down what AttnLRP is to explain in an environment of its own."""
    known = json.loads(PROMPTS.read_text(encoding="utf-8")) if PROMPTS.exists() else {}
    rows = [
        {"ids": one.ids[0].tolist(), "target": one.target, "logit": one.logit} for one in prompts
    ]
    place = PRETRAINED / name if name == SMOLLM2 else folder(name)
    write_json(PROMPTS, known | {name: {"folder": os.path.relpath(place), "prompts": rows}})


def beside(name: str, number: int) -> dict[str, Method]:
    """AttnLRP, where it has left scores of this prompt."""
    if not SCORES.exists():
        return {}
    scores = json.loads(SCORES.read_text(encoding="utf-8")).get(name, [])
    return {"AttnLRP": lambda *_: torch.tensor(scores[number])} if number < len(scores) else {}


def mean(curve: Sequence[float]) -> float:
    return sum(curve) / len(curve)


def as_table(results: Sequence[dict[str, Any]]) -> str:
    """The mean along the curves, a row for each model and method."""
    lines = []
    for result in results:
        for method, both in result["curves"].items():
            means = [f"{mean(both[kind]):.2f}" for kind in ("deletion", "insertion")]
            lines.append([result["model"], str(result["counted"][method]), method, *means])
    return table(["model", "prompts", "tokens in the order of", "deletion", "insertion"], lines)


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
    parser.add_argument("models", nargs="*", default=[*TEXT_NAMES, SMOLLM2, typeseg.NAME])
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
        print(name, flush=True)
        model, prompts, blank = read_model(name, given.prompts, given.tokens)
        if name in READS:
            leave(name, prompts)
        for result in explain(name, prompts, model, blank, results.get(name, {})):
            results[name] = result
            write_json(RESULTS, list(results.values()))
    put_into(FOLDER / "README.md", as_table(list(results.values())))
    draw(list(results.values()), FOLDER / "figure.png")


if __name__ == "__main__":
    main()
