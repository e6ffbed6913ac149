"""Half of the key channels: what the choice costs the embedded Mamba-2 and the hybrid.

    python -m experiments.smaller_states.keys

Channels are chosen on 100 sequences and judged on 500 others, by the loss at the answers and by the
share of right ones. The library chooses by the energy of the states times that of the reads
(balanced by forward statistics, as GHOST does, arXiv:2602.11408). Baselines: the norms of the rows
that make a channel, column-pivoted QR of the keys (rank-revealing QR, after arXiv:2602.04852), the
same of the states, whose pivots have the largest norm apart from those before (rank and norm
together, after arXiv:2602.02195), and chance, each with and without fitted output projections.
What ``keys.json`` has is not repeated.
"""

import json
from functools import partial
from itertools import product
from pathlib import Path

import scipy.linalg
import torch
from torch.nn.functional import cross_entropy

import dsf
from dsf.interventions.fewer_keys import best_keys, key_layers
from dsf.loading import load_model
from dsf.models import folder, recall
from experiments.page import table

FOLDER = Path(__file__).parent
MODELS = {"mamba2": (24, 16, 8), "qwen3_next": (12, 8, 4)}
SEEDS = 5


def magnitude(model, channels, states):
    """Channels whose rows of parameters have the largest products of norms."""
    weight = 1.0
    for name, rows in channels.rows:
        part = model.get_submodule(channels.layer).get_parameter(name).detach()
        norms = part.reshape(len(part), -1).norm(dim=-1)[rows]
        weight = weight * norms.unflatten(0, (-1, channels.heads)).prod(dim=0)
    return weight.topk(states, dim=-1).indices.sort(dim=-1).values


def pivoted(channels, states):
    """The first pivots of a QR decomposition of the keys of each head."""
    pivots = [
        scipy.linalg.qr(keys.numpy(), mode="r", pivoting=True)[1][:states] for keys in channels.keys
    ]
    return torch.stack([torch.as_tensor(each).long().sort().values for each in pivots])


def observed(model, tokens):
    """States of every layer on data, with the axes (value head, sample, channel)."""
    found = {}
    for layer in dsf.inspect(model, input_ids=tokens, checks="none"):
        if layer.name in key_layers(model):
            held = layer.system.states(layer.signal).transpose(0, 1).mT
            found[layer.name] = held.flatten(1, 3)
    return found


def independent(seen, channels, states):
    """The first pivots of a QR decomposition of the states of each key head."""
    heads = seen[channels.layer].unflatten(0, (channels.heads, -1)).flatten(1, 2)
    pivots = [
        scipy.linalg.qr(each[::7].numpy(), mode="r", pivoting=True)[1][:states] for each in heads
    ]
    return torch.stack([torch.as_tensor(each).long().sort().values for each in pivots])


def drawn(channels, states, *, seed):
    """Channels at random."""
    rng = torch.Generator().manual_seed(seed)
    return torch.stack(
        [
            torch.randperm(channels.states, generator=rng)[:states].sort().values
            for _ in range(channels.heads)
        ]
    )


@torch.no_grad()
def loss(model, judged):
    """Loss per answer."""
    logits = model(input_ids=judged.tokens).logits
    return cross_entropy(logits.flatten(0, 1), judged.targets.flatten()).item()


def measured(name, known):
    """Loss, right answers and largest error of a layer for every number of channels and way.

    Args:
        known: rows that were measured before.
    """
    model = load_model(folder(name)).model.eval()
    data = [recall.draw(torch.Generator().manual_seed(1), 100).tokens]
    judged = recall.draw(torch.Generator().manual_seed(2), 500)
    seen = observed(model, data[0])
    ways = {
        "balanced": [best_keys],
        "magnitude": [partial(magnitude, model)],
        "pivoted QR": [pivoted],
        "rank and norm": [partial(independent, seen)],
        "random": [partial(drawn, seed=seed) for seed in range(SEEDS)],
    }
    old = {(row.get("states"), row["way"], row.get("fitted")): row for row in known}
    whole = {"model": name, "way": "whole"}
    if (None, "whole", None) not in old:
        whole |= {"loss": loss(model, judged), "right": recall.accuracy(model, judged)}
    found = [old.get((None, "whole", None), whole)]
    products = None
    for states, way, fitted in product(MODELS[name], ways, (False, True)):
        if (states, way, fitted) in old:
            found.append(old[states, way, fitted])
            continue
        runs = []
        for choose in ways[way]:
            options = {"states": states, "choose": choose, "projected": fitted}
            smaller = dsf.reduce_states(model, data, products=products, **options)
            products = smaller.products
            score = loss(smaller.model, judged), recall.accuracy(smaller.model, judged)
            runs.append((*score, smaller.error))
        mean = [sum(each) / len(runs) for each in zip(*runs, strict=True)]
        row = dict(zip(("loss", "right", "error"), mean, strict=True))
        found.append({"model": name, "states": states, "way": way, "fitted": fitted, **row})
        print(found[-1], flush=True)
    return found


def main():
    torch.set_num_threads(1)
    path = FOLDER / "keys.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rows = []
    for name in MODELS:
        rows += measured(name, [row for row in known if row["model"] == name])
        rest = [row for row in known if row["model"] not in {each["model"] for each in rows}]
        path.write_text(json.dumps([*rows, *rest], indent=1) + "\n", encoding="utf-8")
    print(
        table(
            ("model", "channels", "chosen by", "outputs fitted", "loss", "right", "error"),
            (
                [
                    row["model"],
                    str(row.get("states", "all")),
                    row["way"],
                    {True: "yes", False: "no"}.get(row.get("fitted"), ""),
                    f"{row['loss']:.4f}",
                    f"{100 * row['right']:.1f} %",
                    f"{row.get('error', 0):.2f}",
                ]
                for row in rows
            ),
        )
    )


if __name__ == "__main__":
    main()
