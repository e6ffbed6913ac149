"""Which modules are running, and which linear maps stand around an attention that is called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook


@dataclass(frozen=True, eq=False)
class Projected:
    """One call of a linear map."""

    module: nn.Module
    given: Tensor
    output: Tensor


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What a module did around its attention.

    Attributes:
        given: what the values were projected from, ``sample read model``.
        source: the linear map that made the values.
        places: which output of ``source`` each value is, ``(head channel)``.
        gate: what the response was multiplied by, ``sample time width``; None for nothing.
        out: the linear map behind; None where the module puts the response out.
        output: what the module put out, ``sample time model``.
    """

    given: Tensor
    source: nn.Module
    places: Int[Tensor, " width"]
    gate: Tensor | None
    out: nn.Module | None
    output: Tensor


def surroundings(
    value: Float[Tensor, "sample head read channel"],
    mixed: Float[Tensor, "sample time width"],
    before: list[Projected],
    after: list[Projected],
    *,
    added: tuple[Any, ...] = (),
    output: Any,
) -> Surroundings | None:
    """What stands around an attention, None where that is not recognised.

    Args:
        value, mixed: what reached the attention, and what left it.
        before, after: the linear maps that the module called on either side, first to last.
        added: what the module was given. A residual stream among it, which the module adds behind
            the last map (as bloom does), belongs to the block, not to the mixer.
        output: what the module put out; the first part where there are several.
    """
    while isinstance(output, tuple | list):
        output = output[0]
    found = _source(value, before)
    if found is None or not isinstance(output, Tensor) or output.ndim != 3:
        return None
    source, places = found
    given = source.given.reshape(value.shape[0], value.shape[2], -1)
    if not after:
        same = output.shape == mixed.shape and torch.equal(output, mixed)
        return _kept(given, source, places, None, None, output) if same else None
    # A gate may have a projection of its own in between.
    fitting = (call for call in after if call.given.shape == mixed.shape)
    behind = next((call for call in fitting if _ends(call.output, added, output)), None)
    if behind is None:
        return None
    output = behind.output
    equal = torch.equal(behind.given, mixed)
    gate = None if equal else _ratio(behind.given, mixed)
    return _kept(given, source, places, gate, behind, output)


def _ends(last: Tensor, added: tuple[Any, ...], output: Tensor) -> bool:
    """Whether the module puts out the last map's output, or that plus something it was given."""
    streams = (part for part in added if isinstance(part, Tensor) and part.shape == last.shape)
    sums = (stream + last for stream in streams if stream.is_floating_point())
    return torch.equal(last, output) or any(torch.equal(each, output) for each in sums)


def _kept(
    given: Tensor,
    source: Projected,
    places: Tensor,
    gate: Tensor | None,
    behind: Projected | None,
    output: Tensor,
) -> Surroundings:
    """Copies: what comes after may write into the originals."""
    return Surroundings(
        given=given.detach().clone(),
        source=source.module,
        places=places,
        gate=gate,
        out=None if behind is None else behind.module,
        output=output.detach().clone(),
    )


def _ratio(product: Tensor, factor: Tensor) -> Tensor:
    product, factor = product.detach().double(), factor.detach().double()
    return torch.where(factor == 0, 0, product / torch.where(factor == 0, 1, factor))


def _source(value: Tensor, calls: list[Projected]) -> tuple[Projected, Tensor] | None:
    """The linear map whose outputs the values are, and which output each of them is."""
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
    """For every column of ``wanted`` one of ``among`` that equals it; None if one has none."""
    of_number: dict[float, list[int]] = {}
    for k, number in enumerate(among[-1].tolist()):
        of_number.setdefault(number, []).append(k)
    found = []
    for k, number in enumerate(wanted[-1].tolist()):
        same = (p for p in of_number.get(number, ()) if torch.equal(among[:, p], wanted[:, k]))
        place = next(same, None)
        if place is None:
            return None
        found.append(place)
    return torch.tensor(found, device=wanted.device)


# A projection belongs to the module that holds it, or to that module's parent.
LEVELS = 2
Told = Callable[[Surroundings | None], None]
Through = Callable[["Frame", int, Any, Any], None]


