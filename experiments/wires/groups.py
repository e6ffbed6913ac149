"""The wire of a model with short convolutions: what the query reads of one token, in all layers.

A convolution of width w writes every token into w values, so that one edge of one layer carries
only a part of it. Here an edge is all of it: from a token to the query, over the w values that
hold the token, in every layer at once. The one with the largest share is cut. The control is
another one of the same prompt whose absolute weights sum to as much, within 20 % if there is one.

    python -m experiments.wires.groups
"""

import argparse
import json
from typing import Any

import torch
from torch import Tensor

import dsf
from dsf.attribution import Stack
from dsf.interventions.edits import Cut
from dsf.loading import load_model
from dsf.models import NAMES, folder
from experiments.training.sweep import write_json
from experiments.wires.run import EQUAL, FOLDER, Prompts, batches, margin, rows, taps


def ranked(stack: Stack, given: Prompts, width: int) -> tuple[list[int], list[int]]:
    """For every prompt the token with the largest share at the query, and one of equal weight."""
    share, samples = stack.attribute(lambda logits: margin(logits, given)), len(given.place)
    edges = sum(share.edge_sums(mixer.name) for mixer in stack.mixers)
    maps = (layer.map().abs().flatten(1, -3).sum(dim=1) for layer in stack.inspection)
    weights = sum(maps)
    found, controls = [], []
    rng = torch.Generator().manual_seed(0)
    for sample in range(samples):
        place = int(given.place[sample])
        by_token = edges[sample, place].unfold(0, width, 1).sum(dim=-1)
        weight = weights[sample, place].unfold(0, width, 1).sum(dim=-1)
        starts = torch.arange(len(by_token))
        before = starts + width <= place
        top = int(by_token.where(before, -torch.inf).argmax())
        free = before & ((starts - top).abs() >= width)
        apart = (weight / weight[top] - 1).abs().where(free, torch.inf)
        equal = (apart < EQUAL).nonzero().flatten()
        equal = equal if len(equal) else apart.argmin().reshape(1)
        found.append(top)
        controls.append(int(equal[torch.randint(len(equal), (), generator=rng)]))
    return found, controls


def broken(model: Any, stack: Stack, given: Prompts, tokens: list[int], width: int) -> Tensor:
    """Which of the right answers are no longer right without the edge from these tokens."""
    cuts = [
        Cut(mixer.name, query=[place], key=list(range(token, token + width)), samples=[sample])
        for sample, (token, place) in enumerate(zip(tokens, given.place.tolist(), strict=True))
        for mixer in stack.mixers
    ]
    result = dsf.intervene(model, edits=cuts, input_ids=given.tokens)
    clean, changed = (
        rows(each, given).argmax(dim=-1) == given.answer for each in (result.clean, result.output)
    )
    return ~changed[clean]


def run(name: str, samples: int) -> dict[str, Any]:
    model = load_model(folder(name)).model
    width = taps(model)
    lost: list[Tensor] = []
    kept: list[Tensor] = []
    for given in batches(samples):
        stack = dsf.stack(model, input_ids=given.tokens)
        found, controls = ranked(stack, given, width)
        lost.append(broken(model, stack, given, found, width))
        kept.append(broken(model, stack, given, controls, width))
    return {
        "model": name,
        "prompts": samples,
        "width": width,
        "largest share": torch.cat(lost).double().mean().item(),
        "equal weight": torch.cat(kept).double().mean().item(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", default=list(NAMES))
    parser.add_argument("--samples", type=int, default=500)
    asked = parser.parse_args()
    place = FOLDER / "groups.json"
    results = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    for name in asked.models:
        results[name] = run(name, asked.samples)
        print(json.dumps(results[name]), flush=True)
        write_json(place, results)


if __name__ == "__main__":
    main()
