"""One run of a model, written down from the first block to behind the last."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dsf.inspection.errors import UnreadableError
from dsf.inspection.result import InspectedLayer
from dsf.inspection.stacking.affine import tensors_in
from dsf.inspection.stacking.closing import Closed, closed
from dsf.inspection.stacking.following import Follower, Held, step_of
from dsf.inspection.stacking.mixing import MixerCall
from dsf.inspection.stacking.steps import Step


class Trace:
    """The run as steps.

    Attributes:
        states: the stream in front of every block, and behind the last.
        streams: what they were.
        closed: modules that went in as the smallest map that does what they did.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Mapping[str, nn.Module],
        mixers: Mapping[str, Iterator[InspectedLayer]],
    ):
        self.states: list[Step] = []
        self.streams: list[Tensor] = []
        self.closed: list[Closed] = []
        self._model, self._blocks, self._mixers = model, list(blocks), mixers
        self._follower = Follower()
        self._running: list[tuple[str, MixerCall]] = []

    @contextmanager
    def following(self) -> Iterator[None]:
        """Write down what the model does while the block runs."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                after = module.register_forward_hook(self._after(name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            hooks.enter_context(self._follower)
            yield

    @property
    def is_complete(self) -> bool:
        """Whether the last block is through."""
        return len(self.states) > len(self._blocks)

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._follower.resting:
                return
            with self._follower.paused():
                if name in self._blocks:
                    self._at_border(f"in front of {name}", (args, named))
                layer = next(self._mixers.get(name, iter(())), None) if self.states else None
                call = None if layer is None else MixerCall(layer, (args, named))
            if call is not None:
                self._running.append((name, call))
                self._follower.resting = call.is_known

        return hook

    def _after(self, name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            call = None
            if self._running and self._running[-1][0] == name:
                _, call = self._running.pop()
                self._follower.resting = False
            if self._follower.resting:
                return
            with self._follower.paused():
                if call is not None and call.is_known:
                    call.written_down(self._follower, output)
                elif not self._holds_a_mixer(name):
                    found = closed(self._follower, name, module, (args, named), output)
                    self.closed += [] if found is None else [found]
                if name == self._blocks[-1]:
                    self._at_border(f"behind {name}", output)
            self._follower.resting = self.is_complete

        return hook

    def _holds_a_mixer(self, name: str) -> bool:
        return any(path == name or path.startswith(f"{name}.") for path in self._mixers)

    def _at_border(self, where: str, given: Any) -> None:
        """The stream there, which has to be a step."""
        stream = next((part for part in tensors_in(given) if part.is_floating_point()), None)
        if stream is None or stream.ndim < 3:
            shape = "nothing" if stream is None else f"the shape {tuple(stream.shape)}"
            raise UnreadableError(
                f"stack: {where} the stream must be 'sample time width', but there is {shape}. "
                "Give the model a batch of sequences."
            )
        what = self._follower.find(stream) if self.states else self._follower.add(stream)
        if what is None or (isinstance(what, Held) and what.as_step is None):
            reason = f"because of '{what.why}'" if isinstance(what, Held) else "at all"
            raise UnreadableError(
                f"stack: {where} the stream is not linear in the one before {reason}; what stands "
                "between the mixers is not understood. Single layers can be read: layer.whole."
            )
        self.states.append(step_of(what))
        self.streams.append(stream.detach().clone())
