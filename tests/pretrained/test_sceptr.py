"""Sixteen checkpoints of one transformer, trained in different ways on T-cell receptors.

sceptr 1.2.0 (MIT), Nagano et al. 2025, doi:10.1016/j.cels.2024.12.006. A receptor is a set of
amino acids; each is told by its kind, its place in its loop and its loop.
"""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import dsf
from tests.pretrained.fetch import VARIANTS

WEIGHTS = "sceptr"
HEADS, LOOPS = 8, (3, 6)  # the third loops of both chains
AMINO_ACIDS, START, EMPTY = "ACDEFGHIKLMNPQRSTVWY", 2, 0
RECEPTORS = [  # those of the package's documentation: the first and the last resemble each other
    ("CAHRSAGGGTSYGKLTF", "CASSEFQGDNEQFF"),
    ("CAVDNARLMF", "CASSDGSFNEQFF"),
    ("CAERIRKGQVLTGGGNKLTF", "CASSVGDLLTGELFF"),
    ("CAYRSAGGGTSYGKLTF", "CASSPGTGGNEQYF"),
]


def tokens(loops, kinds):
    """Kind, place in the loop (0 to 1) and loop of every amino acid; rows are filled up."""
    single = kinds == 3  # models of one chain number its loops 1 to 3
    numbers = {2: (1, 2), 6: (3, 6)}.get(kinds, (3,))
    rows = []
    for receptor in loops:
        row = [(START, 0.0, 0)]
        for loop, number in zip(receptor[-1:] if single else receptor, numbers, strict=True):
            steps = np.linspace(0, 1, len(loop))
            row += [
                (3 + AMINO_ACIDS.index(a), at, number) for a, at in zip(loop, steps, strict=True)
            ]
        rows.append(row)
    longest = max(map(len, rows))
    full = [row + [(EMPTY, 0.0, 0)] * (longest - len(row)) for row in rows]
    return torch.tensor(full)


class Receptors(nn.Module):
    """A receptor becomes the vector of its first token, of length one."""

    def __init__(self, saved):
        super().__init__()
        parts = {name.replace("_standard_stack.", ""): part for name, part in saved.items()}
        here = {name: part for name, part in parts.items() if name.startswith("_token_embedder")}
        body = "_self_attention_stack._self_attention_stack."
        layers = {
            name.removeprefix(body): part for name, part in parts.items() if name.startswith(body)
        }
        width, depth = layers["layers.0.norm1.weight"].numel(), len(layers) // 12
        layer = nn.TransformerEncoderLayer(width, HEADS, 4 * width, batch_first=True)
        self.stack = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.stack.load_state_dict(layers)
        project = parts.get("_self_attention_stack._initial_projector.weight")
        waves = here.get("_token_embedder.position_embedding.position_embedding_matrix")
        names = ("kinds", "loops", "project", "waves")
        for name, part in zip(names, (*tables(here), project, waves), strict=True):
            self.register_buffer(name, part)
        unused = parts.keys() - here.keys() - {body + name for name in layers}
        assert {name.split(".")[0] for name in unused} <= {
            "_mlm_token_prediction_projector",
            "_self_attention_stack",
        }

    def forward(self, x):
        kind, place, loop = x[..., 0].long(), x[..., 1:2], x[..., 2].long()
        if self.waves is None:
            told = torch.cat([self.kinds[kind], place.to(self.kinds), self.loops[loop]], dim=-1)
            told = told @ self.project.T
        else:
            counted = torch.where(loop > 0, place_in_loop(loop), 0)
            told = (self.kinds[kind] + self.waves[counted] + self.loops[loop]) * 8
        mixed = self.stack(told, src_key_padding_mask=kind == EMPTY)
        return nn.functional.normalize(mixed[:, 0], dim=-1)


def place_in_loop(loop):
    """1 for the first amino acid of a loop, 2 for the next."""
    counts = torch.ones_like(loop)
    for at in range(1, loop.shape[1]):
        same = loop[:, at] == loop[:, at - 1]
        counts[:, at] = torch.where(same, counts[:, at - 1] + 1, 1)
    return counts


