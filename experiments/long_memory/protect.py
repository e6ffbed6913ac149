"""Protect forgotten associations from the tokens that erased them, and see whether recall returns.

    python -m experiments.long_memory.protect [--cases 30]

Takes queries that a model answers wrongly where many pairs come between, although it answers them
where blanks take the place of these pairs. ``forgotten`` names the tokens that erased the trace of
the asked pair; that trace is protected from the strongest of them, from all of them, and, as a
control, from as many other tokens. Where it passes every token unchanged and the answer is still
wrong, nothing was lost by erasure: what the query reads of other pairs is in the way, which is cut
as well. Writes ``protect.json``.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedModel

import dsf
from dsf import edits, models
from dsf.models import recall

RESULTS = Path(__file__).with_name("protect.json")
SETTINGS = {"long_qwen3_next": (128, 64), "qwen3_next": (32, 16)}
"""For each model the lag, and how many pairs come between: more than it was trained with."""
SEED, SAMPLES = 11, 60
PAIRS_OF_TRACE = 4
"""Tokens from a key on that may carry its pair: a convolution of width four moves it."""
MIN_SHARE = 0.02
"""Least share of an eraser that is named, relative to the largest of the trace."""
PREDICTED = 3
"""Single erasers of each case whose effect is measured, to compare it with the prediction."""


def main() -> None:
    """Measure both models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=30, help="failed queries of each model")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for name in SETTINGS:
        found = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        found[name] = measured(name, arguments.cases)
        RESULTS.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n")


def measured(name: str, cases: int) -> dict[str, float]:
    """How often protection restores the answer, and how well its effect was predicted."""
    model = AutoModelForCausalLM.from_pretrained(models.folder(name)).eval()
    lag, between = SETTINGS[name]
    rng = torch.Generator().manual_seed(SEED)
    drawn = recall.draw_long(rng, SAMPLES, lag=lag, distractors=between)
    with torch.inference_mode():
        answers = model(drawn.tokens, use_cache=False).logits.argmax(dim=-1)
    asked = drawn.targets != recall.SILENT
    failed = (asked & (answers != drawn.targets)).nonzero().tolist()
    restored: dict[str, list[bool]] = {}
    effects: list[tuple[float, float]] = []
    remembered = 0
    for sample, query in failed[:cases]:
        ids, right = drawn.tokens[sample], int(drawn.targets[sample, query])
        if not _answers_alone(model, ids, asked[sample], query, right):
            continue
        remembered += 1
        ids = ids[None, : query + 1]
        against = int(answers[sample, query])
        key = int((ids[0, : 2 * recall.PAIRS] == ids[0, query]).nonzero()[0])
        outcome, pairs = _protected(model, ids, key, right, against)
        effects += pairs
        for kind, is_right in outcome.items():
            restored.setdefault(kind, []).append(is_right)
        print(name, sample, query, outcome, flush=True)
    predicted, seen = np.array(effects).T
    return {
        "lag": lag,
        "pairs_between": between,
        "queries": int(asked.sum()),
        "failed": len(failed),
        "tried": min(cases, len(failed)),
        "remembered_without_pairs_between": remembered,
        **{f"restored_{kind}": float(np.mean(hits)) for kind, hits in restored.items()},
        "restored_named_of_erased": float(
            np.mean(np.array(restored["named"])[np.array(restored["nothing_erased"])])
        ),
        "correlation": float(np.corrcoef(predicted, seen)[0, 1]),
        "effects": len(effects),
    }


def _answers_alone(
    model: PreTrainedModel, ids: torch.Tensor, asked: torch.Tensor, query: int, right: int
) -> bool:
    """Whether the model answers where blanks take the place of the pairs in between."""
    alone = ids.clone()
    alone[2 * recall.PAIRS :][~asked[2 * recall.PAIRS :]] = recall.BLANK
    with torch.inference_mode():
        return int(model(alone[None], use_cache=False).logits[0, query].argmax()) == right


def _protected(
    model: PreTrainedModel, ids: torch.Tensor, key: int, right: int, against: int
) -> tuple[dict[str, bool], list[tuple[float, float]]]:
    """Whether protections restore an answer; predicted and measured effects of single ones."""
    last = ids.shape[1] - 1
    share = dsf.stack(model, input_ids=ids).attribute(right, against=against, position=last)
    trace = range(key, key + PAIRS_OF_TRACE)
    own = [one for one in share.forgotten(10_000) if one.get("key") in trace]
    least = MIN_SHARE * max(one["share"] for one in own)
    named = [one for one in own if one["share"] > max(least, 0)]
    others = [one for one in own if one not in named][-len(named) :]

    def spared(erasers: list[dict]) -> list[edits.Edit]:
        return [edits.Protect(one["layer"], key=one["key"], from_=one["token"]) for one in erasers]

    layers = {one["layer"] for one in own}
    nothing_erased = [
        edits.Protect(layer, key=token, from_=token + 1, until=last + 1)
        for layer in sorted(layers)
        for token in trace
    ]
    others_read = [token for token in range(last - PAIRS_OF_TRACE + 1) if token not in trace]
    alone = [edits.Cut(layer, query=[last], key=others_read) for layer in sorted(layers)]
    tried = {
        "strongest": spared(named[:1]),
        "five": spared(named[:5]),
        "named": spared(named),
        "control": spared(others),
        "nothing_erased": nothing_erased,
        "nothing_else_read": [*nothing_erased, *alone],
    }
    outcome = {}
    for kind, protections in tried.items():
        changed = dsf.intervene(model, input_ids=ids, edits=protections)
        outcome[kind] = int(changed.output[0, last].argmax()) == right
    single = [spared([one]) for one in named[:PREDICTED]]
    seen = dsf.sweep(
        model, input_ids=ids, edits=single, target=right, against=against, position=last
    )
    predicted = [one["share"] for one in named[:PREDICTED]]
    return outcome, list(zip(predicted, seen[:, 0].tolist(), strict=True))


if __name__ == "__main__":
    main()
