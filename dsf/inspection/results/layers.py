"""What an inspection found: layers with their systems, and what it could not read."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, overload

from jaxtyping import Float, Shaped
from torch import Tensor

from dsf.composite import Operator
from dsf.evaluate import attention_map
from dsf.evaluate.maps import Selection
from dsf.inspection.capture.integrity import Fingerprint
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.mixers import Mixer

if TYPE_CHECKING:
    from dsf.inspection.results.table import Table


@dataclass(frozen=True, eq=False, repr=False)
class InspectedLayer:
    """One token mixer of a model on one input, rebuilt and compared.

    Attributes:
        name: where it sits in the model, such as ``model.layers.0.self_attn``.
        family: whose equations were read, such as ``mamba2``.
        mixer: the coefficients, in float64.
        axes: what the batch axes of the system count, such as ``("sample", "head")``.
        error: largest difference between rebuilt and captured output over the largest captured.
        tolerance: what ``error`` was held against; an inspection with a larger one raises.
        fingerprint: of the mixer as it was compared; without one nothing is checked later.
        shell: builds the whole layer around the mixer; None where it is not known as a whole.
    """

    name: str
    family: str
    mixer: Mixer
    axes: tuple[str, ...]
    error: float
    tolerance: float
    fingerprint: Fingerprint | None = None
    shell: Callable[[], AffineLayer] | None = None
    formula: float = math.nan
    rounding: float = math.nan
    compared_with: str = ""

    @property
    def system(self) -> Operator:
        """The mixer as a linear time-varying system.

        Linear in its signal, given its coefficients.

        Raises:
            ReconstructionError: if the mixer was altered after it was compared with the layer.
        """
        self._check_unaltered()
        return self._system

    @property
    def signal(self) -> Shaped[Tensor, "*batch time input channel"]:
        """What drove the system in this run."""
        self._check_unaltered()
        return self.mixer.signal()

    def map(self, rows: Selection | None = None) -> Shaped[Tensor, "*batch rows columns"]:
        """The attention map of the layer, or some of its rows.

        Raises:
            MapTooLarge: if it would take more than half of the free memory.
            ReconstructionError: if the mixer was altered after it was compared with the layer.
        """
        return attention_map(self.system, rows)

    @cached_property
    def whole(self) -> AffineLayer:
        """The layer from its input to its output: convolution, activation, scan, gate and norm.

        Affine, given this run.

        Raises:
            InspectionError: if only the mixer of this layer is known.
            ReconstructionError: if it does not reproduce the layer's output.
        """
        self._check_unaltered()
        if self.shell is None:
            raise InspectionError(
                f"{self.name}: of a layer of the family '{self.family}' only the mixer is known, "
                "not what the module does around it. layer.map() gives the mixer's map."
            )
        return self.shell()

    def mixer_map(
        self, rows: Selection | None = None
    ) -> Float[Tensor, "sample channel rows columns"]:
        """The map of the whole layer, one for every channel, or some of its rows.

        See ``WholeMixer.map``; ``layer.whole`` also has the remainder and the contributions.

        Raises:
            MapTooLarge: if it would take more than half of the free memory.
            InspectionError: if only the mixer of this layer is known, or its channels mix.
        """
        return self.whole.map(rows)

    @cached_property
    def _system(self) -> Operator:
        return self.mixer.system()

    def _check_unaltered(self) -> None:
        if self.fingerprint is not None and not self.fingerprint.matches(self.mixer):
            raise ReconstructionError(
                f"{self.name}: its mixer was altered after it was compared with the layer, so the "
                f"error of {self.error:.1e} is not that of this mixer. Inspect the model again; to "
                "ask what a change would do, build the mixer yourself (dataclasses.replace) and "
                "take its system()."
            )

    def __repr__(self) -> str:
        mixer = type(self.mixer).__name__
        return f"InspectedLayer({self.name}: {self.family} as {mixer}, error {self.error:.1e})"

    def _repr_html_(self) -> str:
        from dsf.inspection.results.notebook_tables import layer_table

        return layer_table(self)


@dataclass(frozen=True)
class Unsupported:
    """A token mixer that was seen but not read, and why.

    Attributes:
        formula: for a layer that was rebuilt and did not come out right, by how much, relative;
            NaN where nothing could be compared, None where no rebuilding was tried.
    """

    name: str
    kind: str
    reason: str
    formula: float | None = None


@dataclass(frozen=True, eq=False, repr=False)
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

    @overload
    def __getitem__(self, index: int) -> InspectedLayer: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[InspectedLayer, ...]: ...
    def __getitem__(self, index: int | slice) -> InspectedLayer | tuple[InspectedLayer, ...]:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)

    def __iter__(self) -> Iterator[InspectedLayer]:
        return iter(self.layers)

    def measure(self) -> "Table":
        """Every quantity of every map: one record for each layer, batch index and quantity."""
        from dsf.inspection.results.measurements import measured

        return measured(self.layers)

    def __repr__(self) -> str:
        lines = [f"Inspection({self.model}: {len(self.layers)} layers)"]
        width = max((len(layer.name) for layer in self.layers), default=0)
        lines += [
            f"  {layer.name:{width}}  {layer.family} as {type(layer.mixer).__name__}, "
            f"error {layer.error:.1e}"
            for layer in self.layers
        ]
        lines += [f"  not read: {missed.name} ({missed.reason})" for missed in self.unsupported]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        from dsf.inspection.results.notebook_tables import inspection_table

        return inspection_table(self)
