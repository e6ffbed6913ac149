"""Follows the residual stream through a run, one torch function at a time, as affine steps."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from dsf.attribution.affine_steps import Step
from dsf.attribution.linear_parts import (
    ACTIVATIONS,
    ADDING,
    BLANK,
    DIVIDING,
    LAYOUT,
    MIXING,
    MULTIPLYING,
    NORMS,
    OF_THE_FIRST,
    REPLAYED,
    SAME,
    Call,
    Written,
    name_of,
    pieces,
    places_of,
    secant,
    tensors_in,
)
from dsf.inspection.capture.integrity import times_written

Function = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Frozen:
    """A value that depends on the stream nonlinearly and is frozen at its value on this run.

    Attributes:
        why: the function that is not linear.
        as_step: a function that, given the value, records it as a step after all, by the secant
            ``act(p) / p`` of an activation; None where there is none. It does not hold the value
            itself, which is freed when the model no longer needs it.
    """

    why: str
    as_step: Callable[[Tensor], Step] | None = None


Known = tuple[Tensor, Step | Frozen]


class Follower(TorchFunctionMode):
    """Records the torch functions that are applied to the tensors it follows.

    Args:
        failed: is told what could not be recorded; None to raise it.

    Attributes:
        resting: while True, nothing is recorded.
        names: for steps whose result is the output of a module, its path.
    """

    def __init__(self, failed: Callable[[Exception], None] | None = None) -> None:
        super().__init__()
        self.resting = False
        self.failed = failed
        self._numbers = count()
        # Weak, so that what the model throws away does not stay in memory.
        self._followed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self.names: dict[Step, str] = {}
        self._name_of: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Do not record what is computed inside the ``with`` block."""
        before, self.resting = self.resting, True
        try:
            yield
        finally:
            self.resting = before

    def add(
        self,
        output: Tensor,
        sources: Sequence[Step] = (),
        linear: Callable[..., Tensor] | None = None,
        rest: Tensor | None = None,
    ) -> Step:
        """Follow ``output`` as ``linear(*sources) + rest``; without sources as the first stream."""
        step = Step(next(self._numbers), output.shape, tuple(sources), linear, rest)
        self.follow(output, step)
        if output in self._name_of:
            self.names[step] = self._name_of[output]
        return step

    def name(self, tensor: Tensor, name: str) -> None:
        """Name the step of a tensor, also if it becomes a step only later."""
        what = self.find(tensor)
        if what is not None:
            self._name_of[tensor] = name
        if isinstance(what, Step):
            self.names[what] = name

    def forget_names_in(self, path: str) -> None:
        """Keep no step alive for its name alone where its module is inside of another."""
        inside = [step for step, name in self.names.items() if name.startswith(f"{path}.")]
        for step in inside:
            del self.names[step]

    def follow(self, tensor: Tensor, what: Step | Frozen) -> None:
        """From now on follow ``tensor`` as ``what``."""
        self._followed[tensor] = what

    def forget(self) -> None:
        """Follow nothing any more: frozen values keep their tensors and this follower alive."""
        self._followed.clear()

    def find(self, part: Any) -> Step | Frozen | None:
        """What ``part`` is followed as; None if it does not depend on the stream."""
        found: Step | Frozen | None = self._followed.get(part) if isinstance(part, Tensor) else None
        return found

    def __torch_function__(
        self,
        func: Function,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        found: dict[int, Known] = {}
        if not self.resting and self._followed:
            for part in tensors_in((args, kwargs)):
                if (what := self.find(part)) is not None:
                    found[id(part)] = part, what
        into = args[0] if found and args and isinstance(args[0], Tensor) else None
        before = None if into is None else times_written(into)
        output = func(*args, **kwargs)
        if found:
            try:
                self._record(func, args, kwargs, output, list(found.values()))
                if into is not None and times_written(into) != before:
                    self._written_through(into, name_of(func))
            except Exception as error:  # of any kind: the model itself is to run on
                if self.failed is None:
                    raise
                self.failed(error)
        return output

    def _record(
        self,
        func: Function,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output: Any,
        found: list[Known],
    ) -> None:
        name = name_of(func)
        if name in BLANK:
            return
        if name in OF_THE_FIRST and args:  # of others it takes the shape or the number type
            found = [known for known in found if known[0] is args[0]]
        if not found:
            return
        given, first = found[0]
        leads = bool(args) and args[0] is given
        if (out := kwargs.get("out")) is not None:
            for each in tensors_in(out):
                self.follow(each, Frozen(name))
                self._written_through(each, name)
        elif name == "setitem":
            self._write(*args)
        elif name in SAME and leads and isinstance(output, Tensor):
            self.follow(output, first)
        elif _is_activation(name, args) and leads and not _has_no_step(first):
            self.follow(output, Frozen(name, lambda value: self._secant(given, first, value)))
        elif name in NORMS and leads and len(found) == 1 and not _has_no_step(first):
            self.add(output, (step_of(first, given),), *NORMS[name](*args, **kwargs))
        elif (streams := _streams(name, args, found, leads=leads)) is not None:
            replayed: Function = REPLAYED.get(name, func)
            self._affine(Call(replayed, args, kwargs, output), streams)
        else:
            reasons = [
                what.why for _, what in found if isinstance(what, Frozen) and _has_no_step(what)
            ]
            for each in tensors_in(output):
                self.follow(each, Frozen(reasons[0] if reasons else name))

    def _written_through(self, view: Tensor, name: str) -> None:
        """What a view was made of holds from now on what was written into the view."""
        if view._base is not None:
            self.follow(view._base, Frozen(name))

    def _write(self, whole: Tensor, index: Any, value: Any) -> None:
        """Follow a tensor into which ``value`` has just been written."""
        into, of = self.find(whole), self.find(value)
        known = all(part is None or isinstance(part, Step) for part in (into, of))
        by_stream = any(self.find(part) is not None for part in tensors_in(index))
        given = value.shape if isinstance(value, Tensor) else torch.Size()
        places = None if by_stream or not known else places_of(whole, index)
        if places is None or len(given) > places.ndim:
            self.follow(whole, Frozen("setitem"))
            return
        written = Written(whole.shape, places, given, into is not None, of is not None)
        sources = [part for part in (into, of) if isinstance(part, Step)]
        self.add(whole, sources, written, written.rest(whole))

    def _secant(self, given: Tensor, source: Step | Frozen, output: Tensor) -> Step:
        return self.add(output, (step_of(source, given),), secant(output, given))

    def _affine(self, call: Call, streams: list[Known]) -> None:
        """Record a call that is affine in ``streams``: as steps, or frozen if all of them are."""
        tensors, known = [part for part, _ in streams], [what for _, what in streams]

        def sources() -> list[Step]:
            return [step_of(what, part) for part, what in streams]

        why = next((what.why for what in known if isinstance(what, Frozen)), "")
        if any(isinstance(what, Step) for what in known):
            for each, linear, rest in pieces(call, tensors):
                self.add(each, sources(), linear, rest)
            return
        shapes = replace(call, output=tree_map(_without_numbers, call.output))
        for k, each in enumerate(tensors_in(call.output)):

            def as_step(value: Tensor, k: int = k) -> Step:
                _, linear, rest = list(pieces(shapes, tensors))[k]
                return self.add(value, sources(), linear, rest)

            self.follow(each, Frozen(why, as_step))


def _without_numbers(part: Any) -> Any:
    if not isinstance(part, Tensor):
        return part
    return torch.empty(part.shape, dtype=part.dtype, device="meta")


def step_of(what: Step | Frozen, value: Tensor) -> Step:
    """The step that gives ``value``, which is followed as ``what``; an activation by its secant.

    Raises:
        ValueError: if a frozen value has no secant.
    """
    if isinstance(what, Step):
        return what
    if what.as_step is None:
        raise ValueError(f"'{what.why}' has no secant")
    return what.as_step(value)


def _has_no_step(what: Step | Frozen) -> bool:
    return isinstance(what, Frozen) and what.as_step is None


def _is_activation(name: str, args: tuple[Any, ...]) -> bool:
    """Whether ``name`` is elementwise and zero at zero, as powers with exponents from 1 are."""
    power = args[1] if name == "pow" and len(args) == 2 else None
    return name in ACTIVATIONS or (isinstance(power, int | float) and power >= 1)


def _streams(
    name: str, args: tuple[Any, ...], found: list[Known], *, leads: bool
) -> list[Known] | None:
    """The tensors in which the function ``name`` is linear; None if it is not.

    A product is linear in one of its factors while the other, such as a gate, is frozen.
    """
    able = [(part, what) for part, what in found if not _has_no_step(what)]
    steps: list[Known] = [(part, what) for part, what in able if isinstance(what, Step)]
    if name in ADDING:
        return able if len(able) == len(found) else None
    if name in LAYOUT:
        return able if leads and len(able) == len(found) == 1 else None
    if name in MIXING:
        return [known for known in able if len(args) > 2 and known[0] is args[2]] or None
    if name in DIVIDING and not leads:
        return None
    if name in MULTIPLYING or name in DIVIDING:
        chosen = steps or able
        leading = name not in DIVIDING or (bool(chosen) and chosen[0][0] is args[0])
        return chosen if len(chosen) == 1 and leading else None
    return None
