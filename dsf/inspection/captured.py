"""One call of one module: its weights, its arguments and what it put out, in float64."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Inexact
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from dsf.inspection.chain import Project
from dsf.inspection.errors import InspectionError
from dsf.inspection.seal import version
from dsf.inspection.surroundings import Surroundings


@dataclass(frozen=True, eq=False)
class Captured:
    """What an adapter is given.

    Attributes:
        name: where the module sits in the model.
        family: whose equations it follows, as the adapter lists it.
        module: the module itself, for settings that are no tensors (never call it).
        weights: parameters and buffers by name, floating ones in float64.
        arguments: the bound arguments of the call, floating tensors in float64.
        output: what the module put out, in float64.
        surroundings: what an attention's module does around it, where that was recognised.
    """

    name: str
    family: str
    module: Any
    weights: Mapping[str, Tensor]
    arguments: Mapping[str, Any]
    output: Tensor
    surroundings: Surroundings | None = None

    def project(self, name: str, x: Inexact[Tensor, "*axes"]) -> Inexact[Tensor, "*outputs"]:
        """``x`` through the linear map ``name.weight`` and, where there is one, ``name.bias``."""
        return self.projection(name)(x)

    def projection(self, name: str) -> Project:
        """The linear map ``name`` as a stage."""
        return Project(self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def replaced(self, **changes: Any) -> "Captured":
        """A copy with some parts exchanged."""
        return replace(self, **changes)


def raised(value: Any) -> Any:
    """Floating tensors in float64, detached; everything else as it is."""
    if isinstance(value, Tensor):
        value = value.detach()
        return value.to(torch.float64) if value.is_floating_point() else value
    if isinstance(value, PackedSequence):
        return value._replace(data=raised(value.data))
    if isinstance(value, tuple | list):
        return (
            type(value)(raised(part) for part in value) if type(value) in (tuple, list) else value
        )
    return value


class Weights(Mapping[str, Tensor]):
    """Parameters and buffers of a module by name, floating ones in float64 when they are looked at.

    They are not copied, unless asked for: a model need not fit into memory twice. One that was
    written into since is no longer that of the run and is refused.
    """

    def __init__(self, module: nn.Module, *, copied: bool = False):
        named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self._parts = {name: part.clone() if copied else part for name, part in named.items()}
        self._versions = {name: version(part) for name, part in self._parts.items()}

    def __getitem__(self, name: str) -> Tensor:
        part = self._parts[name]
        if version(part) != self._versions[name]:
            raise InspectionError(
                f"the weight '{name}' was written into since the model was inspected: inspect it "
                "again."
            )
        return raised(part)

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)
