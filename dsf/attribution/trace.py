"""Records one run of a model as affine steps, from the first block to what the model puts out.

``Trace`` hooks all modules and follows the residual stream between the mixers. A call of a mixer is
one step, that of its inspected whole layer; a module whose inside cannot be followed is frozen.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsf.attribution.affine_steps import Step
from dsf.attribution.closed_modules import Closed, closed
from dsf.attribution.linear_parts import tensors_in
from dsf.attribution.mixer_calls import (
    FollowedCall,
    InnerMixer,
    Layers,
    Mixers,
    MixerStep,
    OpenCall,
    calls_by_module,
    mixer_call,
    result_of,
    settled,
)
from dsf.attribution.stream_follower import Follower, Frozen, step_of
from dsf.attribution.targets import put_out
from dsf.inspection.capture.calls import Call
from dsf.inspection.capture.integrity import times_written
from dsf.inspection.errors import UnreadableError
from dsf.inspection.results.layers import InspectedLayer
from dsf.runtime.threads import each_in_parallel

TIME_FIRST = ("gru", "lstm", "rnn_tanh", "rnn_relu", "multi_head_attention_forward")
"""Functions of torch's layers, which are followed where the first axis counts samples."""


@dataclass(eq=False)
class _Running:
    """A module that runs: how many calls and results there were before it, and its own call."""

    name: str
    began: int
    results: int
    call: Mixers | None = None


