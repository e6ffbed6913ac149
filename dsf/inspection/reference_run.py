"""The forward pass of one module again, in float64: what a rebuilt layer is compared with.

The module is copied with its weights in float64 and called on what it was called with, while
whatever asks for float32 gets float64. So a formula is compared with the module's own code, and
not with what the number type of the run left of it.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.calls import Call, Invocation, Through, copied, first_numbers, given_to
from dsf.inspection.capture.double_copies import double_copy
from dsf.inspection.capture.isolation import random_state
from dsf.inspection.capture.module_stack import ModuleStack, Surroundings
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.capture.products import Products, RememberedProducts
from dsf.inspection.errors import InspectionError
from dsf.inspection.softmax.follower import UNNORMALISED
from dsf.inspection.softmax.interface import recording_attention_in
from dsf.inspection.softmax.listener import recording_softmax
from dsf.inspection.widened import can_be_widened, widened

_ONE_AT_A_TIME = Lock()
"""Layers are rebuilt side by side, and two of them may have one module."""


class NoReferenceError(InspectionError):
    """A module cannot be run alone in float64 as it ran in its model."""


def reference_call(call: Call, adapter: Adapter, *, hastened: bool = False) -> Call:
    """``call`` as it is where its module runs in float64.

    Args:
        hastened: whether the adapter may change how the copy computes.

    Raises:
        NoReferenceError: if the module does not run alone in float64, or does something else then.
    """
    if adapter.repeat is not None:
        return _repeated(call, adapter.repeat)
    if call.invocation is None:
        raise NoReferenceError("what its module was called with is not known")
    if call.invocation.is_spoiled:
        raise NoReferenceError("what its module was called with was written into while it ran")
    if call.through is Through.MODULE:
        changes = (adapter.renew, adapter.hasten if hastened else None)
        return _of_module(call, call.invocation, [each for each in changes if each is not None])
    return _of_attention(call, call.invocation)


def _repeated(call: Call, repeat: Callable[[Any, Mapping[str, Any]], Any]) -> Call:
    arguments = in_float64(dict(call.arguments))
    with in_double():
        output = repeat(double_copy(call.module), arguments)
    return _changed(call, arguments, output, call.surroundings)


def _of_module(
    call: Call, invocation: Invocation, changes: Sequence[Callable[[Any], None]]
) -> Call:
    try:
        return _run_again(call, invocation, _copy_of(call.module), changes)
    except NoReferenceError:  # such as a forward pass that knows its module by a closure
        if changes or not can_be_widened(call.module):
            raise
        with _ONE_AT_A_TIME, widened(call.module):
            return _run_again(call, invocation, call.module, ())


def _run_again(
    call: Call,
    invocation: Invocation,
    twin: nn.Module,
    changes: Sequence[Callable[[Any], None]],
) -> Call:
    """The call where ``twin`` runs: a copy of its module in float64, or itself, widened."""
    products = Products()
    with in_double():
        for change in changes:
            change(twin)
    prepared: dict[str, Any] = {}
    if invocation.is_prepared:  # hooks of the copy prepare it again, in float64

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            prepared.update(in_float64(copied(given_to(twin, args, kwargs))))

        handle = twin.register_forward_pre_hook(note, with_kwargs=True)
    try:
        output, draws = _run(twin, invocation, RememberedProducts(twin, products))
    finally:
        if invocation.is_prepared:
            handle.remove()
    arguments = prepared or in_float64(dict(call.arguments))
    again = _changed(call, arguments, output, call.surroundings)
    return replace(again, products=products, draws=draws)


def _of_attention(call: Call, invocation: Invocation) -> Call:
    try:
        return _attended(call, invocation, _copy_of(call.module))
    except NoReferenceError:  # such as a forward pass that knows its module by a closure
        if not can_be_widened(call.module):
            raise
        with _ONE_AT_A_TIME, widened(call.module):
            return _attended(call, invocation, call.module)


def _copy_of(module: nn.Module) -> nn.Module:
    try:
        return double_copy(module)
    except InspectionError:
        raise
    except Exception as error:  # whatever a module holds beside weights, such as a lock
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(". ")
        raise NoReferenceError(f"its module cannot be copied ({reason})") from error


def _attended(call: Call, invocation: Invocation, twin: nn.Module) -> Call:
    """The call where ``twin`` runs: a copy of its module in float64, or itself, widened."""
    calls: list[Call] = []
    unnormalised = {one.product for one in invocation.calls if UNNORMALISED in one.arguments}

    def expects(where: ModuleStack, _weights: Tensor, _response: Tensor) -> bool:
        return where.module is twin and where.products in unnormalised

    where = ModuleStack(twin, claimed=set(), expects=expects, keeps_passes=False)
    with (
        recording_softmax(where, calls),
        recording_attention_in(twin, call.implementation, where, calls),
    ):
        put_out, draws = _run(twin, invocation)
    place = invocation.calls.index(call)
    again = [one for one in calls if one.module is twin and one.through is call.through]
    if len(again) != len(invocation.calls) or not _alike(call, again[place]):
        raise NoReferenceError("alone and in float64 its module attends in another way")
    found = again[place]
    around = _at_home(found.surroundings, twin, call.module)
    made = _changed(call, found.arguments, found.output, around)
    return replace(made, draws=draws, around=first_numbers(put_out))


def _run(
    twin: nn.Module, invocation: Invocation, products: RememberedProducts | None = None
) -> tuple[Any, bool]:
    """What the module puts out, and whether random numbers were drawn meanwhile."""
    args, kwargs = in_float64((invocation.args, invocation.kwargs))
    try:
        with in_double(), products or nullcontext():
            before = random_state(twin)
            output = twin(*args, **kwargs)
            return output, not torch.equal(before, random_state(twin))
    except Exception as error:  # whatever a module's code does where it is not used to float64
        if is_out_of_memory(error):
            raise
        reason = f"{type(error).__name__}: {error}".partition("\n")[0].rstrip(". ")
        raise NoReferenceError(f"its module does not run alone in float64 ({reason})") from error


def _alike(call: Call, again: Call) -> bool:
    one, other = call.first_output, again.first_output
    return one.shape == other.shape and set(call.arguments) == set(again.arguments)


def _changed(call: Call, arguments: Any, output: Any, around: Surroundings | None) -> Call:
    return replace(call, arguments=arguments, output=output, surroundings=around)


def _at_home(
    around: Surroundings | None, twin: nn.Module, module: nn.Module
) -> Surroundings | None:
    """The same with the modules of the model, so that the copy is not kept alive."""
    if around is None:
        return None
    path_of = {part: path for path, part in twin.named_modules()}
    source = module.get_submodule(path_of[around.source])
    out = None if around.out is None else module.get_submodule(path_of[around.out])
    return replace(around, source=source, out=out)
