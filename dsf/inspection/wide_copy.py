"""``wide_copy``: a model in float64, also in what its modules computed when they were built."""

from collections.abc import Sequence

from torch import nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.precision import in_double
from dsf.inspection.errors import InspectionError
from dsf.inspection.families.registry import known_modules


def wide_copy(model: nn.Module, adapters: Sequence[Adapter] = ()) -> nn.Module:
    """A copy of ``model`` in float64.

    Buffers that modules computed from others in float32 are computed anew.

    Raises:
        InspectionError: if something in it cannot be copied.
    """
    try:
        twin = double_copy(model)
    except (TypeError, AttributeError) as error:  # such as a lock
        raise InspectionError(
            f"{type(model).__name__} cannot be copied, which exact=True asks for: {error}. Leave "
            "out exact: its layers are compared with their modules in float64 one at a time."
        ) from error
    with in_double():
        for path, (adapter, _) in known_modules(twin, adapters).items():
            if adapter.renew is not None:
                adapter.renew(twin.get_submodule(path))
    return twin
