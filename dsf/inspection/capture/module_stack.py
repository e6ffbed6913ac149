"""The modules that are running, and the linear maps around an attention that one of them calls.

``ModuleStack`` follows by global hooks which modules run, and records in each ``Frame`` the calls
of linear maps. ``surroundings`` compares numbers to find the projection that made the values, the
output gate and the output projection.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from operator import is_
from threading import RLock, get_ident
from types import FunctionType, MethodType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.nn import functional
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dsf.inspection.capture.containers import (
    Copies,
    copied_once,
    own_caches,
    tensors_in,
    times_written,
)
from dsf.inspection.capture.isolation import Changes, undone
from dsf.inspection.capture.modes import unheard
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.capture.weights import is_packed
from dsf.runtime.threads import at_work


@dataclass(frozen=True, eq=False)
class Projected:
    """One call of a linear map: the module, its input and its output."""

    module: nn.Module
    given: Tensor
    output: Tensor
    writes: int | None = None


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a module computed before and after its attention.

    Attributes:
        places: for every channel of the values, ``(head channel)``, the output of ``source`` that
            it equals.
        gate: what the response was multiplied by, ``sample time width``; None for nothing.
        clamped: between which numbers the module clamped the projected values; None where not.
        is_all: whether the module puts ``output`` out, perhaps plus one of its inputs; else it goes
            on with it, as with a norm.
    """

    given: Tensor
    source: nn.Module
    places: Int[Tensor, " width"]
    gate: Tensor | None
    out: nn.Module | None
    output: Tensor
    clamped: tuple[float, float] | None = None
    is_all: bool = True


# A linear map is recorded for the module that contains it and for that module's parent.
LEVELS = 2
AfterCall = Callable[["Frame", int, Any, Any], None]


@dataclass(eq=False)
class Frame:
    """A module that is running.

    Attributes:
        callbacks: what to call once the module has returned, each with the number of linear maps
            that had run when it was added.
        writes: how often every tensor that it was called with had been written into then.
        attributes: the tensors in attributes of the module then, where a run is followed.
        products: how many stacks of matrices were multiplied in it, outside of other modules.
        is_whole: whether the module is read as a whole and its operations are not followed.
        is_vectorised: whether it is called inside of a vectorising transform.
        called: the modules that it has called.
        is_repeated: whether the module around it had called it before.
    """

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    invocation: Any = None
    began: int = 0
    projected: list[Projected] = field(default_factory=list)
    callbacks: list[tuple[int, AfterCall]] = field(default_factory=list)
    writes: list[int] = field(default_factory=list)
    attributes: dict[str, tuple[Tensor, int]] = field(default_factory=dict)
    autocast: tuple[tuple[str, torch.dtype], ...] = ()
    is_whole: bool = False
    is_vectorised: bool = False
    called: set[nn.Module] = field(default_factory=set)
    is_repeated: bool = False
    products: int = 0

    @property
    def is_spoiled(self) -> bool:
        return self.writes != _writes(self.args, self.kwargs)

    def written_into(self) -> dict[int, Tensor]:
        given = tensors_in((self.args, self.kwargs))
        if len(given) != len(self.writes):
            return {}
        pairs = enumerate(zip(given, self.writes, strict=True))
        return {k: part for k, (part, writes) in pairs if times_written(part) != writes}


def autocast_now() -> tuple[tuple[str, torch.dtype], ...]:
    enabled = (one for one in ("cpu", "cuda") if torch.is_autocast_enabled(one))
    return tuple((one, torch.get_autocast_dtype(one)) for one in enabled)


def attributes_of(module: nn.Module) -> dict[str, tuple[Tensor, int]]:
    """The tensors in plain attributes of a module, and how often each was written into."""
    plain = {name: part for name, part in vars(module).items() if isinstance(part, Tensor)}
    return {name: (part, times_written(part)) for name, part in plain.items()}


_GONE = object()


