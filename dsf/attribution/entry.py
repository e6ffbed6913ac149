"""``stack``: records a model on one input as one affine network across its layers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsf.attribution.mixer_calls import calls_by_module
from dsf.attribution.stacked import Stack
from dsf.attribution.trace import Trace
from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.caches import lent
from dsf.inspection.capture.calls import Call
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import guarded, in_float64
from dsf.inspection.errors import InspectionError
from dsf.inspection.examine import Question, examine
from dsf.inspection.families.registry import Known
from dsf.inspection.rebuild import is_known_whole
from dsf.inspection.recorded_run import without_cache
from dsf.inspection.results.layers import Inspection
from dsf.inspection.softmax.interface import plain_experts, recording_attention
from dsf.inspection.wide_copy import wide_copy
from dsf.runtime.argument_checks import checked


def blocks_of(model: nn.Module, mixers: Sequence[str], wanted: str | None) -> dict[str, nn.Module]:
    """The blocks in order, by path: the entries of the list of modules that contains the mixers.

    Raises:
        InspectionError: if there is no such list, or there are several and ``wanted`` is None.
    """
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and any(mixer.startswith(f"{path}." if path else "") for mixer in mixers)
    }
    outer = [path for path in lists if not any(_holds(other, path) for other in lists)]
    if wanted is not None and wanted not in lists:
        raise InspectionError(
            f"stack: blocks='{wanted}' is no list of modules with token mixers in it. Name one of: "
            f"{', '.join(map(repr, lists)) or 'none; this model has no such list'}."
        )
    if wanted is None and len(outer) != 1:
        raise InspectionError(
            f"stack: needs one list of blocks with token mixers in them, but the model has "
            f"{', '.join(map(repr, outer)) or 'none'}. Name one: stack(model, ..., blocks='...')."
        )
    chosen = outer[0] if wanted is None else wanted
    return dict(zip(_children(chosen, lists), lists[chosen].children(), strict=True))


def _holds(outer: str, inner: str) -> bool:
    return outer != inner and (outer == "" or inner.startswith(f"{outer}."))


@checked
@torch.inference_mode(False)
def stack(
    model: nn.Module | str | Path,
    *inputs: Any,
    blocks: str | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Stack:
    """Compose the token mixers of a model across its layers, on one input.

    A copy of the model runs in float64. Every mixer enters as the whole layer of its inspection.
    Between the mixers, operations that are linear in the residual stream are recorded as they are.
    Everything else is frozen at its value on this run:

    - a norm divides by the root mean square or deviation of this run,
    - an activation is the factor ``act(p) / p``,
    - of a product of two branches of the stream, the one with an activation is a constant (a gate),
    - a module with other operations (a mixture of experts) that treats every token by itself is,
      for each token, the matrix of smallest norm from its input to its output; ``closed`` lists
      these modules.

    The network is then exactly affine in the stream, and on this input it gives the model's own
    hidden states. Another input has other factors.

    Args:
        model: a torch module, the folder of a checkpoint, or a hub id. A module is copied.
        inputs, named: what the model is called with, such as ``input_ids=...``.
        blocks: the path of the list of blocks, such as ``model.layers``, where a model has several
            (an encoder and a decoder).
        adapters: how to read modules of your own, as for :func:`dsf.inspect`.

    Raises:
        InspectionError: if the blocks are not found or did not run.
        UnreadableError: if an operation between the mixers cannot be recorded as affine.
        ReconstructionError: if a layer is not reproduced. Whether the steps reproduce the hidden
            states of the model is checked when numbers are asked for.

    Example:
        >>> import dsf, torch
        >>> _ = torch.manual_seed(0)
        >>> layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        >>> model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        >>> stack = dsf.stack(model, torch.randn(1, 5, 8))
        >>> stack
        Stack(TransformerEncoder: 3 blocks, 5 tokens; exact to 1e-15)
        >>> parts = stack.contributions()  # from the first block's input to the last one's output
        >>> parts.shape
        torch.Size([1, 5, 5, 8])
        >>> whole = parts.sum(dim=2) + stack.remainder()
        >>> torch.testing.assert_close(whole, stack.hidden[-1])
    """
    tokenizer, notes = None, ""
    if not isinstance(model, nn.Module):
        from dsf.loading import load_model

        loaded = load_model(model)
        model, tokenizer, notes = loaded.model, loaded.tokenizer, " ".join(loaded.notes)
    model = wide_copy(getattr(model, "_orig_mod", model), adapters).requires_grad_(False)
    inputs, named = in_float64(inputs), in_float64(named)
    attempt = _Attempt(model, blocks)
    question = Question(
        inputs=inputs, named=named, adapters=adapters, checks="none", beside=attempt.beside
    )
    inspection = examine(model, question)
    if notes:
        known = {**inspection.environment, "on loading": notes}
        inspection = replace(inspection, environment=known)
    found = blocks_of(model, list(calls_by_module(inspection.layers)), blocks)
    trace, attempt.trace = attempt.trace, None
    if trace is None or trace.blocks != list(found) or not trace.settle(inspection.layers):
        trace = _recorded(model, inputs, named, list(found), inspection)
    with torch.random.fork_rng(), torch.no_grad(), plain_experts(model), guarded(model):
        for closed in trace.closed:
            closed.check()
    if not trace.is_complete:
        raise InspectionError(
            f"stack: the block {list(found)[-1]} did not run. Name other blocks: "
            "stack(model, ..., blocks='...')."
        )
    return Stack(
        inspection=inspection,
        blocks=tuple(found),
        states=tuple(trace.states),
        hidden=tuple(trace.streams),
        closed=tuple(closed.name for closed in trace.closed),
        logits=trace.logits,
        output=trace.output,
        mixers=tuple(trace.mixed),
        names=trace.names,
        tokenizer=tokenizer,
        results=trace.results,
    )


class _Attempt:
    """Records the run of the inspection itself, where the list of blocks can be foretold.

    Attributes:
        trace: what was recorded; None if there is no list of modules.
    """

    def __init__(self, model: nn.Module, wanted: str | None):
        self.trace: Trace | None = None
        self._model, self._wanted = model, wanted

    @contextmanager
    def beside(self, known: Known, calls: Sequence[Call]) -> Iterator[None]:
        blocks = likely_blocks(self._model, self._wanted)
        if not blocks:
            yield
            return
        whole = {path: is_known_whole(adapter) for path, (adapter, _) in known.items()}
        self.trace = Trace(self._model.eval(), blocks, None, whole, calls)
        with self.trace.recorded():
            yield


def likely_blocks(model: nn.Module, wanted: str | None) -> list[str]:
    """The paths of the blocks as they are told before the mixers are known: the largest list."""
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module)
    }
    if wanted is not None:
        lists = {path: module for path, module in lists.items() if path == wanted}
    if not lists:
        return []
    outer = [path for path in lists if not any(_holds(other, path) for other in lists)]
    sizes = {path: sum(part.numel() for part in lists[path].parameters()) for path in outer}
    return _children(max(outer, key=sizes.__getitem__), lists)


def _children(path: str, lists: Mapping[str, nn.Module]) -> list[str]:
    front = f"{path}." if path else ""
    return [f"{front}{name}" for name, _ in lists[path].named_children()]


def _recorded(
    model: nn.Module,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    blocks: Sequence[str],
    inspection: Inspection,
) -> Trace:
    """A run of its own, with the layers known."""
    trace = Trace(model.eval(), blocks, calls_by_module(inspection.layers))
    with (
        torch.random.fork_rng(),
        torch.no_grad(),
        plain_experts(model),
        guarded(model),
        trace.recorded(),
        _attention_as_inspected(model),
    ):
        model(*lent(inputs), **lent(without_cache(model, named)))
    return trace


@contextmanager
def _attention_as_inspected(model: nn.Module) -> Iterator[None]:
    """Run attention as an inspection does, since other ways give other outputs for padding."""
    where = ModuleStack(model, claimed=set())
    with where.followed(), recording_attention(model, where, []):
        yield
