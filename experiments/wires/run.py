"""Which edges carry the answer of the recall models, and what happens without them.

For every prompt the shares of the edges in the logit difference between the right value and another
value of the prompt are computed at the last query. An edge goes from an earlier token to the query
in one layer, all heads together. Those with the largest shares are cut; as a control as many edges
of the same layers and prompt whose weights are as large, chosen at random, and one more into the
same query. The state of recurrent
layers is taken over from a prompt with the same keys and other values: after the last pair, and as
soon as no convolution holds a token of the pairs.

    python -m experiments.wires.run
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

import dsf
from dsf.attribution import Stack
from dsf.inspection import InspectedLayer
from dsf.interventions.edits import Cut, StateFrom
from dsf.loading import load_model
from dsf.models import NAMES, folder, recall
from experiments.page import put_into, table
from experiments.training.sweep import write_json

FOLDER = Path(__file__).parent
ASIDE = "another edge into the query"
FOLLOWS = "answers that follow the state"
AT_ONCE = "answers that follow the state after the last pair"
STATES = (AT_ONCE, FOLLOWS)
BATCH = 50
COUNTS = (1, 4, 16)
"""How many edges are cut, those with the largest shares first."""
EQUAL = 0.2
"""The weight of a control may differ by this share from that of its edge."""


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts with the last query of each.

    Attributes:
        place: the position of the query.
        answer: the value that was shown with its key.
        others: the other values of the prompt.
    """

    tokens: Int[Tensor, "sample time"]
    place: Int[Tensor, " sample"]
    answer: Int[Tensor, " sample"]
    others: Int[Tensor, "sample other"]


def prompts(samples: int, seed: int) -> Prompts:
    drawn = recall.draw(torch.Generator().manual_seed(seed), samples)
    queried = drawn.targets != recall.SILENT
    steps = torch.arange(queried.shape[1])
    place = (queried * steps).amax(dim=1)
    answer = drawn.targets[torch.arange(samples), place]
    values = drawn.tokens[:, 1 : 2 * recall.PAIRS : 2]
    others = values[values != answer.unsqueeze(1)].unflatten(0, (samples, recall.PAIRS - 1))
    return Prompts(drawn.tokens, place, answer, others)


def rows(logits: Tensor, given: Prompts) -> Float[Tensor, "sample vocabulary"]:
    """The logits at the queries."""
    return logits[torch.arange(len(given.place)), given.place]


def margin(logits: Tensor, given: Prompts) -> Float[Tensor, " sample"]:
    """The logit of the right value minus the mean of the other values of the prompt.

    Against a single one of them, the edge that lowers this one has as large a share as the edge
    that raises the answer, and nothing is lost without it.
    """
    shown = rows(logits, given)
    right = shown.gather(1, given.answer.unsqueeze(1)).squeeze(1)
    return right - shown.gather(1, given.others).mean(dim=1)


Edge = tuple[str, int, int]