class History:
    """What modules had in their plain attributes and buffers at any time of a run.

    Such as a cache, a counter of calls, or what a first call leaves there for the next ones.

    Attributes:
        in_place: what the run changed besides, in place, of which no time is known.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.is_over, self._lock, self.in_place = False, RLock(), Changes()
        self._now = {module: _kept_in(module) for module in modules}
        self._changes: list[tuple[int, nn.Module, str, Any]] = []  # with what was there before

    def look(self, module: nn.Module, time: int) -> None:
        """Note what has changed in a module by this time of the run."""
        before, now = self._now.get(module), _kept_in(module)
        if before is None or (
            len(before) == len(now) and all(map(is_, before.values(), now.values()))
        ):
            return
        changed = {
            name: before.get(name, _GONE)
            for name in {**before, **now}
            if before.get(name, _GONE) is not now.get(name, _GONE)
            and not isinstance(now.get(name, before.get(name)), FunctionType | MethodType | partial)
        }
        # A flag alone is left: what it stands for stays, such as hooks that a first call adds.
        if not all(isinstance(now.get(name), bool) for name in changed):
            self._changes += [(time, module, *one) for one in changed.items()]
        self._now[module] = now

    def finish(self, time: int) -> None:
        for module in self._now:
            self.look(module, time)
        self.is_over = True

    @contextmanager
    def set_back(self, module: nn.Module, time: int, *, anew: bool = False) -> Iterator[None]:
        """Inside, a module and those in it have what they had at a time of the run that is over.

        Args:
            anew: whether all else is as it was before the run.
        """
        in_place = self.in_place if anew else []
        inside = {*module.modules()} if self.is_over and self._changes else set()
        changed = {(one, name) for _, one, name, _ in self._changes if one in inside}
        if not (changed or in_place):
            yield
            return
        with self._lock, undone(in_place):  # others may set back the same, on another thread
            now = {(one, name): _kept_in(one).get(name, _GONE) for one, name in changed}
            then = {(one, name): self._now[one].get(name, _GONE) for one, name in changed}
            for at, one, name, before in reversed(self._changes):
                if at >= time and one in inside:
                    then[one, name] = before
            _put(then)
            try:
                yield
            finally:
                _put(now)


def _put(attributes: Mapping[tuple[nn.Module, str], Any]) -> None:
    for (module, name), value in attributes.items():
        place = module._buffers if name in module._buffers else vars(module)
        if value is _GONE:
            place.pop(name, None)
        else:
            place[name] = value


def _kept_in(module: nn.Module) -> dict[str, Any]:
    return {**vars(module), **module._buffers}


def _writes(*given: Any) -> list[int]:
    return list(map(times_written, tensors_in(given)))


class ModuleStack:
    """The modules that are running now, outermost first.

    Args:
        claimed: paths of modules that are read as a whole or through the attention interface, so
            that no attention inside them is recorded a second time.
        keeps_passes: whether a forward pass with an attention in it is kept, with copies of what
            its module was called with, so that it can be repeated.
        only: the paths of the modules whose calls are recorded; None for all.
        attends: in a pass that is repeated, which products of which modules were attentions.
    """

    def __init__(  # noqa: PLR0913 (what is listened to, and what is kept of it)
        self,
        model: nn.Module,
        claimed: set[str],
        exchange: Callable[[Any], Tensor | None] | None = None,
        tracker: Any = None,
        *,
        keeps_passes: bool = True,
        looks_around: bool = True,
        only: Collection[str] | None = None,
        attends: Collection[tuple[nn.Module, int]] = (),
    ):
        self.tracker = tracker
        self.invocations: list[Any] = []
        self.last_call = 0
        self.keeps_passes, self._looks_around = keeps_passes, looks_around
        self._only, self._attends = only, attends
        self.time = 0  # of the latest event of the run
        self._watched = set(claimed)
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[Frame] = []
        self.copies = Copies()
        self._claimed = set(claimed)
        self._piece = self._now()
        self.exchange = exchange
        kept = filter(_takes_hooks, self._names) if keeps_passes else ()
        self.history = History(kept)

    @staticmethod
    def _now() -> tuple[object, int]:
        """The piece of work that is done now, and on which thread."""
        return at_work(), get_ident()

    def tick(self) -> int:
        """The time of an event of the run, later than all before."""
        self.time += 1
        return self.time

    def of(self, tensor: Any) -> Any:
        """From which tokens a tensor is made; None where that is not followed."""
        return None if self.tracker is None else self.tracker.of(tensor)

    def made_of(self, value: Any) -> list[Any]:
        """The same of all tensors in a value."""
        return list(map(self.of, tensors_in(value)))

    def are_weights(self, product: Any, place: int) -> bool:
        """Whether the left factor of a product of stacks of matrices holds weights of tokens."""
        # Only a run that is followed can tell; a pass that is repeated does as the run did.
        if self.tracker is None:
            return (self.module, place) in self._attends
        return bool(self.tracker.are_weights(product.left, product.right))

    def count_product(self) -> int:
        """How many products the innermost module has computed itself, this call of it."""
        frame = self.frame_of(self.module)
        if frame is None:
            return 0
        frame.products += 1
        return frame.products

    def own(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor, where later code of the model may write into it."""
        return copied_once(tensor, self.copies) if self.keeps_passes else tensor

    def has_read_in(self, frame: Frame) -> bool:
        if self.last_call > frame.began or not self._watched:
            return self.last_call > frame.began
        inside = (self._names.get(part) for part in frame.module.modules())
        return any(name in self._watched for name in inside)

    @property
    def module(self) -> nn.Module | None:
        """The innermost module of the model that runs, outside of vectorising transforms."""
        # A module that is called inside of one cannot be called again as it was.
        running = (one.module for one in reversed(self._running) if not one.is_vectorised)
        return next((module for module in running if module in self._names), None)

    def name_of(self, module: nn.Module) -> str:
        """The path of ``module`` in the model; empty for the model itself and for other modules."""
        return self._names.get(module, "")

    def records(self, name: str) -> bool:
        return self._only is None or name in self._only

    def claim(self, name: str) -> None:
        """Have no attention recorded inside of the module at a path: it is read as a whole."""
        self._claimed.add(name)

    def is_claimed(self) -> bool:
        return any(self._names.get(frame.module) in self._claimed for frame in self._running)

    def pass_surroundings(self, call: Any, mixed: Tensor) -> None:
        """Once its module has returned, give the call of an attention its surroundings."""
        value = call.arguments["value"]  # which may be put away until then

        def find(frame: Frame, ran: int, given: Any, output: Any) -> None:
            call.surroundings = surroundings(frame, ran, value, mixed, given, output, self.own)

        self.after_call(call.module, find)

    def frame_of(self, module: nn.Module | None) -> Frame | None:
        return next((one for one in reversed(self._running) if one.module is module), None)

    def around(self, frame: Frame) -> list[Frame]:
        """The frame and those of modules of the model around it, the innermost first."""
        outer = self._running[: self._running.index(frame) + 1]
        return [one for one in reversed(outer) if one.module in self._names]

    def after_call(self, module: nn.Module, callback: AfterCall) -> None:
        """Once ``module`` has returned, call ``callback``."""
        # Its arguments are the frame, the number of linear maps that have run so far, the
        # positional arguments of the module's call and its output.
        frame = self.frame_of(module) if self._looks_around else None
        if frame is not None:
            frame.callbacks.append((len(frame.projected), callback))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep track of the running modules inside the ``with`` block."""
        # Not of those that run on other threads: for other pieces of work, or as a module has them.
        self._piece = self._now()
        enter, leave = self._of_this_piece(self._enter), self._of_this_piece(self._leave)
        note = self._of_this_piece(self._note_arguments)
        project = self._of_this_piece(self._note_projection)

        def elsewhere(module: nn.Module, given: Any, output: Any) -> None:
            if module not in self._names or not _takes_hooks(module):
                leave(module, given, output)

        notes_arguments = self.keeps_passes or self.tracker is not None
        with ExitStack() as stack:
            hook = stack.enter_context
            hook(register_module_forward_pre_hook(enter))
            hook(register_module_forward_hook(elsewhere, always_call=True))
            if self._looks_around:
                hook(register_module_forward_hook(project))
            # A hook for all modules does not get keywords, and runs before those of single modules.
            # What hooks of others make of arguments and output is part of the module: it is called
            # before the first of them, and left after the last.
            for module in filter(_takes_hooks, self._names):
                hook(module.register_forward_hook(leave, always_call=True))
                if notes_arguments:
                    hook(module.register_forward_pre_hook(note, prepend=True, with_kwargs=True))
            stack.callback(self._running.clear)
            yield
            self.history.finish(self.time)

    def _of_this_piece(self, hook: Callable[..., None]) -> Callable[..., None]:
        """The hook for modules that run for this piece of work alone."""

        def alone(*given: Any) -> None:
            if self._now() == self._piece:
                with torch._C.DisableTorchFunction():  # no function of the model
                    hook(*given)

        return alone

    def _enter(self, module: nn.Module, _: Any) -> None:
        self.history.look(module, self.time)
        called = self._running[-1].called if self._running else set[nn.Module]()
        self._running.append(Frame(module, began=self.tick(), is_repeated=module in called))
        called.add(module)
        if self.tracker is not None:
            self._running[-1].attributes = attributes_of(module)
            self._running[-1].autocast = autocast_now()

    def begin_whole(self, module: nn.Module) -> None:
        """Follow no operation of a module that is read as a whole: its hooks have run."""
        if self._running and self._running[-1].module is module:
            self._running[-1].is_whole = True
            if self.tracker is not None:
                self.tracker.pause()

    def _note_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if self._running and self._running[-1].module is module:
            frame = self._running[-1]
            frame.args, frame.kwargs = self._as_called(args), self._as_called(kwargs)
            frame.writes = _writes(frame.args, frame.kwargs)
            frame.is_vectorised = peek_interpreter_stack() is not None
            if self.tracker is not None:
                self.tracker.begin(self._running[-1])

    def _as_called(self, given: Any) -> Any:
        """Arguments with every cache as it is now: the module writes into it before a copy of them
        may be asked for."""
        if not self.keeps_passes or not given:
            return given
        return own_caches(given, partial(copied_once, known=self.copies))

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        if not self._running or self._running[-1].module is not module:
            return
        frame = self._running.pop()
        self.history.look(module, self.time)
        if self.tracker is not None and frame.is_whole:
            self.tracker.resume(frame, output)
        elif self.tracker is not None and module in self._names and not frame.is_vectorised:
            self.tracker.settle(frame)
            self.tracker.check_output(frame, output)
        if frame.invocation is not None:
            frame.invocation.finish(output, self, frame)
        for ran, callback in frame.callbacks:
            callback(frame, ran, given, output)

    def _note_projection(self, module: nn.Module, given: Any, output: Any) -> None:
        """Note a linear map as its weight says it, before hooks of others change its output."""
        if not self._running or self._running[-1].module is not module:
            return
        if is_linear(module) and len(given) == 1 and isinstance(output, Tensor):
            projected = Projected(module, given[0], output, times_written(output))
            for outer in self._running[-LEVELS - 1 : -1]:
                outer.projected.append(projected)


def _takes_hooks(module: nn.Module) -> bool:
    return not isinstance(module, torch.jit.ScriptModule)


@unheard()
def surroundings(
    frame: Frame,
    ran: int,
    value: Float[Tensor, "sample head read channel"],
    mixed: Float[Tensor, "sample time width"],
    added: tuple[Any, ...],
    output: Any,
    own: Callable[[Tensor], Tensor],
) -> Surroundings | None:
    """What a module computed before and after its attention; None where it is not recognised.

    Nor where it called several attentions, since none of them makes the output alone. Where it adds
    one of its inputs, ``added``, behind its projection (as bloom does), that sum is left to the
    block.
    """
    before, after = frame.projected[:ran], frame.projected[ran:]
    while isinstance(output, tuple | list):
        output = output[0]
    found = _source(value, before) if len(frame.callbacks) == 1 else None
    if found is None or not isinstance(output, Tensor) or output.ndim != 3:
        return None
    source, places = found
    clamped = _clamped(source, places)
    if clamped is not None and not clamped[0] <= 0 <= clamped[1]:
        return None
    gate, behind, is_all = None, None, True
    if not after:
        if output.shape != mixed.shape or not torch.equal(output, mixed):
            return None
    else:
        # The projection of an output gate may run between the attention and the output projection.
        fitting = [call for call in after if call.given.shape == mixed.shape]
        behind = next((call for call in fitting if _ends(call.output, added, output)), None)
        is_all = behind is not None
        if behind is None:  # the module continues with the one projection of the response
            taking = [call for call in fitting if torch.equal(call.given, mixed)]
            behind = taking[0] if len(taking) == 1 else None
        if behind is None or behind.output.ndim != 3:
            return None
        if not torch.equal(behind.given, mixed):
            gated, plain = in_float64(behind.given), in_float64(mixed)
            gate = torch.where(plain == 0, 0, gated / torch.where(plain == 0, 1, plain))
        output = behind.output
    return Surroundings(
        given=own(source.given).reshape(value.shape[0], value.shape[2], -1),
        source=source.module,
        places=places,
        gate=gate,
        out=None if behind is None else behind.module,
        output=own(output),
        clamped=clamped,
        is_all=is_all,
    )


def _clamped(source: Projected, places: Int[Tensor, " width"]) -> tuple[float, float] | None:
    """To which numbers the module clamped the values in place, after their projection."""
    # None where it left them as they are, and a range without numbers where it did anything else.
    module = source.module
    if times_written(source.output) == source.writes or not isinstance(module, nn.Linear):
        return None
    before = functional.linear(source.given, module.weight, module.bias)[..., places]
    after = source.output[..., places]
    low, high = (float(part) for part in after.aminmax())
    if torch.equal(before, after):
        return None
    return (low, high) if torch.equal(before.clamp(low, high), after) else (1.0, -1.0)


def _ends(last: Tensor, added: tuple[Any, ...], output: Tensor) -> bool:
    """Whether the module's output is that of the last linear map, perhaps plus an input."""
    streams = (part for part in added if isinstance(part, Tensor) and part.shape == last.shape)
    sums = (stream + last for stream in streams if stream.is_floating_point())
    return torch.equal(last, output) or any(torch.equal(each, output) for each in sums)