@dataclass(eq=False)
class Frame:
    """A module that is running.

    Attributes:
        args, kwargs: what it was called with.
        projected: the linear maps it has called, first to last.
        awaiting: whom to tell once it is through, and how many maps had run when that was asked.
        invocation: what was copied of this forward pass, once a token mixer ran in it.
    """

    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    invocation: Any = None
    projected: list[Projected] = field(default_factory=list)
    awaiting: list[tuple[int, Through]] = field(default_factory=list)


class ModuleStack:
    """The modules that are running now, outermost first.

    Attributes:
        claimed: modules whose inside is read in another way.
    """

    def __init__(self, model: nn.Module, claimed: set[str]):
        self._names = {module: name for name, module in model.named_modules()}
        self._running: list[Frame] = []
        self.claimed = set(claimed)

    @property
    def module(self) -> nn.Module | None:
        """The innermost module of the model that is running."""
        running = (frame.module for frame in reversed(self._running))
        return next((module for module in running if module in self._names), None)

    def name_of(self, module: nn.Module) -> str:
        """Where ``module`` sits in the model, empty for the model itself and for other modules."""
        return self._names.get(module, "")

    def is_claimed(self) -> bool:
        """Whether a module that is running is read in another way."""
        return any(self._names.get(frame.module) in self.claimed for frame in self._running)

    def tell_surroundings(
        self, module: nn.Module, value: Tensor, mixed: Tensor, told: Told
    ) -> None:
        """Once ``module`` is through, tell what stood around the attention it just called.

        Args:
            value, mixed: what reached the attention, ``sample head read channel``, and what left
                it, ``sample time (head channel)``.
        """

        def tell(frame: Frame, ran: int, given: Any, output: Any) -> None:
            alone = len(frame.awaiting) == 1  # of several, none makes the output by itself
            told(around(frame, ran, value, mixed, given, output) if alone else None)

        self.when_through(module, tell)

    def frame_of(self, module: nn.Module) -> Frame | None:
        """The innermost running call of ``module``."""
        return next((one for one in reversed(self._running) if one.module is module), None)

    def is_running(self, module: nn.Module | None) -> bool:
        """Whether a call of ``module`` has begun and not ended."""
        return any(frame.module is module for frame in self._running)

    def when_through(self, module: nn.Module, tell: Through) -> None:
        """Once ``module`` is through, tell what it called, was given by position and put out."""
        frame = self.frame_of(module)
        if frame is not None:
            frame.awaiting.append((len(frame.projected), tell))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep track while the block runs."""
        handles = [
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        ]
        # A hook for all modules is not told keywords; those of single modules run after it.
        handles += [
            module.register_forward_pre_hook(self._note_arguments, with_kwargs=True)
            for module in self._names
            if not isinstance(module, torch.jit.ScriptModule)
        ]
        try:
            yield
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._running.append(Frame(module))

    def _note_arguments(self, module: nn.Module, args: tuple[Any, ...], kwargs: Any) -> None:
        if self._running and self._running[-1].module is module:
            self._running[-1].args, self._running[-1].kwargs = args, kwargs

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        if not self._running or self._running[-1].module is not module:
            return
        frame = self._running.pop()
        for ran, tell in frame.awaiting:
            tell(frame, ran, given, output)
        if is_linear(module) and len(given) == 1 and isinstance(output, Tensor):
            for outer in self._running[-LEVELS:]:
                outer.projected.append(Projected(module, given[0], output))


def around(
    frame: Frame, ran: int, value: Tensor, mixed: Tensor, given: Any, output: Any
) -> Surroundings | None:
    """What stood around an attention that ran after ``ran`` linear maps."""
    before, after = frame.projected[:ran], frame.projected[ran:]
    return surroundings(value, mixed, before, after, added=given, output=output)


def is_linear(module: nn.Module) -> bool:
    """Whether a module is a plain linear map: torch's, or the transposed one of GPT-2."""
    return isinstance(module, nn.Linear) or is_transposed(module)


def is_transposed(module: nn.Module) -> bool:
    """Whether the weight of a linear map is ``input output``."""
    return type(module).__name__ == "Conv1D" and not isinstance(module, nn.Linear)
