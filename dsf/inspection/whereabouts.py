"""Which module of a model is running, and which linear maps it has called."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from dsf.inspection.surroundings import Projected, Surroundings, surroundings

# A projection belongs to the module that holds it, or to that module's parent.
LEVELS = 2
Told = Callable[[Surroundings | None], None]
Through = Callable[["Frame", int, Any, Any], None]


@dataclass(eq=False)
class Frame:
    """A module that is running.

    Attributes:
        projected: the linear maps it has called, first to last.
        awaiting: whom to tell once it is through, and how many maps had run when that was asked.
    """

    module: nn.Module
    projected: list[Projected] = field(default_factory=list)
    awaiting: list[tuple[int, Through]] = field(default_factory=list)


class Whereabouts:
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
        """Where ``module`` sits in the model, empty for the model itself and for strangers."""
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

    def is_running(self, module: nn.Module | None) -> bool:
        """Whether a call of ``module`` has begun and not ended."""
        return any(frame.module is module for frame in self._running)

    def when_through(self, module: nn.Module, tell: Through) -> None:
        """Once ``module`` is through, tell what it called, was given by position and put out."""
        for frame in reversed(self._running):
            if frame.module is module:
                frame.awaiting.append((len(frame.projected), tell))
                return

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Keep track while the block runs."""
        handles = (
            register_module_forward_pre_hook(self._enter),
            register_module_forward_hook(self._leave, always_call=True),
        )
        try:
            yield
        finally:
            self._running.clear()
            for handle in handles:
                handle.remove()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._running.append(Frame(module))

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
