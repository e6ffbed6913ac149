"""From a captured call to an inspected layer: read, respond, finish, compare."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from dsf.evaluate import respond
from dsf.inspection.adapter import Adapter, class_path
from dsf.inspection.captured import Captured, raised, weights_of
from dsf.inspection.errors import ReconstructionError
from dsf.inspection.hooks import Call
from dsf.inspection.precision import TOLERANCE
from dsf.inspection.result import InspectedLayer


@dataclass(frozen=True)
class Limits:
    """What error a layer may have.

    Attributes:
        guarded: whether the model ran in float64 throughout.
        tolerance: the user's own limit, None for the one that suits the number type.
    """

    guarded: bool = False
    tolerance: float | None = None

    def of(self, adapter: Adapter, dtype: torch.dtype) -> float:
        """The limit for a layer whose output came in ``dtype``."""
        if self.tolerance is not None:
            return self.tolerance
        return adapter.tolerance if self.guarded else TOLERANCE.get(dtype, 1e-5)


def rebuild(call: Call, adapter: Adapter, family: str, limits: Limits) -> Iterator[InspectedLayer]:
    """The layers that one captured call holds, each compared with what the module put out.

    Raises:
        ReconstructionError: if a layer's error is above its limit, or is not a number.
    """
    output = call.first_output
    tolerance = limits.of(adapter, output.dtype)
    whole = Captured(
        name=call.name,
        family=family,
        module=call.module,
        weights=weights_of(call.module),
        arguments={name: raised(value) for name, value in call.arguments.items()},
        output=raised(output),
    )
    for layer in adapter.split(whole):
        mixer = adapter.read(layer)
        rebuilt = adapter.finish(layer, respond(mixer.system(), mixer.signal()))
        error = relative_error(rebuilt, layer.output)
        if not error <= tolerance:
            raise ReconstructionError(_worded(layer, error, tolerance))
        yield InspectedLayer(layer.name, family, mixer, adapter.axes, error, tolerance)


def relative_error(rebuilt: Tensor, captured: Tensor) -> float:
    """Largest difference over the largest captured number."""
    if rebuilt.shape != captured.shape:
        return float("inf")
    if captured.numel() == 0:
        return 0.0
    largest = captured.abs().max().item()
    difference = (rebuilt - captured).abs().max().item()
    return difference / largest if largest > 0 else difference


def _worded(layer: Captured, error: float, tolerance: float) -> str:
    kind = class_path(type(layer.module))
    package = kind.split(".", maxsplit=1)[0]
    try:
        release = f"{package} {version(package)}"
    except PackageNotFoundError:
        release = package
    return (
        f"{layer.name} ({kind}, read as '{layer.family}', {release}): the rebuilt layer differs "
        f"from what it put out by {error:.1e} relative, above the tolerance of {tolerance:.0e}. "
        f"Its map would not be the layer's. Either the module was altered, or this release "
        f"computes it differently; try another release of {package}, or report it."
    )
