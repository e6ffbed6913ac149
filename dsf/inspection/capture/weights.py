"""Weights as they are stored: packed, made of others when a module runs, or not finite.

A module whose weights are quantised or packed is read through its own dequantisation: that of its
weight, that of the module, or the one in its forward pass, which the identity matrix shows. What
was read has to reproduce the module on other inputs; otherwise the module is refused.
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.parametrize import is_parametrized

from dsf.inspection.capture.containers import are_numbers
from dsf.inspection.capture.precision import class_path, in_double, in_float64
from dsf.inspection.errors import (
    InspectionError,
    NonFiniteWeightsError,
    NothingCapturedError,
    UnreadableError,
    in_words,
    listed,
)

# Activations in 8 bits leave a hundredth; a transposed or scaled weight leaves more than a tenth.
LIMIT = 0.03
TRIED = (torch.float32, torch.bfloat16, torch.float16)


def is_packed(module: nn.Module) -> bool:
    """Whether a weight of the module itself, not of its parts, is packed."""
    own = [
        part
        for part in (*module._parameters.values(), *module._buffers.values())
        if part is not None
    ]
    if any(_is_packed(part) for part in own):
        return True
    if isinstance(getattr(module, "weight", None), Tensor) or not hasattr(module, "in_features"):
        return False
    whole = (not are_numbers(part) for part in own if part.ndim > 1)
    return callable(getattr(module, "weight", None)) or any(whole)


def has_own_storage(part: Tensor) -> bool:
    """Whether the tensor stores what it represents, as those of quantisation packages do."""
    return part.is_quantized or type(part).dequantize is not Tensor.dequantize


def _is_packed(part: Tensor) -> bool:
    if has_own_storage(part):
        return True
    if part.is_floating_point():
        return part.element_size() == 1
    in_bytes = part.dtype in (torch.int8, torch.uint8) and part.ndim > 1
    return in_bytes and isinstance(part, nn.Parameter)


def is_within(root: str, path: str) -> bool:
    return not root or path == root or path.startswith(f"{root}.")


def packed_modules(module: nn.Module) -> dict[str, nn.Module]:
    """The packed modules in ``module`` by their paths, itself included; none inside another."""
    found: dict[str, nn.Module] = {}
    for path, part in module.named_modules():
        if is_packed(part) and not any(is_within(root, path) for root in found):
            found[path] = part
    return found


def kinds(module: nn.Module) -> str:
    """The classes of its packed modules, in words; empty if there are none."""
    return ", ".join(sorted({class_path(type(part)) for part in packed_modules(module).values()}))


def unpacked(module: nn.Module, path: str) -> nn.Linear:
    """A packed linear map as one of torch, in float64 and where ``in_float64`` puts it."""
    try:
        with torch.no_grad():
            return _unpacked(module, path)
    except UnreadableError:
        raise
    except Exception as error:  # whatever the code of a package for quantised weights raises
        raise _refused(module, path, in_words(error)) from error


def _unpacked(module: Any, path: str) -> nn.Linear:
    if not hasattr(module, "in_features") or not hasattr(module, "out_features"):
        raise _refused(module, path, "it does not say how many features it takes and gives")
    run = _own_pass(module)
    tried: list[float] = []
    rng = torch.Generator().manual_seed(0)
    rows = torch.randn(8, module.in_features, generator=rng, dtype=torch.float64)
    given, output = run(rows)
    bias = _bias(module, run)
    for weight in _weights(module, run):
        if weight.shape != (module.out_features, module.in_features):
            continue
        made = _linear(weight, bias)
        apart = (output - made(given)).abs().max() / output.abs().max()
        tried.append(float(apart) if bool(apart.isfinite()) else float("inf"))
        if tried[-1] <= LIMIT:
            return made
    if not tried:
        raise _refused(module, path, "what it dequantises to has another shape than its features")
    raise _refused(module, path, f"what it dequantises to is off by {min(tried):.1e} relative")


Pass = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From rows to what a module took of them, and to what it returned, both in float64."""


def _own_pass(module: Any) -> Pass:
    """The module's own forward pass, in the first number type that it takes."""
    parts = (*module.parameters(), *module.buffers())
    device = next((part.device for part in parts), torch.device("cpu"))
    for dtype in TRIED:
        try:
            module.forward(torch.zeros(1, module.in_features, dtype=dtype, device=device))
        except (RuntimeError, TypeError, ValueError):
            continue
        break

    def run(rows: Tensor) -> tuple[Tensor, Tensor]:
        given = rows.to(dtype).to(device)
        output = module.forward(given)
        output = in_float64(output[0] if isinstance(output, tuple) else output)
        return in_float64(given).to(output.device), output

    return run


def _weights(module: Any, run: Pass) -> Iterator[Tensor]:
    """What the module may dequantise to, ``output input``, each only when the last one failed."""
    said = _said(module)
    if said is not None:
        yield said
        yield said.mT
    rows = torch.eye(module.in_features, dtype=torch.float64)
    yield (run(rows)[1] - run(torch.zeros_like(rows[:1]))[1]).mT


