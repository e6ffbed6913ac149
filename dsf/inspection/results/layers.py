"""The result of an inspection: ``InspectedLayer`` for each token mixer, and those not read."""

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
    """One token mixer of a model on one input, rebuilt and compared with its output.

    Attributes:
        name: the path of the module in the model, such as ``model.layers.0.self_attn``.
        family: the family that it was read as, such as ``mamba2``.
        mixer: the coefficients, in float64.
        axes: what the batch axes of the system count, such as ``("sample", "head")``.
        error: the largest difference between rebuilt and captured output, over the largest captured
            value.
        tolerance: the largest ``error`` allowed; an inspection with a larger one raises.
        fingerprint: of the mixer when it was compared, to detect later changes; None to skip that.
        shell: a function that builds the whole layer around the mixer; None where only the mixer
            is known.
    """

    name: str
    family: str
    mixer: Mixer
    axes: tuple[str, ...]
    error: float
    tolerance: float
    fingerprint: Fingerprint | None = None
    shell: Callable[[], AffineLayer] | None = None

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
        """The input of the system in this run: the values of the mixer."""
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
        """The whole layer, from input to output: convolution, activation, scan, gate and norm.

        It is affine in its input once its factors (gates, norms, decays) are frozen at their values
        on this run.

        Raises:
            InspectionError: if only the mixer of this layer is known.
            ReconstructionError: if the whole layer does not reproduce the captured output.
        """
        self._check_unaltered()
        if self.shell is None:
            raise InspectionError(
                f"{self.name}: of the family '{self.family}' only the mixer is known, not the "
                "stages between it and the module's input and output. layer.map() gives the "
                "mixer's map."
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
                f"error of {self.error:.1e} is not that of this mixer. Inspect the model again. To "
                "study a changed mixer, build it yourself with dataclasses.replace and call its "
                "system()."
            )

    def __repr__(self) -> str:
        mixer = type(self.mixer).__name__
        return f"InspectedLayer({self.name}: {self.family} as {mixer}, error {self.error:.1e})"

    def _repr_html_(self) -> str:
        from dsf.inspection.results.notebook_tables import layer_table

        return layer_table(self)


@dataclass(frozen=True)
class Unsupported:
    """A token mixer that was found but not read: its path, its class and the reason."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True, eq=False, repr=False)
class Inspection(Sequence[InspectedLayer]):
    """All token mixers of a model on one input, in the order in which they ran.

    Attributes:
        layers: the layers that were read; iterating over the inspection gives them.
        unsupported: the token mixers that were found but not read, with reasons.
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
