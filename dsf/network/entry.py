"""``stack``: a model on one input, as one linear network from token to token."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsf.inspection.adapter import Adapter
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import guarded, widened
from dsf.inspection.entry import inspect
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.recorded_run import without_cache
from dsf.inspection.softmax.interface import plain_experts, recording_attention
from dsf.network.stacked import Stack
from dsf.network.trace import Trace, calls_by_module


def blocks_of(model: nn.Module, mixers: Sequence[str], wanted: str | None) -> dict[str, nn.Module]:
    """The blocks one after the other, by path: the list of modules in which the mixers sit.

    Raises:
        InspectionError: if there is no such list, or several and none is named.
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
            f"stack: blocks='{wanted}' is no list of modules with token mixers in it. There are: "
            f"{', '.join(map(repr, lists)) or 'none'}."
        )
    if wanted is None and len(outer) != 1:
        raise InspectionError(
            f"stack: needs one list of blocks with token mixers in them, but the model has "
            f"{', '.join(map(repr, outer)) or 'none'}. Name one: stack(model, ..., blocks='...')."
        )
    chosen = outer[0] if wanted is None else wanted
    front = f"{chosen}." if chosen else ""
    return {f"{front}{name}": module for name, module in lists[chosen].named_children()}


def _holds(outer: str, inner: str) -> bool:
    return outer != inner and (outer == "" or inner.startswith(f"{outer}."))


def stack(
    model: nn.Module | str | Path,
    *inputs: Any,
    blocks: str | None = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Stack:
    """Compose the token mixers of a model across its layers, on one input.

    A copy of the model runs in float64. Between the mixers, which go in as a whole, everything that
    is linear in the residual stream stays as it is. What is not is held as it was in this run:

    - a norm divides by the size it divided by,
    - an activation is the factor ``act(p) / p``,
    - of a product of two streams, the one that went through an activation is a constant,
    - a module of which none of this is understood (a mixture of experts), and through which every
      token goes by itself, is the smallest matrix that does to each token what it did; ``closed``
      lists these.

    So the network is linear, exactly so, and on this input it gives the model's own hidden states.
    Another input has other factors.

    Args:
        model: a torch module, the folder of a checkpoint, or a hub id. A module is left as it was.
        inputs, named: what the model is called with, such as ``input_ids=...``.
        blocks: the list of modules to go through, such as ``model.layers``, where there are several
            (an encoder and a decoder).
        adapters: how to read modules of your own, as :func:`dsf.inspect` takes them.

    Raises:
        InspectionError: if a mixer is not known as a whole, or the blocks are not found.
        UnreadableError: if the stream goes through something that is not understood.
        ReconstructionError: if the steps do not give back the hidden states of the model.

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
    if not isinstance(model, nn.Module):
        from dsf.loading import load_model

        model = load_model(model).model
    model = copy.deepcopy(getattr(model, "_orig_mod", model)).double().requires_grad_(False)
    inputs, named = widened(inputs), widened(named)
    inspection = inspect(model, *inputs, adapters=adapters, **named)
    mixers = calls_by_module(inspection.layers)
    found = blocks_of(model, list(mixers), blocks)
    trace = Trace(model.eval(), found, mixers)
    with torch.random.fork_rng(), torch.no_grad(), plain_experts(model), guarded(model):
        with trace.following(), _attention_as_inspected(model):
            model(*inputs, **without_cache(model, named))
        for closed in trace.closed:
            closed.check()
    if not trace.is_complete:
        raise InspectionError(f"stack: {list(found)[-1]} did not run; name other blocks.")
    made = Stack(
        inspection=inspection,
        blocks=tuple(found),
        states=tuple(trace.states),
        hidden=tuple(trace.streams),
        closed=tuple(closed.name for closed in trace.closed),
    )
    limit = max(layer.tolerance for layer in inspection)
    if not made.error <= limit:
        raise ReconstructionError(
            f"stack: the blocks of {inspection.model} give back its hidden states up to "
            f"{made.error:.1e} relative, above the tolerance of {limit:.0e}."
        )
    return made


@contextmanager
def _attention_as_inspected(model: nn.Module) -> Iterator[None]:
    """The route by which an inspection runs attention: padding comes out otherwise on others."""
    where = ModuleStack(model, claimed=set())
    with where.followed(), recording_attention(model, where, []):
        yield