def ranked(stack: Stack, given: Prompts) -> tuple[list[list[Edge]], list[list[Edge]]]:
    """For every prompt the edges with the largest shares, and as many of equal weight at random."""
    share = stack.attribute(lambda logits: margin(logits, given))
    names = [mixer.name for mixer in stack.mixers]
    edges = torch.stack([share.edge_sums(name) for name in names], dim=1)
    weights = torch.stack(
        [each.map().abs().flatten(1, -3).sum(dim=1) for each in stack.inspection], dim=1
    )
    steps, rng = edges.shape[-1], torch.Generator().manual_seed(0)
    found, controls = [], []
    for sample in range(len(edges)):
        into_query = torch.arange(steps) == given.place[sample]
        shares = edges[sample].where(into_query[:, None], -torch.inf)
        top = shares.flatten().argsort(descending=True)[: max(COUNTS)].tolist()
        weight, free = (
            weights[sample].flatten(),
            torch.ones(edges[sample].numel(), dtype=torch.bool),
        )
        free[top] = False
        random = []
        for edge in top:
            layer = torch.arange(len(weight)) // steps**2 == edge // steps**2
            random.append(_of_equal_weight(weight, edge, free & layer, rng))
            free[random[-1]] = False
        for kept, numbers in ((found, top), (controls, random)):
            kept.append([(names[k // steps**2], *divmod(k % steps**2, steps)) for k in numbers])
    return found, controls


def beside(stack: Stack, edges: list[list[Edge]]) -> list[list[Edge]]:
    """For the first edge of every prompt another one into the same query, of equal weight."""
    maps = {layer.name: layer.map().abs().flatten(1, -3).sum(dim=1) for layer in stack.inspection}
    rng, controls = torch.Generator().manual_seed(0), []
    for sample, ((name, written, read), *_) in enumerate(edges):
        weight = maps[name][sample, written]
        free = torch.arange(len(weight)) <= written
        free[read] = False
        controls.append([(name, written, _of_equal_weight(weight, read, free, rng))])
    return controls


def _of_equal_weight(weight: Tensor, edge: int, free: Tensor, rng: torch.Generator) -> int:
    """A random free edge within ``EQUAL`` of the weight of this one; else the nearest."""
    apart = (weight / weight[edge] - 1).abs().where(free, torch.inf)
    equal = (apart < EQUAL).nonzero().flatten()
    equal = equal if len(equal) else apart.argmin().reshape(1)
    return int(equal[torch.randint(len(equal), (), generator=rng)])


def right_without(model: Any, given: Prompts, edges: list[list[Edge]]) -> Tensor:
    """Which answers are right without the edges, after those that are right with them."""
    cuts = []
    for sample, several in enumerate(edges):
        rows_cut: dict[tuple[str, int], list[int]] = {}
        for name, written, read in several:
            rows_cut.setdefault((name, written), []).append(read)
        cuts += [
            Cut(name, query=[written], key=reads, samples=[sample])
            for (name, written), reads in rows_cut.items()
        ]
    result = dsf.intervene(model, edits=cuts, input_ids=given.tokens)
    return torch.stack(
        [rows(each, given).argmax(dim=-1) == given.answer for each in (result.clean, result.output)]
    )


def patched(model: Any, given: Prompts) -> dict[str, float] | None:
    """How often the answer follows the state of a prompt with the same keys and other values.

    A state does not hold what the convolution of its layer still has of the last tokens: those are
    written after it, from this run. All tokens behind the pairs are the same in both prompts.
    """
    length = 2 * recall.PAIRS
    tokens = given.tokens.clone()
    tokens[:, 1:length:2] = tokens[:, 1:length:2].roll(1, dims=1)
    other = dsf.inspect(model, input_ids=tokens)
    names = [layer.name for layer in other if layer.axes[-1:] != ("head",) or _recurs(layer)]
    if len(names) < len(other):
        return None
    wanted, shares = _answer_of(tokens, given), {}
    for key, token in ((AT_ONCE, length - 1), (FOLLOWS, length - 1 + taps(model) - 1)):
        edits = [StateFrom(name, token, "other") for name in names]
        result = dsf.intervene(model, edits=edits, sources={"other": other}, input_ids=given.tokens)
        answers = rows(result.output, given).argmax(dim=-1)
        shares[key] = _share(answers == wanted)
        shares[key.replace("follow the state", "stay")] = _share(answers == given.answer)
    return shares


def taps(model: Any) -> int:
    """Into how many values the short convolutions of a model write a token; 1 without any."""
    names = ("conv_kernel", "linear_conv_kernel_dim")
    return next((getattr(model.config, name) for name in names if hasattr(model.config, name)), 1)


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
    right, states, where, aside = [], [], [], []
    broken: dict[tuple[str, int], list[Tensor]] = {}
    for given in batches(samples):
        stack = dsf.stack(model, input_ids=given.tokens)
        found, controls = ranked(stack, given)
        where += [edges[0][0] for edges in found]
        for kind, edges in (("largest share", found), ("equal weight", controls)):
            for count in COUNTS:
                first = [several[:count] for several in edges]
                clean, cut = right_without(model, given, first)
                broken.setdefault((kind, count), []).append(~cut[clean])
        clean, cut = right_without(model, given, beside(stack, found))
        aside.append(~cut[clean])
        right.append(clean)
        state = patched(model, given)
        states += [] if state is None else [state]
    result: dict[str, Any] = {"model": name, "prompts": samples, "right": _share(torch.cat(right))}
    result["broken"] = {
        kind: {str(count): _share(torch.cat(broken[kind, count])) for count in COUNTS}
        for kind in ("largest share", "equal weight")
    }
    result["broken"][ASIDE] = _share(torch.cat(aside))
    result["layer of the edge"] = {each: where.count(each) for each in sorted(set(where))}
    for key in states[0] if states else ():
        result[key] = sum(each[key] for each in states) / len(states)
    return result


def as_table(results: Sequence[Mapping[str, Any]]) -> str:
    """Shares of broken prompts by the number of edges cut, and of answers that follow the state."""
    heads = ["model", "right answers"]
    heads += [f"broken, {count} cut" for count in COUNTS]
    heads += [f"control, {count} cut" for count in COUNTS] + ["control at the query, 1 cut"]
    heads += ["follow the state after the last pair", "after its convolution"]
    lines = []
    for result in results:
        shares = [result["right"]]
        for kind in ("largest share", "equal weight"):
            shares += [result["broken"][kind][str(count)] for count in COUNTS]
        shares.append(result["broken"][ASIDE])
        cells = [f"{100 * share:.1f} %" for share in shares]
        cells += [f"{100 * result[key]:.1f} %" if key in result else "–" for key in STATES]
        lines.append([result["model"], *cells])
    return table(heads, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=500)
    samples = parser.parse_args().samples
    results = []
    for name in NAMES:
        results.append(run(name, samples))
        print(json.dumps(results[-1], indent=2), flush=True)
    write_json(FOLDER / "results.json", results)
    put_into(FOLDER / "README.md", as_table(results))


if __name__ == "__main__":
    main()