def tables(parts):
    """The vectors of the kinds and of the loops."""
    ours = {name.removeprefix("_token_embedder."): part for name, part in parts.items()}
    if "_blosum_embedding._blosum_embeddings" in ours:
        kinds = ours["_blosum_embedding._blosum_embeddings"].clone()
        kinds[:3] += ours["_blosum_embedding._special_token_embeddings.weight"]
    elif "token_embedding.weight" in ours:
        return ours["token_embedding.weight"], ours["compartment_embedding.weight"]
    else:
        kinds = ours["_token_embedding._token_embeddings"]
    return kinds, ours["_compartment_embedding._token_embeddings"]


@pytest.fixture(scope="module", params=VARIANTS)
def model(request, weights):
    path = weights / request.param / "state_dict.pt"
    return Receptors(torch.load(path, weights_only=True)).eval()


@pytest.fixture(scope="module")
def receptors(model):
    return tokens(RECEPTORS, len(model.loops) - 1)


@pytest.mark.sampled(count=4)
def test_every_layer_is_exact(model, receptors):
    inspection = dsf.inspect(model, receptors)
    assert len(inspection) == len(model.stack.layers)
    listed = [one.name for one in inspection.unsupported]
    assert listed == ([] if model.waves is None else ["Receptors"])  # places count equal neighbours
    for layer in inspection:
        assert layer.formula <= 1e-12
        assert layer.rounding < 1e-5
        assert tuple(layer.system.batch) == (len(RECEPTORS), HEADS)


def softmax(scores):
    powers = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def norm(x, layer):
    apart = x - x.mean(axis=-1, keepdims=True)
    return apart / np.sqrt((apart**2).mean(axis=-1, keepdims=True) + 1e-5) * layer[0] + layer[1]


def attended(x, state, at):
    """One head after the other, as the attention paper has it: the maps and the output."""
    wide, bias = state[f"{at}.in_proj_weight"], state[f"{at}.in_proj_bias"]
    query, key, value = np.split(x @ wide.T + bias, 3, axis=-1)
    maps, out, width = [], [], x.shape[-1] // HEADS
    for head in range(HEADS):
        own = slice(head * width, (head + 1) * width)
        maps.append(softmax(query[:, own] @ key[:, own].T / np.sqrt(width)))
        out.append(maps[-1] @ value[:, own])
    mixed = np.concatenate(out, axis=-1) @ state[f"{at}.out_proj.weight"].T
    return maps, mixed + state[f"{at}.out_proj.bias"]


@pytest.mark.sampled(count=4)
def test_maps_are_those_of_the_formula(model, receptors):
    """NumPy in float64 on one receptor without its empty places, from the weights of the file."""
    longest = int((receptors[..., 0] != EMPTY).sum(-1).argmax())
    alone = receptors[longest : longest + 1]
    assert (alone[..., 0] != EMPTY).all()
    wide, entered = deepcopy(model).double(), []
    wide.stack.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    inspection = dsf.inspect(model, alone, exact=True)
    with torch.no_grad():
        told = wide(alone)[0].numpy()
    state = {name: part.numpy() for name, part in wide.stack.state_dict().items()}
    x = entered[0][0].numpy()
    for number, layer in enumerate(inspection):
        at = f"layers.{number}"
        maps, mixed = attended(x, state, f"{at}.self_attn")
        np.testing.assert_allclose(layer.map()[0].numpy(), np.stack(maps), rtol=0, atol=1e-12)
        x = norm(x + mixed, [state[f"{at}.norm1.{end}"] for end in ("weight", "bias")])
        inner = np.maximum(x @ state[f"{at}.linear1.weight"].T + state[f"{at}.linear1.bias"], 0)
        fed = inner @ state[f"{at}.linear2.weight"].T + state[f"{at}.linear2.bias"]
        x = norm(x + fed, [state[f"{at}.norm2.{end}"] for end in ("weight", "bias")])
    np.testing.assert_allclose(told, x[0] / np.linalg.norm(x[0]), rtol=0, atol=1e-12)


def test_like_receptors_are_closer_to_the_published_one(weights):
    model = Receptors(torch.load(weights / "SCEPTR/state_dict.pt", weights_only=True)).eval()
    with torch.no_grad():
        vectors = model(tokens(RECEPTORS, 6))
    near = (vectors @ vectors.T).fill_diagonal_(-1)
    assert near[0].argmax() == 3
