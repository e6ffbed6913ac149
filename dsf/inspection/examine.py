"""The one entry: run a model once, rebuild every token mixer, compare."""

import copy
import platform
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dsf.inspection import attention_interface, softmax
from dsf.inspection.adapter import Adapter
from dsf.inspection.adapters import ADAPTERS
from dsf.inspection.errors import NonFiniteWeightsError, NothingCapturedError
from dsf.inspection.hooks import Call, at_rest, recording
from dsf.inspection.precision import dtype_of, guarded
from dsf.inspection.rebuild import Limits, rebuild
from dsf.inspection.result import InspectedLayer, Inspection
from dsf.inspection.unread import unread


def inspect_module(
    model: nn.Module,
    *inputs: Any,
    exact: bool = False,
    tolerance: float | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
    name: str | None = None,
    **named: Any,
) -> Inspection:
    """Run ``model`` once and rebuild every token mixer it applies.

    Args:
        model: any module; it is left as it was found.
        inputs, named: what the model is called with.
        exact: run a copy of the model in float64 throughout, with tolerances near 1e-12.
        tolerance: the largest relative error a layer may have; by default what its number type
            allows.
        tokens: the text of every token, one sequence a sample.
        name: what to call the model; its class by default.

    Raises:
        NonFiniteWeightsError: if a weight is NaN or infinite.
        ReconstructionError: if a rebuilt layer does not reproduce its output.
        NothingCapturedError: if no layer could be read.
    """
    _finite(model)
    if exact:
        model = copy.deepcopy(model).double()
        inputs, named = _widened(inputs), {key: _widened(value) for key, value in named.items()}
    calls: list[Call] = []
    known = _known(model)
    with (
        at_rest(model),
        attention_interface.recording_attention(model, calls),
        recording({path: model.get_submodule(path) for path in known}, calls),
        guarded(model),
    ):
        model(*inputs, **_without_cache(model, named))
    wide = dtype_of(model) is torch.float64
    limits = Limits(guarded=wide, tolerance=tolerance)
    layers = tuple(_rebuilt(calls, known, limits))
    missed = unread(model, {call.name for call in calls})
    title = name or type(model).__name__
    if not layers:
        listed = "; ".join(f"{part.name} ({part.kind}): {part.reason}" for part in missed)
        raise NothingCapturedError(
            f"{title}: no token mixer could be read. "
            + (f"Seen were: {listed}." if listed else "No module looks like a token mixer.")
        )
    return Inspection(
        layers=layers,
        unsupported=tuple(missed),
        model=title,
        tokens=None if tokens is None else tuple(tuple(sample) for sample in tokens),
        environment=_environment(model),
    )


def _known(model: nn.Module) -> dict[str, tuple[Adapter, str]]:
    """Where the modules sit that an adapter reads at their boundary."""
    found = {}
    for path, module in model.named_modules():
        for adapter in ADAPTERS:
            family = adapter.family_of(module)
            if family is not None:
                found[path] = (adapter, family)
    return found


def _rebuilt(
    calls: list[Call], known: dict[str, tuple[Adapter, str]], limits: Limits
) -> list[InspectedLayer]:
    layers: list[InspectedLayer] = []
    times: dict[str, int] = {}
    for call in calls:
        adapter, family = known.get(call.name) or (softmax.ADAPTER, _softmax_family(call.module))
        times[call.name] = times.get(call.name, 0) + 1
        if times[call.name] > 1:
            call.name = f"{call.name} (call {times[call.name]})"
        layers += rebuild(call, adapter, family, limits)
    return layers


def _softmax_family(module: nn.Module) -> str:
    """The folder of the modelling file: ``llama`` of ``transformers.models.llama...``."""
    parts = type(module).__module__.split(".")
    return parts[2] if parts[:2] == ["transformers", "models"] and len(parts) > 2 else "softmax"


def _finite(model: nn.Module) -> None:
    bad = [
        path
        for path, part in (*model.named_parameters(), *model.named_buffers())
        if part.is_floating_point() and not part.isfinite().all() and "mask" not in path
    ]
    if bad:
        listed = ", ".join(bad[:5]) + (f" and {len(bad) - 5} more" if len(bad) > 5 else "")
        raise NonFiniteWeightsError(
            f"the model holds weights that are NaN or infinite: {listed}. No statement about its "
            f"layers would mean anything; load another checkpoint or repair these tensors."
        )


def _widened(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.double() if value.is_floating_point() else value
    if isinstance(value, tuple):
        return tuple(_widened(part) for part in value)
    return value


def _without_cache(model: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """Library models run the whole sequence at once: several of them mis-continue a cache."""
    if attention_interface.models_of_library(model) == [model]:
        return {"use_cache": False, **named} if _takes(model, "use_cache") else named
    return named


def _takes(model: nn.Module, argument: str) -> bool:
    return argument in type(model).forward.__code__.co_varnames or hasattr(
        getattr(model, "config", None), argument
    )


def _environment(model: nn.Module) -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    facts = {
        "dsf": version("dsf"),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    try:
        facts["transformers"] = version("transformers")
    except PackageNotFoundError:
        pass
    facts["dtype"] = str(dtype_of(model)).removeprefix("torch.")
    parameter = next(model.parameters(), None)
    facts["device"] = str(parameter.device) if parameter is not None else "cpu"
    return facts
