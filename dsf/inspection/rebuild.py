"""Rebuilds a layer from a captured call and compares it with its module in float64.

The module is copied with its weights in float64 and called on what it was called with, so that a
formula is compared with the module's own code. Softmax attention responds by a fused kernel, which
its module calls, too: compared are rows of the map times the values, of long sequences a sample.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from threading import Lock
from typing import Any

import torch
from jaxtyping import Int, Shaped
from torch import Tensor, nn

from dsf.evaluate import respond
from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.adapter import Adapter, one_layer
from dsf.inspection.capture.calls import (
    Call,
    Captured,
    Invocation,
    Through,
    Weights,
    bound,
    copied,
    first_numbers,
    given_to,
)
from dsf.inspection.capture.containers import (
    DiskStore,
    Fingerprint,
    is_cache,
    mapped,
    times_written,
)
from dsf.inspection.capture.isolation import random_state
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import (
    TOLERANCE,
    described,
    expected_rounding,
    home,
    in_double,
    in_float64,
)
from dsf.inspection.capture.weights import double_copy, kinds
from dsf.inspection.causal.replay import can_be_widened, widened
from dsf.inspection.errors import (
    InspectionError,
    ReconstructionError,
    RoundingWarning,
    UnreadableError,
    in_words,
    is_fault,
    memory_ran_out,
)
from dsf.inspection.probing.probe import FAMILY as PROBED
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.softmax.attention import recording_attention
from dsf.inspection.softmax.follower import recording_softmax
from dsf.inspection.whole.stages import (
    AffineLayer,
    Chain,
    WholeMixer,
    as_tokens,
    as_values,
    width_of,
)
from dsf.systems.composite import PANEL, Operator, PairRows, SoftmaxRows, whole_rows

ROUNDING = 1e-12
"""What may move by rounding in float64, relative."""


def check_tokens_stay_apart(call: Call, takes: str) -> None:
    """Raise if hooks of a module mix tokens before its ``forward``, which is what a map is of."""
    invocation = call.invocation
    if invocation is None or invocation.prepared is None:
        return
    given = in_float64((invocation.args, invocation.kwargs))
    tokens = bound(call.module.forward, *given).get(takes)
    if not isinstance(tokens, Tensor) or tokens.ndim < 3 or tokens.shape[1] < 2:
        return
    place, new, prepared = tokens.shape[1] // 2, tokens.clone(), []
    new[:, place] += tokens.abs().mean() + 1
    twin = double_copy(call.module)  # of which the hooks before its forward run, and nothing else
    forward = twin.forward
    twin._forward_hooks.clear()
    twin.forward = lambda *args, **kwargs: prepared.append(bound(forward, args, kwargs).get(takes))
    for args, kwargs in (given, mapped(given, lambda part: new if part is tokens else part)):
        with torch.no_grad(), in_double():
            twin(*args, **kwargs)
    before, after = prepared
    if isinstance(before, Tensor) and isinstance(after, Tensor) and before.shape == tokens.shape:
        moved = (after - before).abs()
        moved[:, place] = 0
        if moved.max() <= ROUNDING * before.abs().max():
            return
    raise UnreadableError(
        f"{call.name}: hooks mix tokens before its forward pass is given them, so that the map of "
        "the module is only a part of what it does to tokens. Inspect the model without these "
        "hooks, or pass probe=... with the path of the module"
    )


EVERY = 256
"""So many rows are all multiplied out."""
WINDOWS, ROWS = 8, 8
"""Of more rows so many windows of so many rows are."""


def response_by_rows(
    system: Operator, signal: Shaped[Tensor, "*batch read input channel"], *, whole: bool = True
) -> Shaped[Tensor, "*batch time output channel"]:
    """The response of a system, where its map is made of scores by rows of the map.

    Unless ``whole``, other rows are NaN where a fused kernel would be all that computes them.
    """
    rows = _scored_rows(system)
    if rows is None:
        return respond(system, signal)
    value, spans = signal.squeeze(-2), sampled_rows(system.steps)
    mixed = torch.cat([rows.mixed(*span, value) for span in spans], dim=-2).unsqueeze(-2)
    if system.steps <= EVERY:
        return mixed
    if whole or not leaves_out(system):
        found = respond(system, signal)
    else:
        found = mixed.new_full((*system.batch, system.steps, 1, signal.shape[-1]), math.nan)
    found[..., compared_tokens(system.steps), :, :] = mixed
    return found


def leaves_out(system: Operator) -> bool:
    """Whether rows are left out that a fused kernel would compute as the module itself does."""
    rows = _scored_rows(system)
    return isinstance(rows, SoftmaxRows) and rows.is_fused and system.steps > EVERY


def compared_tokens(length: int) -> Int[Tensor, " some"]:
    return torch.cat([torch.arange(*span) for span in sampled_rows(length)])


def _scored_rows(system: Operator) -> PairRows | None:
    """The rows of a map that is made of scores; None for other maps, and behind a first state."""
    rows, is_from_rest = whole_rows(system), getattr(system, "initial", None) is None
    return rows if isinstance(rows, PairRows) and is_from_rest else None


def sampled_rows(length: int) -> Iterator[tuple[int, int]]:
    """First rows and ends of windows, in order, the first and the last row among them."""
    if length <= EVERY:
        for start in range(0, length, PANEL):
            yield start, min(start + PANEL, length)
        return
    for number in range(WINDOWS):
        start = number * (length - ROWS) // (WINDOWS - 1)
        yield start, start + ROWS


_ONE_AT_A_TIME = Lock()
"""Layers are rebuilt side by side, and two of them may have one module."""


class NoReferenceError(InspectionError):
    """A module cannot be run alone in float64 as it ran in its model."""


def reference_call(call: Call, adapter: Adapter) -> Call:
    """``call`` as it is where its module runs in float64."""
    if adapter.repeat is not None:
        arguments = in_float64(dict(call.arguments))
        with in_double():
            output = adapter.repeat(double_copy(call.module), arguments)
        return replace(call, arguments=arguments, output=output)
    if call.invocation is None:
        raise NoReferenceError("what its module was called with is not known")
    if call.invocation.is_spoiled:
        raise NoReferenceError("what its module was called with was written into while it ran")
    again = _run_again if call.through is Through.MODULE else _attended
    try:
        with (
            _refused("its module cannot be copied", InspectionError),  # as one that holds a lock
            call.invocation.as_it_began(),
        ):
            twin = double_copy(call.module)
        return again(call, call.invocation, twin, adapter)
    except NoReferenceError:  # such as a forward pass that knows its module by a closure
        if adapter.renew is not None or not can_be_widened(call.module):
            raise
        with _ONE_AT_A_TIME, widened(call.module), call.invocation.as_it_began():
            return again(call, call.invocation, call.module, adapter)


@contextmanager
def _refused(what: str, *passed: type[Exception]) -> Iterator[None]:
    """Say of an exception inside, whatever a module's code raises, that there is no reference."""
    try:
        yield
    except Exception as error:
        if isinstance(error, passed) or is_out_of_memory(error):
            raise
        raise NoReferenceError(f"{what} ({in_words(error)})") from error


