"""For the tests of models and kernels written elsewhere: a layer is exact, or the test fails."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from dsf.inspection import Adapter, Inspection, Probe, ReconstructionError, RoundingWarning, inspect
from dsf.runtime.argument_checks import checked

__all__ = ["assert_layer_exact"]


@checked
def assert_layer_exact(
    module: nn.Module,
    *inputs: Any,
    tolerance: float | None = None,
    rounding: float | None = None,
    adapters: Sequence[Adapter] = (),
    probe: Mapping[str, Probe] | Sequence[str] = (),
    **named: Any,
) -> Inspection:
    """Assert that every token mixer of ``module`` computes what its formula says.

    Args:
        module: a layer, or a model.
        inputs, named: what it is called with.
        tolerance: the largest difference of a rebuilt layer from its module in float64, relative;
            1e-12 by default.
        rounding: the largest difference of this run from the module in float64, relative; by
            default what the number type and the length explain.
        adapters, probe: as for ``dsf.inspect``.

    Returns:
        The inspection, with both numbers of every layer.

    Raises:
        AssertionError: if a layer is not reproduced, was not read, or is rounded too much.
        InspectionError: if the module cannot be run, or no token mixer is found in it.

    >>> import torch
    >>> from dsf.testing import assert_layer_exact
    >>> inspection = assert_layer_exact(torch.nn.GRU(3, 4, batch_first=True), torch.ones(1, 5, 3))
    >>> inspection[0].formula < 1e-12
    True
    """
    options: dict[str, Any] = {"tolerance": tolerance, "adapters": adapters, "probe": probe}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RoundingWarning)
        try:
            found = inspect(module, *inputs, **options, **named)
        except ReconstructionError as error:
            raise AssertionError(str(error)) from error
    faults = [f"{missed.name}: {missed.reason}" for missed in found.unsupported]
    if rounding is None:
        faults += [str(each.message) for each in told if each.category is RoundingWarning]
    else:
        faults += [
            f"{layer.name}: the run differs by {layer.rounding:.1e} relative from its module in "
            f"float64, above {rounding:.0e}"
            for layer in found
            if not layer.rounding <= rounding
        ]
    if faults:
        raise AssertionError("; ".join(faults))
    return found
