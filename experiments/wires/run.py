"""Which single edge carries the answer of the recall models, and what happens without it.

For every prompt the shares of the edges in the logit difference between the right value and another
value of the prompt are computed at the last query. The token-to-token edge of one layer with the
largest share is cut, all heads together; as a control an edge of the same layer and prompt whose
weight is as large, chosen at random. The state of recurrent layers is taken over from a prompt with
other values.

    python -m experiments.wires.run
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import dsf
from dsf.edits import Cut, StateFrom
from dsf.inspection import InspectedLayer
from dsf.loading import load_model
from dsf.models import NAMES, folder, recall
from dsf.network import Stack
from dsf.saving import replace_file

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
BATCH = 50
EQUAL = 0.2
"""A control's weight may differ by this share from that of the edge with the largest share."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts with the last query of each.

    Attributes:
        place: the position of the query.
        answer: the value that was shown with its key.
        other: another value of the prompt.
    """

    tokens: Int[Tensor, "sample time"]
    place: Int[Tensor, " sample"]
    answer: Int[Tensor, " sample"]
    other: Int[Tensor, " sample"]


def prompts(samples: int, seed: int) -> Prompts:
    drawn = recall.draw(torch.Generator().manual_seed(seed), samples)
    queried = drawn.targets != recall.SILENT
    steps = torch.arange(queried.shape[1])
    place = (queried * steps).amax(dim=1)
    answer = drawn.targets[torch.arange(samples), place]
    values = drawn.tokens[:, 1 : 2 * recall.PAIRS : 2]
    other = torch.stack([row[row != one][0] for row, one in zip(values, answer, strict=True)])
    return Prompts(drawn.tokens, place, answer, other)


def rows(logits: Tensor, given: Prompts) -> Float[Tensor, "sample vocabulary"]:
    """The logits at the queries."""
    return logits[torch.arange(len(given.place)), given.place]


def margin(logits: Tensor, given: Prompts) -> Float[Tensor, " sample"]:
    """The logit of the right value minus that of the other."""
    samples, shown = torch.arange(len(given.place)), rows(logits, given)
    return shown[samples, given.answer] - shown[samples, given.other]


Edge = tuple[str, int, int]


def strongest(stack: Stack, given: Prompts) -> tuple[list[Edge], list[Edge]]:
    """For every prompt the edge with the largest share, and one of equal weight at random."""
    share = stack.attribute(lambda logits: margin(logits, given))
    names = [mixer.name for mixer in stack.mixers]
    edges = torch.stack([share.edge_sums(name) for name in names], dim=1)
    weights = torch.stack(
        [each.map().abs().flatten(1, -3).sum(dim=1) for each in stack.inspection], dim=1
    )
    steps, rng = edges.shape[-1], torch.Generator().manual_seed(0)
    found, controls = [], []
    for sample in range(len(edges)):
        layer, edge = divmod(int(edges[sample].argmax()), steps * steps)
        weight = weights[sample, layer].flatten()
        apart = (weight / weight[edge] - 1).abs()
        apart[edge] = torch.inf
        equal = (apart < EQUAL).nonzero().flatten()
        equal = apart.argmin().reshape(1) if not len(equal) else equal
        control = int(equal[torch.randint(len(equal), (), generator=rng)])
        found.append((names[layer], *divmod(edge, steps)))
        controls.append((names[layer], *divmod(control, steps)))
    return found, controls


def kept(model: Any, given: Prompts, edges: list[Edge]) -> Tensor:
    """Which answers are right with the edges cut, and without."""
    cuts = [
        Cut(name, written=[written], read=[read], samples=[sample])
        for sample, (name, written, read) in enumerate(edges)
    ]
    result = dsf.intervene(model, edits=cuts, input_ids=given.tokens)
    return torch.stack(
        [rows(each, given).argmax(dim=-1) == given.answer for each in (result.clean, result.output)]
    )


def patched(model: Any, given: Prompts) -> dict[str, float] | None:
    """How often the answer follows the state of a prompt with the same keys and other values."""
    length = 2 * recall.PAIRS
    tokens = given.tokens.clone()
    tokens[:, 1:length:2] = tokens[:, 1:length:2].roll(1, dims=1)
    other = dsf.inspect(model, input_ids=tokens)
    layers = [layer.name for layer in other if layer.axes[-1:] != ("head",) or _recurs(layer)]
    if len(layers) < len(other):
        return None
    edits = [StateFrom(name, length - 1, "other") for name in layers]
    result = dsf.intervene(model, edits=edits, sources={"other": other}, input_ids=given.tokens)
    wanted = _answer_of(tokens, given)
    clean, changed = (rows(each, given).argmax(dim=-1) for each in (result.clean, result.output))
    return {
        "clean answers": _share(clean == given.answer),
        "answers that follow the state": _share(changed == wanted),
        "answers that stay": _share(changed == given.answer),
    }


def _recurs(layer: InspectedLayer) -> bool:
    return not isinstance(layer.mixer, dsf.mixers.SoftmaxAttention)


def _answer_of(tokens: Tensor, given: Prompts) -> Tensor:
    """The values that stand behind the queried keys in other prompts."""
    keys = tokens[:, : 2 * recall.PAIRS : 2]
    asked = tokens[torch.arange(len(tokens)), given.place].unsqueeze(1)
    pair = (keys == asked).int().argmax(dim=1)
    return tokens[torch.arange(len(tokens)), 2 * pair + 1]


def _share(which: Tensor) -> float:
    return float(which.double().mean())


def batches(samples: int) -> Iterator[Prompts]:
    for number, start in enumerate(range(0, samples, BATCH)):
        yield prompts(min(BATCH, samples - start), seed=number + 1)


def run(name: str, samples: int) -> dict[str, Any]:
    model = load_model(folder(name)).model
    right, without, control, states, where = [], [], [], [], []
    for given in batches(samples):
        stack = dsf.stack(model, input_ids=given.tokens)
        edges, controls = strongest(stack, given)
        clean, cut = kept(model, given, edges)
        right.append(clean)
        without.append(cut[clean])
        control.append(kept(model, given, controls)[1][clean])
        where += [edge[0] for edge in edges]
        state = patched(model, given)
        states += [] if state is None else [state]
    result: dict[str, Any] = {
        "model": name,
        "prompts": samples,
        "right": _share(torch.cat(right)),
        "broken without the edge": 1 - _share(torch.cat(without)),
        "broken without an edge of equal weight": 1 - _share(torch.cat(control)),
        "layer of the edge": {each: where.count(each) for each in sorted(set(where))},
    }
    for key in states[0] if states else ():
        result[key] = sum(each[key] for each in states) / len(states)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    samples = parser.parse_args().samples
    results = []
    for name in NAMES:
        results.append(run(name, samples))
        print(json.dumps(results[-1], indent=2), flush=True)
    text = json.dumps(results, indent=1) + "\n"
    replace_file(RESULTS, lambda draft: draft.write_text(text, encoding="utf-8"))


if __name__ == "__main__":
    main()