def _said(module: Any) -> Tensor | None:
    """What the weight, or else the module, says that it dequantises to."""
    weight = getattr(module, "weight", None)
    weight = weight() if callable(weight) and not isinstance(weight, Tensor) else weight
    if isinstance(weight, Tensor) and has_own_storage(weight):
        return in_float64(weight.dequantize())
    for name in ("dequantize", "dequantize_weight"):
        method = getattr(module, name, None)
        if callable(method):
            found = method()
            found = getattr(found, "weight", found)
            if isinstance(found, Tensor) and found.ndim == 2:
                return in_float64(found)
    return None


def _bias(module: Any, run: Pass) -> Tensor | None:
    bias: Any = getattr(module, "bias", run)
    if callable(bias) and bias is not run and not isinstance(bias, Tensor):
        bias = bias()
    if isinstance(bias, Tensor) and bias.is_floating_point():
        return in_float64(bias)
    if bias is None:
        return None
    return run(torch.zeros(1, module.in_features, dtype=torch.float64))[1].squeeze(0)


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    made = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64, device="meta")
    made.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    kept = None if bias is None else nn.Parameter(bias.to(weight.device), requires_grad=False)
    made.register_parameter("bias", kept)
    return made


def _refused(module: nn.Module, path: str, reason: str) -> UnreadableError:
    return UnreadableError(
        f"{path or 'the module'}: its weights are packed ({class_path(type(module))}) and cannot "
        f"be read through the module itself: {reason}. Dequantise the model before inspecting it "
        "(in transformers: model.dequantize()), or load it without quantisation."
    )


def double_copy(module: nn.Module) -> nn.Module:
    """A copy with floating parameters and buffers in float64; settings are copied, too."""
    # It lies where the module does, or on the processor if that has no float64.
    packed = packed_modules(module)
    if "" in packed:
        return unpacked(module, "")
    known: dict[int, Any] = {id(part): unpacked(part, path) for path, part in packed.items()}
    inside = {id(one) for part in packed.values() for one in (*part.parameters(), *part.buffers())}
    for part in (*module.parameters(), *module.buffers()):
        if id(part) in inside:
            continue
        wide = part.detach().to(torch.complex128) if part.is_complex() else in_float64(part)
        wide = wide.clone() if wide.data_ptr() == part.data_ptr() else wide
        is_weight = isinstance(part, nn.Parameter)
        known[id(part)] = nn.Parameter(wide, requires_grad=False) if is_weight else wide
    for each in module.modules():  # such as the product of a weight norm, which cannot be copied
        for kept in vars(each).values():
            if isinstance(kept, torch.Tensor) and not kept.is_leaf and id(kept) not in known:
                known[id(kept)] = in_float64(kept).clone()
    return copy.deepcopy(module, known)


def made_weights(module: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """By the path of such a weight the module that makes it, and what that calls it."""
    found: dict[str, tuple[nn.Module, str]] = {}
    for path, part in module.named_modules():
        names = list(part.parametrizations) if is_parametrized(part) else []
        for name in (*names, *(hook.name for hook in _makers(part))):
            found[f"{path}.{name}" if path else name] = part, name
    return found


@torch.no_grad()
def made_weight(module: nn.Module, name: str) -> Tensor:
    twin = double_copy(module)
    with in_double():
        for hook in _makers(twin):
            if hook.name == name:
                is_spectral = hasattr(hook, "n_power_iterations")
                once = {"do_power_iteration": False} if is_spectral else {}
                return in_float64(hook.compute_weight(twin, **once))
        return in_float64(getattr(twin, name))


def _makers(module: nn.Module) -> list[Any]:
    """The hooks of torch's older weight norm and spectral norm, which make a weight each."""
    hooks = module._forward_pre_hooks.values()
    return [one for one in hooks if hasattr(one, "compute_weight") and hasattr(one, "name")]


SHOWN = 5


def check_runnable(model: nn.Module) -> None:
    if isinstance(model, torch.jit.ScriptModule):
        raise NothingCapturedError(
            f"the model is TorchScript ({model.original_name}), which takes no hooks, so no token "
            "mixer could be read. Build the plain module (such as torch.nn.LSTM), load this one's "
            "state_dict() into it and inspect that."
        )
    parts = [*model.named_parameters(), *model.named_buffers()]
    empty = [name for name, part in parts if is_lazy(part) or part.is_meta]
    if empty:
        raise InspectionError(
            f"the model has weights without data: {listed(empty, SHOWN)}. They are on the meta "
            "device, as offloaded weights are, or not initialised: load the checkpoint without "
            "offloading (device_map='cpu' or none; where it does not fit into memory by "
            "dsf.loading.load_model(..., mapped=True)), and run a lazy module once."
        )
    bad = [name for name, part in parts if not _are_sound(part)]
    if bad:
        raise NonFiniteWeightsError(
            f"the model holds weights that are NaN or infinite: {listed(bad, SHOWN)}. No statement "
            "about its layers would mean anything; load another checkpoint or repair these tensors."
        )


def _are_sound(part: Tensor) -> bool:
    """Whether no number is NaN, and none of a weight infinite, as those of masks and limits are."""
    if not are_numbers(part) or has_own_storage(part):  # packed: looked at once written out
        return True
    is_weight = isinstance(part, nn.Parameter)
    if part.dtype.itemsize == 1:  # isfinite is missing for eight-bit types
        part = part.to(torch.float32)
    # A sum is quicker than a comparison of every number, but it may itself overflow.
    is_finite = bool(part.detach().sum().isfinite()) or bool(part.isfinite().all())
    return is_finite or not (is_weight or bool(part.isnan().any()))