def _run_again(call: Call, invocation: Invocation, twin: nn.Module, adapter: Adapter) -> Call:
    """The call where ``twin`` runs: a copy of its module in float64, or itself, widened."""
    if adapter.renew is not None:
        with in_double():
            adapter.renew(twin)
    arguments = dict(call.arguments)

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if adapter.takes:  # what is probed is called again with what its hooks were given
            arguments.update(copied(given_to(twin, args, kwargs)))

    with (
        twin.register_forward_pre_hook(note, with_kwargs=True),  # behind those of the module
        _running(twin) as ran,
    ):
        output, draws = _run(twin, invocation)
    return replace(call, arguments=in_float64(arguments), output=output, draws=draws, ran=ran)


@contextmanager
def _running(twin: nn.Module) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """What the plain projections in a module are given and return, but for what is written into."""
    ran: dict[str, tuple[Tensor, Tensor]] = {}
    writes: dict[str, list[int]] = {}

    def keep(path: str, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if len(args) == 1:
            ran[path] = args[0], output
            writes[path] = list(map(times_written, ran[path]))

    with ExitStack() as hooks:
        for path, part in twin.named_modules():
            hooked = part._forward_pre_hooks or part._forward_hooks or "forward" in vars(part)
            if type(part) is nn.Linear and not hooked:
                hooks.enter_context(part.register_forward_hook(partial(keep, path)))
        yield ran
    for path, before in writes.items():
        if before != list(map(times_written, ran[path])):
            del ran[path]


def _attended(call: Call, invocation: Invocation, twin: nn.Module, _: Adapter) -> Call:
    calls: list[Call] = []
    attends = {(twin, one.product) for one in invocation.calls}
    where = ModuleStack(twin, claimed=set(), keeps_passes=False, attends=attends)
    with recording_softmax(where, calls), recording_attention(twin, where, calls):
        returned, draws = _run(twin, invocation)
    place = invocation.calls.index(call)
    again = [one for one in calls if one.module is twin and one.through is call.through]
    found = again[place] if len(again) == len(invocation.calls) else None
    if (
        found is None
        or found.first_output.shape != call.first_output.shape
        or set(found.arguments) != set(call.arguments)
    ):
        raise NoReferenceError("alone and in float64 its module attends in another way")
    around = found.surroundings
    if around is not None:  # with the modules of the model, so that the copy is not kept alive
        path_of = {part: path for path, part in twin.named_modules()}
        home_of = {part: call.module.get_submodule(path) for part, path in path_of.items()}
        out = None if around.out is None else home_of[around.out]
        around = replace(around, source=home_of[around.source], out=out)
    return replace(
        call,
        arguments=found.arguments,
        output=found.output,
        surroundings=around,
        draws=draws,
        around=first_numbers(returned),
    )


def _run(twin: nn.Module, invocation: Invocation) -> tuple[Any, bool]:
    """What the module returns, and whether random numbers were drawn meanwhile."""
    args, kwargs = in_float64((invocation.args, invocation.kwargs))
    with _refused("its module does not run alone in float64"), in_double():
        before = random_state(twin)
        output = twin(*args, **kwargs)
        return output, before != random_state(twin)


IN_DOUBLE = "its module in float64"
WITH_HEADS = 4
"""The axes of values with heads: sample, head, time, channel."""
SAME_VALUES = 1e-14
"""The largest relative difference between values that were computed twice in the same way."""
DRAWS = (
    "its module draws random numbers, other ones in every pass, so that what is read in one is "
    "not the output of another. Let it draw none in evaluation mode, like dropout with "
    "training=self.training"
)
"""Why a layer is not read whose module is random."""


@dataclass(frozen=True)
class Limits:
    """The largest relative error of a layer; ``guarded`` where the model ran in float64."""

    guarded: bool = False
    tolerance: float | None = None


Build = Callable[[], InspectedLayer]


def rebuild(
    call: Call, adapter: Adapter, family: str, limits: Limits
) -> Iterator[tuple[str, Build]]:
    """The layers of a captured call: the name of each, and what rebuilds and compares it alone."""
    with _explained(call, family):
        reference, compared_with, sharp = _reference(call, adapter, limits)
        is_random = reference.draws and _is_random(call, adapter, reference)
        if is_random:
            words = _itself(call, "its module draws random numbers")
            reference, compared_with, sharp = call, words, False
        tolerance = limits.tolerance
        if tolerance is None:
            of_run = TOLERANCE.get(call.first_output.dtype, 1e-5)
            tolerance = adapter.tolerance if sharp else of_run
        layers = list(captured_layers(reference, adapter, family))
        if reference is call:
            outputs = [layer.output for layer in layers]
        elif adapter.split is one_layer:
            outputs = [call.first_output.to(reference.first_output.device)]
        else:
            outputs = [layer.output for layer in captured_layers(call, adapter, family)]
    ran, around = None if call.invocation is None else first_numbers(call.invocation.output), None
    if ran is not None and reference.around is not None:
        around = ran.to(reference.around.device), reference.around
    for layer, output in zip(layers, outputs, strict=True):
        compared = call, adapter, layer, output, compared_with, tolerance, around, is_random
        yield layer.name, LayerComparison(*compared).layer


def _is_random(call: Call, adapter: Adapter, one: Call) -> bool:
    """Whether a module in float64 returns other numbers when it runs once more."""
    other = reference_call(call, adapter)
    pairs = [(one.first_output, other.first_output)]
    if one.around is not None and other.around is not None:
        pairs.append((one.around, other.around))
    return not all(torch.equal(*pair) for pair in pairs)


@contextmanager
def _explained(call: Call, family: str) -> Iterator[None]:
    """Wrap an adapter's exception with the layer's name, and what was read."""
    try:
        yield
    except InspectionError:
        raise
    except Exception as error:  # whatever the code of a module raises, its asserts too
        if is_out_of_memory(error):
            raise memory_ran_out(f"{call.name}: rebuilding it", error) from error
        if family == PROBED:
            raise UnreadableError(
                f"it cannot be run alone or with other numbers ({in_words(error)})"
            ) from error
        where = f"{call.name} ({described(call.module)}): reading it as '{family}'"
        name = str(error.args[0]) if isinstance(error, KeyError) and error.args else ""
        path, _, kind = name.rpartition(".")
        part = dict(call.module.named_modules()).get(path) if path and kind == "weight" else None
        if part is not None:  # in the place of a plain projection
            raise ReconstructionError(
                f"{where} needs {error}, but in that place is a {type(part).__name__}, which holds "
                "no such weight. Where it wraps the projection (as adapters of low rank do), merge "
                "the two into one projection and inspect that."
            ) from error
        with_error = "" if is_fault(error) else f" with {in_words(error)}"
        raise ReconstructionError(
            f"{where} failed{with_error}. Its weights or arguments are not those of this family: "
            "either the module was altered, or this release of its library stores them "
            "differently. Try another release, or report it."
        ) from error


@dataclass(frozen=True, eq=False)
class LayerComparison:
    """One layer of a captured call, and what it is held against.

    ``captured`` is what the adapter reads, of the run that the layer is compared with; ``around``
    what the module of an attention returned as a whole, in the run and again.
    """

    call: Call
    adapter: Adapter
    captured: Captured
    output: Tensor
    compared_with: str
    tolerance: float
    around: tuple[Tensor, Tensor] | None = None
    is_random: bool = False

    def layer(self) -> InspectedLayer:
        try:
            with _explained(self.call, self.captured.family):
                found = self._compared()
        except ReconstructionError as error:
            if error.formula > 0 and self.is_random:
                raise UnreadableError(DRAWS) from error
            raise
        dtype = self.call.first_output.dtype
        expected = expected_rounding(dtype, found.system.steps)
        if found.rounding > expected:
            _warn_of_rounding(self.captured, found.rounding, expected, dtype)
        return found

    def _compared(self) -> InspectedLayer:
        layer, adapter = self.captured, self.adapter
        mixer = adapter.read(layer)
        system = mixer.system()
        formula = self._formula(mixer, system)
        if not math.isfinite(largest(self.output)):
            raise ReconstructionError(_not_finite(layer))
        rounding = self._rounding()
        if not formula <= self.tolerance:
            words = _worded(layer, formula, self.tolerance, self.compared_with)
            raise ReconstructionError(words, formula)
        own = getattr(mixer, "axes", adapter.axes)
        axes = own if layer.maps is None else layer.maps.axes
        is_known = adapter.whole is not None or _knows_stages(adapter, mixer)
        shell = partial(whole_layer, replace(layer, ran={}), adapter, mixer, self.tolerance)
        return InspectedLayer(
            name=layer.name,
            family=layer.family,
            mixer=mixer,
            axes=tuple(axes)[: len(system.batch)],
            error=max(formula, rounding),
            tolerance=self.tolerance,
            fingerprint=Fingerprint(mixer),
            shell=shell if is_known else None,
            formula=formula,
            rounding=rounding,
            compared_with=self.compared_with,
        )

    def _rounding(self) -> float:
        """How far the run lies from its module in float64, at rows that have keys, relative.

        Of an attention both its own output and that of its module are compared.
        """
        layer, output = self.captured, self.output
        if output is layer.output:
            return 0.0
        idle = self.adapter.idle(layer)
        if idle is not None and idle.shape == output.shape[:-1] == layer.output.shape[:-1]:
            output = torch.where(idle.unsqueeze(-1), layer.output, output)
        error = relative_error(output, layer.output)
        if self.around is None:
            return error
        ran, again = self.around
        if idle is not None and idle.any() and ran.shape == again.shape:
            hidden = None
            if layer.arguments.get("heads") is not None:
                hidden = self.adapter.overlooked(layer)
            if hidden is None or hidden.shape != ran.shape[:-1]:
                # It is not known at which tokens there are numbers of the layer; some has them.
                apart, size = (ran - again).abs().amax(dim=-1), again.abs().amax(dim=-1)
                return max(error, float((apart / torch.where(size > 0, size, 1)).min()))
            ran = torch.where(hidden.unsqueeze(-1), again, ran)
        return max(error, relative_error(ran, again))

    def _formula(self, mixer: Any, system: Any) -> float:
        """The relative error of the rebuilt layer, at the tokens whose rows are compared.

        The others are NaN at first. Where these do not stay at their tokens, all are computed.
        """
        layer, adapter = self.captured, self.adapter
        signal = mixer.signal()
        if leaves_out(system):
            mixed = response_by_rows(system, signal, whole=False)
            some = adapter.finished(layer, mixer, mixed)
            tokens = compared_tokens(system.steps).to(mixed.device)
            axes = (  # those along which these tokens alone are no NaN
                axis
                for axis, length in enumerate(some.shape)
                if length == system.steps and not some.index_select(axis, tokens).isnan().any()
            )
            axis, size = next(axes, None), largest(layer.output)
            if axis is not None and some.shape == layer.output.shape and math.isfinite(size):
                parts = (part.index_select(axis, tokens) for part in (some, layer.output))
                behind = relative_error(*parts, size=size)
                return max(behind, error_around(layer, adapter, mixer, mixed, tokens=tokens))
        mixed = response_by_rows(system, signal)
        behind = relative_error(adapter.finished(layer, mixer, mixed), layer.output)
        return max(behind, error_around(layer, adapter, mixer, mixed))


def on_disk(layer: InspectedLayer, store: DiskStore) -> InspectedLayer:
    """``layer`` with its tensors in ``store``."""
    copy, shell = cache(store.moved), layer.shell  # what is one in several places stays one
    mixer = mapped(layer.mixer, copy)
    if isinstance(shell, partial):
        captured, adapter, _, tolerance = shell.args
        parts = {name: getattr(captured, name) for name in ("arguments", "output", "surroundings")}
        captured = replace(captured, **mapped(parts, copy))
        shell = partial(whole_layer, captured, adapter, mixer, tolerance)
    fingerprint = Fingerprint(mixer)
    return replace(layer, mixer=mixer, shell=shell, fingerprint=fingerprint, is_on_disk=True)


def _warn_of_rounding(
    layer: Captured, rounding: float, expected: float, dtype: torch.dtype
) -> None:
    packed = kinds(layer.module)
    cause = (
        f"its weights are quantised ({packed}), and here they are compared written out: what the "
        "module's own product rounds, such as its input to eight bits, is in this difference."
        if packed
        else "look at the kernel that this run used, or at what changes the module's weights or "
        "output."
    )
    warnings.warn(
        f"{_who(layer)}: its output in this run differs by {rounding:.1e} relative from its module "
        f"in float64 on the same input, more than {str(dtype).removeprefix('torch.')} explains "
        f"({expected:.0e}). Its map is that of the module in float64; {cause}",
        RoundingWarning,
        stacklevel=2,
    )


def _reference(call: Call, adapter: Adapter, limits: Limits) -> tuple[Call, str, bool]:
    """What a layer is compared with, in words, and whether that ran in float64."""
    if call.through is Through.MODULE:
        check_tokens_stay_apart(call, adapter.takes)
    if limits.guarded and adapter.renew is None:
        return call, IN_DOUBLE, True
    if call.invocation is not None and not adapter.rewrites_weights:
        call.invocation.check_weights(call.name)
    try:
        reference = reference_call(call, adapter)
    except NoReferenceError as error:
        return call, _itself(call, str(error)), False
    device = call.first_output.device
    elsewhere = "" if home(device) == device else f" on the processor, since {device} has none"
    packed = kinds(call.module)
    written_out = f", its packed weights ({packed}) written out" if packed else ""
    return reference, IN_DOUBLE + elsewhere + written_out, True


def _itself(call: Call, reason: str) -> str:
    dtype = str(call.first_output.dtype).removeprefix("torch.")
    return f"its output in {dtype}: {reason}"


def layer_names(call: Call, adapter: Adapter, family: str) -> list[str]:
    """What the layers of a call are called; most calls hold one."""
    if adapter.split is one_layer:
        return [call.name]
    return [layer.name for layer in captured_layers(call, adapter, family)]


def captured_layers(call: Call, adapter: Adapter, family: str) -> Iterable[Captured]:
    """What the adapter is given: one captured call for every layer in ``call``."""
    around, maps = call.surroundings, call.maps
    if around is not None and maps is not None:
        # Its stages have the samples of the module; of these, some may be heads of the maps.
        fits = maps.is_usual and maps.sizes[0] == around.given.shape[0]
        around = around if fits else None
    whole = Captured(
        name=call.name,
        family=family,
        module=call.module,
        weights=Weights(call.module, copied=adapter.rewrites_weights),
        arguments=in_float64(dict(call.arguments)),
        output=in_float64(call.first_output),
        surroundings=around,
        maps=maps,
        made_of=call.made_of,
        ran=call.ran,
    )
    return adapter.split(whole)


def whole_layer(layer: Captured, adapter: Adapter, mixer: Any, tolerance: float) -> AffineLayer:
    """The whole layer from input to output, compared with the captured output like its mixer."""
    if adapter.whole is None and layer.surroundings is not None:  # compared by ``error_around``
        return _with_stages(layer, adapter, mixer, layer.output)
    whole, error = whole_and_error(layer, adapter, mixer)
    if not error <= tolerance:
        raise ReconstructionError(_worded(layer, error, tolerance), error)
    return whole


def whole_and_error(layer: Captured, adapter: Adapter, mixer: Any) -> tuple[AffineLayer, float]:
    if adapter.whole is not None:
        made = adapter.whole(mixer)
        return made, relative_error(made(made.given), layer.output)
    response = as_tokens(respond(mixer.system(), mixer.signal()), mixer.value)
    whole = _with_stages(layer, adapter, mixer, response)
    entered, value = whole.enter(whole.given), mixer.value
    has_values = entered.shape[-1] == width_of(value)
    if has_values and relative_error(as_values(entered, value), value) <= SAME_VALUES:
        rebuilt = whole.leave(response)  # of the mixer's own values, as a rule
    else:
        rebuilt = whole(whole.given)
    other, output = adapter.overlooked(layer), _put_out(layer)
    if other is not None and rebuilt.shape == output.shape:
        rebuilt = torch.where(other.unsqueeze(-1), output, rebuilt)
    return whole, relative_error(rebuilt, output)


def _knows_stages(adapter: Adapter, mixer: Any) -> bool:
    """Whether the stages around a mixer are known; not how windows lie in a module's input."""
    has_both = adapter.enter is not None and adapter.leave is not None
    return has_both and mixer.value.ndim <= WITH_HEADS


def _with_stages(layer: Captured, adapter: Adapter, mixer: Any, response: Tensor) -> WholeMixer:
    """The mixer with its stages, some of which are frozen at its ``response``."""
    assert adapter.enter is not None and adapter.leave is not None  # noqa: S101, PT018
    enter, around = adapter.enter(layer), layer.surroundings
    given = layer.arguments[adapter.takes] if around is None else in_float64(around.given)
    return WholeMixer(
        given=given,
        enter=enter,
        mixer=mixer,
        leave=adapter.leave(layer, response),
        output=_put_out(layer),
        is_all=around is None or around.is_all,
        leaving=partial(_left, adapter.leave, layer),
    )


def _left(leave: Callable[[Captured, Tensor], Chain], layer: Captured, response: Tensor) -> Tensor:
    """The output of a layer for another response, which some factors of its stages are made of."""
    return leave(layer, response)(response)


def _put_out(layer: Captured) -> Tensor:
    return layer.output if layer.surroundings is None else in_float64(layer.surroundings.output)


def error_around(
    layer: Captured,
    adapter: Adapter,
    mixer: Any,
    mixed: Tensor,
    *,
    tokens: Int[Tensor, " some"] | None = None,
) -> float:
    """How far the values and the output of an attention are from those of its module, relative.

    The values out of the input of their projection, the output through output gate and projection.
    Zero where it was not recognised what the module computes before and after its attention: there
    only the mixer is known.
    """
    around = layer.surroundings
    if around is None or not _knows_stages(adapter, mixer):
        return 0.0
    whole, other = _with_stages(layer, adapter, mixer, mixed), adapter.overlooked(layer)
    given, enter, value = whole.given, whole.enter, mixer.value
    leave, output = whole.leave, _put_out(layer)
    if tokens is not None:
        if mixed.shape[-3] == given.shape[-2]:
            enter, given, value = enter.at(tokens), given[..., tokens, :], value[..., tokens, :]
        leave, output = leave.at(tokens), output[..., tokens, :]
        mixed = mixed.index_select(-3, tokens)
        other = None if other is None else other[..., tokens]
    entered, rebuilt = as_values(enter(given), value), leave(as_tokens(mixed, value))
    if rebuilt.shape != output.shape:
        return math.inf
    if other is not None:
        rebuilt = torch.where(other.unsqueeze(-1), output, rebuilt)
    return max(relative_error(entered, value), relative_error(rebuilt, output))


def relative_error(
    rebuilt: Shaped[Tensor, "*ours"],
    captured: Shaped[Tensor, "*theirs"],
    *,
    size: float | None = None,
) -> float:
    """Largest absolute difference over the largest captured value; infinite if shapes differ."""
    if rebuilt.shape != captured.shape:
        return float("inf")
    size, difference = largest(captured) if size is None else size, largest(rebuilt - captured)
    return difference / size if size > 0 else difference


def largest(numbers: Shaped[Tensor, "*axes"]) -> float:
    """The largest absolute value, in one pass; NaN where there is one, and 0 of no numbers."""
    if numbers.numel() == 0:
        return 0.0
    if numbers.is_complex() or numbers.dtype == torch.bool:
        return float(numbers.abs().max().item())
    low, high = numbers.aminmax()
    return abs(float(torch.maximum(-low, high).item()))  # of zeros no negative zero


def _who(layer: Captured) -> str:
    return f"{layer.name} ({described(layer.module)}, read as '{layer.family}')"


def _not_finite(layer: Captured) -> str:
    return (
        f"{_who(layer)}: its output holds NaN or infinite numbers, so nothing can be compared. "
        "Look for an input that overflows the dtype, or for a query whose keys are all masked."
    )


def _worded(layer: Captured, error: float, tolerance: float, compared_with: str = IN_DOUBLE) -> str:
    if not math.isfinite(largest(layer.output)):
        return _not_finite(layer)
    cause = (
        "Its map would not be the layer's: the module does not compute what its family does, in "
        "this release of its library or after a change to it. Upgrade the library, read it with an "
        "adapter of its own, or report it."
    )
    if any(map(is_cache, layer.arguments.values())):
        cause = (
            "It was called with a cache: either what the cache holds of earlier tokens is not "
            "read, or the module continues one in another way than it begins. Run the whole "
            "sequence without one."
        )
    return (
        f"{_who(layer)}: the rebuilt layer differs by {error:.1e} relative from {compared_with}, "
        f"above the tolerance of {tolerance:.0e}. {cause}"
    )
