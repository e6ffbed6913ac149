"""What the laws of an adapter are measured on: a model and its inputs, cut, padded and re-drawn."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.adapters import known_modules
from dsf.inspection.errors import InspectionError
from dsf.inspection.examine import Question, examine
from dsf.inspection.probing import Probe
from dsf.inspection.redrawing import redraw
from dsf.inspection.result import InspectedLayer

MASK = "attention_mask"
PADDED = 3
"""One token in so many is padding."""


@dataclass(frozen=True, eq=False)
class Subject:
    """A model whose modules an adapter reads, and one call of it.

    Attributes:
        time: the axis of the inputs that counts tokens.
        label: what was changed, for a witness.
    """

    adapter: Adapter
    model: nn.Module
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    time: int = 1
    label: Mapping[str, Any] = field(default_factory=dict)
    _exact: list[list[InspectedLayer]] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Where the modules sit that the adapter reads."""
        return list(self._known)

    @property
    def family(self) -> str:
        """The family of the first of them."""
        return next(iter(self._known.values()))

    @cached_property
    def _known(self) -> dict[str, str]:
        known = known_modules(self.model, (self.adapter,))
        return {path: family for path, (one, family) in known.items() if one is self.adapter}

    @property
    def steps(self) -> int:
        """Tokens of the call."""
        sizes = [part.shape[self.time] for part in self._tensors() if part.ndim > self.time]
        if not sizes:
            raise InspectionError(
                f"check_adapter: none of the inputs has an axis {self.time} that counts tokens. "
                "Pass what the model is called with, and time=... if it is another axis."
            )
        return sizes[0]

    def exact_layers(self) -> list[InspectedLayer]:
        """The layers of the adapter's modules in float64, whatever their error; read once."""
        if not self._exact:
            self._exact.append(self.layers(exact=True))
        return self._exact[0]

    def layers(
        self, *, exact: bool, probe: Mapping[str, Probe] | None = None
    ) -> list[InspectedLayer]:
        """The layers of the adapter's modules, whatever their error."""
        question = Question(
            inputs=self.inputs,
            named=dict(self.named),
            exact=exact,
            tolerance=float("inf"),
            adapters=(self.adapter,),
            probe=probe or {},
        )
        names = [path or type(self.model).__name__ for path in self.paths]
        return [layer for layer in examine(self.model, question) if _is_of(layer.name, names)]

    def redrawn(self, seed: int) -> "Subject":
        """The same with parameters that make it mix."""
        model = copy.deepcopy(self.model)
        redraw(model, torch.Generator().manual_seed(seed))
        return self._changed({"parameters": "drawn anew"}, model=model)

    def lengths(self) -> Iterator["Subject"]:
        """The beginnings of the call, down to one token."""
        for steps in sorted({1, 2, self.steps // 2 + 1, self.steps}):
            yield self._cut(slice(0, steps), self.time, self.steps, {"tokens": steps})

    def samples(self) -> Iterator["Subject"]:
        """Every sample alone."""
        axis = 0 if self.time else 1
        count = next(iter(self._tensors())).shape[axis]
        for k in range(count):
            yield self._cut(slice(k, k + 1), axis, count, {"sample": k})

    def padded(self) -> Iterator["Subject"]:
        """With some tokens of the first sample as padding, in front and behind; for a model that
        was called with an attention mask."""
        mask = self.named.get(MASK)
        if isinstance(mask, Tensor) and mask.ndim == 2 and self.steps >= PADDED:
            some = self.steps // PADDED
            for side, tokens in (("left", slice(0, some)), ("right", slice(-some, None))):
                changed = mask.clone()
                changed[0, tokens] = 0
                yield self._changed({"padding": side}, named={**self.named, MASK: changed})

    def _tensors(self) -> Iterator[Tensor]:
        for part in (*self.inputs, *self.named.values()):
            if isinstance(part, Tensor):
                yield part

    def _cut(self, kept: slice, axis: int, size: int, label: Mapping[str, Any]) -> "Subject":
        def cut(part: Any) -> Any:
            has = isinstance(part, Tensor) and part.ndim > axis and part.shape[axis] == size
            return part.movedim(axis, 0)[kept].movedim(0, axis) if has else part

        named = {name: cut(part) for name, part in self.named.items()}
        return self._changed(label, inputs=tuple(map(cut, self.inputs)), named=named)

    def _changed(self, label: Mapping[str, Any], **changes: Any) -> "Subject":
        return replace(self, label={**self.label, **label}, _exact=[], **changes)


def _is_of(name: str, modules: list[str]) -> bool:
    """Whether a layer belongs to one of the modules: a call, or a part of it."""
    return any(name == path or name.startswith((f"{path}[", f"{path} (call")) for path in modules)
