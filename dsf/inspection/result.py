"""What an inspection found: layers with their systems, and what it could not read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from jaxtyping import Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate import attention_map
from dsf.evaluate.maps import Selection
from dsf.mixers import Mixer


@dataclass(frozen=True, eq=False)
class InspectedLayer:
    """One token mixer of a model on one input, rebuilt and compared.

    Attributes:
        name: where it sits in the model, such as ``model.layers.0.self_attn``.
        family: whose equations were read, such as ``mamba2``.
        mixer: the coefficients, in float64.
        axes: what the batch axes of the system count, such as ``("sample", "head")``.
        error: largest difference between rebuilt and captured output over the largest captured.
        tolerance: what ``error`` was held against; an inspection with a larger one raises.
    """

    name: str
    family: str
    mixer: Mixer
    axes: tuple[str, ...]
    error: float
    tolerance: float

    @cached_property
    def system(self) -> Operator:
        """The mixer as a linear time-varying system; linear in its signal, given its coefficients."""
        return self.mixer.system()

    @cached_property
    def signal(self) -> Shaped[Tensor, "*batch time input channel"]:
        """What drove the system in this run."""
        return self.mixer.signal()

    def map(self, rows: Selection | None = None) -> Shaped[Tensor, "*batch rows columns"]:
        """The attention map of the layer, or some of its rows."""
        return attention_map(self.system, rows)

    def __repr__(self) -> str:
        mixer = type(self.mixer).__name__
        return f"InspectedLayer({self.name}: {self.family} as {mixer}, error {self.error:.1e})"


@dataclass(frozen=True)
class Unsupported:
    """A token mixer that was seen but not read, and why."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False)
class Inspection(Sequence[InspectedLayer]):
    """All token mixers of a model on one input, in the order in which they ran.

    Attributes:
        layers: what was read; iterating over the inspection gives these.
        unsupported: what was seen and not read, with reasons.
        model: a name for the model: its class, folder or hub id.
        tokens: the text of every token of every sample, where known.
        environment: versions, dtype, device and settings the run depends on.
    """

    layers: tuple[InspectedLayer, ...]
    unsupported: tuple[Unsupported, ...] = ()
    model: str = ""
    tokens: tuple[tuple[str, ...], ...] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, index):  # type: ignore[no-untyped-def]  # a slice gives a tuple
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[InspectedLayer]:
        return iter(self.layers)

    def __repr__(self) -> str:
        lines = [f"Inspection({self.model}: {len(self.layers)} layers)"]
        lines += [f"  {layer!r}" for layer in self.layers]
        lines += [f"  not read: {missed.name} ({missed.reason})" for missed in self.unsupported]
        return "\n".join(lines)
