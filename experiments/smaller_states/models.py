"""The models that are made smaller: how they are built with fewer states, data, a score."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div

import dsf
from dsf.loading import load_model
from dsf.models import folder, recall
from tests.pretrained.fetch import found
from tests.pretrained.tagger import ADAPTER, Tagger, encoded, read_arrays

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("py", "md", "toml", "json", "js", "css", "cff", "yml")
PASSAGE, MOST, MANY = 160, 4, 16
"""Bytes of a passage, and how many passages of one kind of file there are by default and here."""


class Subject(Protocol):
    """A trained model, data to choose states on, and a score on other data."""

    name: str
    orders: tuple[int, ...]
    adapters: tuple[dsf.Adapter, ...]
    data: Sequence[Any]

    @property
    def model(self) -> nn.Module: ...

    def build(self, weights: Mapping[str, Tensor], states: int) -> nn.Module: ...

    def score(self, model: nn.Module) -> dict[str, float]: ...


@dataclass
class RecallModel:
    """The embedded Mamba on the task that it was trained on."""

    name: str = "mamba"
    orders: tuple[int, ...] = (8, 4, 2)
    adapters: tuple[dsf.Adapter, ...] = ()

    def __post_init__(self) -> None:
        self.model = load_model(folder("mamba")).model.eval()
        self.data = [recall.draw(torch.Generator().manual_seed(1), 100).tokens]
        self.held_out = recall.draw(torch.Generator().manual_seed(2), 500)

    def build(self, weights: Mapping[str, Tensor], states: int) -> nn.Module:
        """The same class of transformers, with another number of states in its configuration."""
        config = copy.deepcopy(self.model.config)
        config.state_size = states
        made: nn.Module = type(self.model)(config).eval()
        made.load_state_dict(weights)
        return made

    def score(self, model: nn.Module) -> dict[str, float]:
        """Right answers, and nats that each takes."""
        with torch.no_grad():
            logits = model(self.held_out.tokens).logits
        asked = self.held_out.targets != recall.SILENT
        right = (logits.argmax(dim=-1) == self.held_out.targets)[asked]
        loss = cross_entropy(logits[asked], self.held_out.targets[asked])
        return {"right": right.double().mean().item(), "loss": loss.item()}


@dataclass
class TagModel:
    """typeseg's tagger of bytes, on passages of this repository's own files."""

    name: str = "typeseg"
    orders: tuple[int, ...] = (8, 4)
    adapters: tuple[dsf.Adapter, ...] = (ADAPTER,)

    def __post_init__(self) -> None:
        weights = found("typeseg")
        if weights is None:
            raise FileNotFoundError("the weights of typeseg were not fetched: run make pretrained")
        self.model = Tagger(read_arrays(weights / "data" / "mamba_al.npz")).eval()
        passages = passages_of(ROOT, most=MANY)
        self.data = [torch.cat(passages[0::2][k : k + 8]) for k in range(0, len(passages) // 2, 8)]
        self.held_out = torch.cat(passages[1::2])
        with torch.no_grad():
            self.tags = self.model(self.held_out).log_softmax(dim=-1)

    def build(self, weights: Mapping[str, Tensor], states: int) -> nn.Module:
        """The same class with another number of states."""
        made = Tagger(states=states).eval()
        made.load_state_dict(weights)
        return made

    def score(self, model: nn.Module) -> dict[str, float]:
        """Tags that are those of the model itself, and how far its probabilities have moved."""
        with torch.no_grad():
            scores = model(self.held_out).log_softmax(dim=-1)
        same = (scores.argmax(dim=-1) == self.tags.argmax(dim=-1)).double().mean().item()
        moved = kl_div(scores, self.tags, log_target=True, reduction="sum") / same_size(scores)
        return {"same": same, "loss": moved.item()}


def same_size(scores: Tensor) -> int:
    """How many tags there are."""
    return scores.shape[:-1].numel()


def passages_of(root: Path, *, most: int = MOST) -> list[Tensor]:
    """A passage from the middle of the first files of each kind, by name."""
    made = []
    for kind in KINDS:
        files = sorted(
            path
            for path in root.glob(f"*/**/*.{kind}")
            if not any(part.startswith((".", "_")) for part in path.relative_to(root).parts)
        )
        long = [path for path in files if path.stat().st_size > 2 * PASSAGE]
        for path in long[:: max(1, len(long) // most)][:most]:
            text = path.read_text(encoding="utf-8", errors="replace")
            start = len(text) // 3
            ids = encoded(text[start : start + 2 * PASSAGE])[:, :PASSAGE]
            if ids.shape[1] == PASSAGE:
                made.append(ids)
    return made