def _source(value: Tensor, calls: list[Projected]) -> tuple[Projected, Tensor] | None:
    """The linear map that made the values, and which of its outputs each channel is."""
    samples, _, steps, _ = value.shape
    wanted = value.transpose(1, 2).flatten(-2).flatten(0, 1)
    for call in reversed(calls):
        if call.output.shape[:-1].numel() == samples * steps:
            places = _columns(wanted, call.output.reshape(samples * steps, -1))
            if places is not None:
                return call, places
    return None


def _columns(
    wanted: Float[Tensor, "tokens width"], among: Float[Tensor, "tokens outputs"]
) -> Int[Tensor, " width"] | None:
    """For every column of ``wanted`` the index of an equal one of ``among``; None if not all."""
    if wanted.dtype != among.dtype or wanted.is_complex():
        return None
    numbers, order = _hashed(among).sort(stable=True)
    places = torch.searchsorted(numbers, _hashed(wanted)).clamp(max=len(numbers) - 1)
    first = order[places]
    begin, side_by_side = int(first[0]), torch.arange(len(first), device=first.device)
    is_block = torch.equal(first - begin, side_by_side)  # as most are: a view, not a copy
    found = among[:, begin : begin + len(first)] if is_block else among[:, first]
    return first if torch.equal(found, wanted) else None


def _hashed(columns: Float[Tensor, "tokens width"]) -> Int[Tensor, " width"]:
    """A number for every column, the same for equal ones: of the bits in some of its rows."""
    some = columns[:: -(-len(columns) // HASHED_ROWS)].contiguous()
    bits = some.view(WHOLE_NUMBERS[some.element_size()])
    odd = 2 * torch.arange(len(bits), device=bits.device) + 1
    return (bits * odd.square().unsqueeze(1)).sum(dim=0)


HASHED_ROWS = 16
WHOLE_NUMBERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a linear map: torch's ``Linear``, a packed one, or GPT-2's ``Conv1D``."""
    if isinstance(module, nn.Linear) or is_transposed(module):
        return True
    return hasattr(module, "in_features") and is_packed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight of a linear map has the axes ``input output``, as in ``Conv1D``."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.Linear)