class Trace:
    """A run recorded as steps.

    Without ``mixers`` the layers are not rebuilt yet while the model runs: calls of token mixers
    are left open, and ``settle`` fills them in. What such a trace stumbles over is no error but
    its ``failure``: with the layers known, the run can be recorded once more.

    Args:
        blocks: the paths of the blocks, in order.
        mixers: the layers that run in each module, by its path; None while they are not known.
        known: the paths of modules that will be layers, with whether these are known whole.
        calls: the calls of token mixers that have been recorded so far, in order.

    Attributes:
        states: the steps that give the input of every block and the output of the last.
        streams: their values.
        closed: modules that are frozen as one matrix for every token.
        mixed: the calls of token mixers that are known as whole layers.
        logits: what the model puts out: its logits, or the first tensor of its output.
        output: the step whose result these are; None if they do not depend linearly on the streams.
        results: of steps that a module put out, with the shape of the streams.
        failure: what went wrong while no layers were known.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[str],
        mixers: Mapping[str, Iterator[Layers]] | None,
        known: Mapping[str, bool] | None = None,
        calls: Sequence[Call] = (),
    ):
        self.states: list[Step] = []
        self.streams: list[Tensor] = []
        self.closed: list[Closed] = []
        self.mixed: list[MixerStep] = []
        self.logits: Tensor | None = None
        self.output: Step | None = None
        self.results: dict[Step, Tensor] = {}
        self.failure: str | None = None
        self.blocks = list(blocks)
        self._model, self._mixers = model, mixers
        self._known, self._calls = known or {}, calls
        self._open: dict[str, list[OpenCall | None]] = {}
        self._follower = Follower(self._failed if mixers is None else None)
        self._lent: list[tuple[Tensor, int | None]] = []
        self._running: list[_Running] = []
        self._writes = self._times_written()

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Record what the model computes inside the ``with`` block."""
        with ExitStack() as hooks:
            for name, module in self._model.named_modules():
                if isinstance(module, torch.jit.ScriptModule):
                    continue
                before = module.register_forward_pre_hook(self._before(name), with_kwargs=True)
                after = module.register_forward_hook(self._after(name), with_kwargs=True)
                hooks.callback(before.remove)
                hooks.callback(after.remove)
            hooks.enter_context(self._follower)
            hooks.callback(self._follower.forget)
            yield
        self._follower.failed = None  # no circle, so that a stack is freed once it is not used

    @property
    def is_complete(self) -> bool:
        """Whether the last block has returned."""
        return len(self.states) > len(self.blocks)

    def settle(self, layers: Sequence[InspectedLayer]) -> bool:
        """Fill in the calls that were left open; whether all layers and calls belong together.

        They do not where the model wrote into weights, which were restored after its run, or into
        results that were to be kept.
        """
        lent = any(times_written(part) != before for part, before in self._lent)
        written = lent or self._writes != self._times_written()
        if self.failure is not None or not self.is_complete or written:
            return False
        mixers = {path: list(several) for path, several in calls_by_module(layers).items()}
        if {path: len(several) for path, several in mixers.items()} != {
            path: len(several) for path, several in self._open.items()
        }:
            return False
        calls = [
            (call, those)
            for path, several in mixers.items()
            for call, those in zip(self._open[path], several, strict=True)
            if call is not None
        ]
        done = each_in_parallel(settled, calls)
        for (call, _), mixed in zip(calls, done, strict=True):
            if mixed is None:
                return False
            self.mixed.append(mixed)
            # The layer has the same numbers, which need not be held twice.
            self.results |= {call.source: mixed.whole.given, call.step: result_of(mixed.whole)}
        self.mixed.sort(key=lambda mixer: mixer.step.number)
        return True

    def _times_written(self) -> list[int]:
        parts = (*self._model.parameters(), *self._model.buffers())
        return [times_written(part) for part in parts]

    def _failed(self, error: Exception) -> None:
        """Record nothing more: the run is not what was expected of it."""
        self.failure = repr(error)  # the error itself holds everything that ran
        self._follower.resting = True

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        """Record nothing of what happens inside the ``with`` block, and note what goes wrong."""
        with self._follower.paused():
            try:
                yield
            except Exception as error:  # of any kind: the model itself is to run on
                if self._mixers is not None:
                    raise
                self.failure = repr(error)
        if self.failure is not None:
            self._follower.resting = True

    def _before(self, name: str) -> Any:
        def hook(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            if self._follower.resting:
                return
            running = _Running(name, len(self._calls), len(self.results))
            with self._hooked():
                if name in self.blocks and not self.is_complete:
                    self._add_stream(f"before {name}", (args, named))
                if self.states:
                    for around in self._inner():
                        around.given(self._follower, (args, named))
                if self._mixers is not None and self.states:
                    layers = next(self._mixers.get(name, iter(())), ())
                    if layers:
                        running.call = mixer_call(layers, (args, named))
            self._running.append(running)
            known = running.call.is_known if running.call is not None else self._known.get(name)
            self._follower.resting = self._follower.resting or bool(known and self.states)

        return hook

    def _after(self, name: str) -> Any:
        def hook(
            module: nn.Module, args: tuple[Any, ...], named: dict[str, Any], output: Any
        ) -> None:
            if self.failure is not None or not self._running or self._running[-1].name != name:
                return
            running = self._running.pop()
            self._follower.resting = False
            with self._hooked():
                self._record(running, module, (args, named), output)

        return hook

    def _record(self, running: "_Running", module: nn.Module, given: Any, output: Any) -> None:
        """Record what a module has put out."""
        name, call = running.name, running.call
        for around in (*self._inner(), *([call] if isinstance(call, InnerMixer) else [])):
            self.mixed += around.put_out(self._follower, output)
        if call is not None and not isinstance(call, InnerMixer | FollowedCall) and call.is_known:
            self.mixed += call.record(self._follower, output)
        elif self._mixers is None and self._is_mixer(running):
            self._leave_open(running, given, output)
        elif not self._holds_a_mixer(name):
            found = closed(self._follower, name, module, given, output)
            self.closed += [] if found is None else [found]
        if not isinstance(module, nn.Dropout | nn.Identity):
            for part in tensors_in(output):
                self._follower.name(part, name)
                self._keep(part)
        if name == self.blocks[-1] and not self.is_complete:
            self._add_stream(f"after {name}", output)
        if not name:
            self.logits = put_out(output)
            self.output = None if self.logits is None else self._step_at(self.logits)

    def _inner(self) -> Iterator[InnerMixer]:
        """The mixers that are parts of modules which run now."""
        return (one.call for one in self._running if isinstance(one.call, InnerMixer))

    def _is_mixer(self, running: "_Running") -> bool:
        """Whether a module is known to be a layer, or an attention was recorded in it."""
        if running.name in self._known:
            return True
        return any(call.name == running.name for call in self._calls[running.began :])

    def _leave_open(self, running: "_Running", given: Any, output: Any) -> None:
        """Follow what a mixer has put out as a step that is filled in later."""
        name = running.name
        calls = self._open.setdefault(name, [])
        parts = [part for part in tensors_in(given) if part.is_floating_point()]
        followed = [part for part in parts if self._step_at(part) is not None]
        found = list({id(part): part for part in followed}.values())
        if not self.states or not found:
            calls.append(None)
            return
        if len(found) > 1:
            raise UnreadableError(f"{name} is given {len(found)} streams")
        made, source = next(tensors_in(output)), self._step_at(found[0])
        assert source is not None  # noqa: S101  # that is how it was found
        step = self._follower.add(made, (source,))
        self._follower.forget_names_in(name)
        for inside in list(self.results)[running.results :]:
            del self.results[inside]
        calls.append(OpenCall(self._kept(found[0]), self._kept(made), source, step))

    def _keep(self, part: Tensor) -> None:
        step = self._follower.find(part)
        if not isinstance(step, Step) or step in self.results or not self.streams:
            return
        if part.shape == self.streams[0].shape:
            self.results[step] = self._kept(part)

    def _kept(self, part: Tensor) -> Tensor:
        """``part`` as it is now. No copy where the run can be repeated if it is written into."""
        if self._mixers is not None:
            return part.detach().clone()
        lent = part.detach()
        self._lent.append((lent, times_written(lent)))
        return lent

    @property
    def names(self) -> dict[Step, str]:
        """For steps whose result is the output of a module, its path."""
        return self._follower.names

    def _step_at(self, tensor: Tensor) -> Step | None:
        """The step that gives ``tensor``; None if it does not depend linearly on the streams."""
        what = self._follower.find(tensor)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            return None
        return step_of(what, tensor)

    def _holds_a_mixer(self, name: str) -> bool:
        paths = [*self._mixers] if self._mixers is not None else self._paths_so_far
        front = f"{name}." if name else ""
        return any(path == name or path.startswith(front) for path in paths)

    @property
    def _paths_so_far(self) -> list[str]:
        return [*self._known, *(call.name for call in self._calls)]

    def _add_stream(self, where: str, given: Any) -> None:
        """Add the residual stream at this place, which must be a step."""
        stream = next((part for part in tensors_in(given) if part.is_floating_point()), None)
        if stream is None or stream.ndim < 3:
            shape = "no tensor" if stream is None else f"a tensor of shape {tuple(stream.shape)}"
            raise UnreadableError(
                f"stack: {where} the residual stream must have the axes 'sample time width', but "
                f"there is {shape}. Call the model with a batch of sequences."
            )
        what = self._follower.find(stream) if self.states else self._follower.add(stream)
        if what is None or (isinstance(what, Frozen) and what.as_step is None):
            why = what.why if isinstance(what, Frozen) else ""
            reason = f"because of '{why}'" if why else "at all"
            if why in TIME_FIRST:
                reason += ", which has tokens on its first axis unless it is built batch_first=True"
            raise UnreadableError(
                f"stack: {where} the residual stream does not depend linearly on the one before it "
                f"{reason}, so the operations between the mixers cannot be followed. Single layers "
                "can be read: dsf.inspect(...)[k].whole."
            )
        step = step_of(what, stream)
        self.states.append(step)
        self.streams.append(self.results[step] if step in self.results else self._kept(stream))
