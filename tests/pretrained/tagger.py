"""typeseg's tagger of bytes, rebuilt: six Mamba layers, each of which scans the text both ways.

typeseg 0.2.7 (Apache-2.0): width 256, 16 states for each channel, 35 kinds of text.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import conv1d, pad, silu, softplus

import dsf
from dsf.evaluate.scans import in_scan_order, scanned
from dsf.inspection.whole.stages import Chain, Filter, Project, Scale
from dsf.mixers import Mixer
from tests.mixers.mixer_fields import tensors

LAYERS, WIDTH, STATES, RANK = 6, 256, 16, 16
FOREIGN, KNOWN = 128, {9, 10, 13, *range(0x20, 0x7F)}


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Return the arrays of an ``.npz`` file as tensors; Python objects in it are refused."""
    with np.load(path, allow_pickle=False) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


class BothWays(nn.Module):
    """One Mamba mixer whose scan over the tokens and scan back are added."""

    def __init__(self, states=STATES):
        super().__init__()
        self.states = states
        self.inner = nn.Linear(WIDTH, 2 * WIDTH)
        self.filter = nn.Conv1d(WIDTH, WIDTH, 4, groups=WIDTH)
        self.chosen = nn.Linear(WIDTH, RANK + 2 * states)
        self.step = nn.Linear(RANK, WIDTH)
        self.outer = nn.Linear(WIDTH, WIDTH)
        self.A_log = nn.Parameter(torch.zeros(WIDTH, states))
        self.D = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        value, gate = self.inner(x).chunk(2, dim=-1)
        value = silu(self.filter(pad(value.mT, (1, 2))).mT)
        rank, write, read = self.chosen(value).split([RANK, self.states, self.states], dim=-1)
        parts = (value, softplus(self.step(rank)) + 1e-4, write, read)
        back = self.scan(*(part.flip(1) for part in parts)).flip(1)
        return self.outer((self.scan(*parts) + back) * silu(gate))

    def scan(self, value, step, write, read):
        """The recurrence as it is written, token by token."""
        pole, state, out = -self.A_log.exp(), 0, []
        for t in range(value.shape[1]):
            now = step[:, t, :, None]
            state = (now * pole).exp() * state + now * value[:, t, :, None] * write[:, t, None]
            out.append((state * read[:, t, None]).sum(-1) + self.D * value[:, t])
        return torch.stack(out, dim=1)


class Tagger(nn.Module):
    """The kind of every byte of a text, as scores."""

    def __init__(self, saved=None, *, states=STATES):
        super().__init__()
        self.bytes = nn.Embedding(130, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH, eps=1e-6) for _ in range(LAYERS + 1))
        self.mixers = nn.ModuleList(BothWays(states) for _ in range(LAYERS))
        self.kind = nn.Linear(WIDTH, 35)
        if saved is not None:
            self.load_state_dict(renamed(saved))

    def forward(self, ids):
        x = self.bytes(ids)
        for norm, mixer in zip(self.norms, self.mixers, strict=False):
            x = x + mixer(norm(x))
        return self.kind(self.norms[-1](x))


OURS = {
    "LayerNorm_0": "norm",
    "Conv_0": "filter",
    "Dense_0": "inner",
    "Dense_1": "chosen",
    "Dense_2": "step",
    "Dense_3": "outer",
}


def renamed(saved):
    """The weights under our names; a name that has no place here raises where they are loaded."""
    found = {
        "bytes.weight": saved["Embed_0__embedding"],
        f"norms.{LAYERS}.weight": saved["LayerNorm_0__scale"],
        f"norms.{LAYERS}.bias": saved["LayerNorm_0__bias"],
        "kind.weight": saved["Dense_0__kernel"].T,
        "kind.bias": saved["Dense_0__bias"],
    }
    for name, part in saved.items():
        block, *rest = name.split("__")
        if not block.startswith("CheckpointMambaBlock1D_"):
            continue
        number, kind = block.rpartition("_")[2], rest[-1]
        owner = OURS.get(rest[0], "")
        place = f"norms.{number}" if owner == "norm" else f"mixers.{number}.{owner}".rstrip(".")
        end = {"kernel": "weight", "scale": "weight"}.get(kind, kind)
        found[f"{place}.{end}"] = (
            part.permute(*reversed(range(part.ndim))) if kind == "kernel" else part
        )
    return found


def encoded(text):
    """The numbers that stand for a text's bytes: ASCII as it is, everything else as one."""
    return torch.tensor([[each if each in KNOWN else FOREIGN for each in text.encode("utf-8")]])


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ScannedBothWays(Mixer):
    """The selective scan of one layer over the tokens, and the same scan back."""

    value: Tensor
    step: Tensor
    pole: Tensor
    write: Tensor
    read: Tensor
    feedthrough: Tensor

    def system(self):
        steps = self.value.shape[-2]
        along = {"value": self.value, "step": self.step, "write": self.write, "read": self.read}
        parts = []
        for order in (torch.arange(steps), torch.arange(steps).flip(0)):
            turned = {name: in_scan_order(part, order, -2) for name, part in along.items()}
            mixer = dsf.mixers.SelectiveStateSpace(
                **turned, pole=self.pole, feedthrough=self.feedthrough
            )
            parts.append((mixer.system(), order))
        return scanned(*parts)

    def signal(self):
        return self.value.mT[..., None, None]

    @classmethod
    def draw(cls, rng, *, steps):
        drawn = dsf.mixers.SelectiveStateSpace.draw(rng, steps=steps)
        return cls(**tensors(drawn))


def read(layer):
    """The two scans, recomputed from the parameters and the input of one mixer."""
    weights = layer.weights
    value = layer.project("inner", layer.arguments["x"])[..., :WIDTH]
    filter = weights["filter.weight"], weights["filter.bias"]
    value = silu(conv1d(pad(value.mT, (1, 2)), *filter, groups=WIDTH).mT)
    states = layer.module.states
    rank, write, read = layer.project("chosen", value).split([RANK, states, states], dim=-1)
    return ScannedBothWays(
        value=value,
        step=softplus(layer.project("step", rank)) + 1e-4,
        pole=-weights["A_log"].exp(),
        write=write,
        read=read,
        feedthrough=weights["D"],
    )


def enter(layer):
    """From the input to what is scanned: the projection, the filter, the activation's factor."""
    rows = Project(layer.weights["inner.weight"][:WIDTH], layer.weights["inner.bias"][:WIDTH])
    kernel, bias = layer.weights["filter.weight"].squeeze(1), layer.weights["filter.bias"]
    linear = Chain((rows, Filter(kernel, bias, ahead=2)))
    filtered = linear(layer.arguments["x"])
    return Chain((*linear, Scale(silu(filtered) / filtered)))


def leave(layer, _):
    """From the sum of the scans to the output: times the activated gate, then projected."""
    gate = silu(layer.project("inner", layer.arguments["x"])[..., WIDTH:])
    return Chain((Scale(gate), layer.projection("outer")))


ADAPTER = dsf.Adapter(
    families={f"{BothWays.__module__}.BothWays": "typeseg"},
    read=read,
    enter=enter,
    leave=leave,
    takes="x",
    axes=("sample", "channel"),
)
