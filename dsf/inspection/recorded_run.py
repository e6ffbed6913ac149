"""What is wrong with the inputs of a model, where that is known.

Runs a model once and records the calls of its token mixers and attention functions.
"""

import inspect as signatures
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from difflib import get_close_matches
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.capture.calls import Call, Exchange, Invocation, begun, recording
from dsf.inspection.capture.containers import lent
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import described, dtype_of, guarded
from dsf.inspection.errors import InspectionError, memory_ran_out
from dsf.inspection.model_input import takes
from dsf.inspection.softmax import interface
from dsf.inspection.softmax.follower import recording_softmax

NUMBERS = "input_ids"
OURS = {
    **dict.fromkeys(("against", "position", "target"), "dsf.attribute, dsf.sweep and dsf.audit"),
    "blocks": "dsf.stack",
    "together": "dsf.sweep",
    **dict.fromkeys(("clean", "edits", "sources"), "dsf.intervene and dsf.sweep"),
    **dict.fromkeys(("exact", "memory", "probe", "checks"), "dsf.inspect"),
    **dict.fromkeys(("heads", "layers"), "dsf.inspect, dsf.attribute, dsf.intervene and dsf.sweep"),
    **dict.fromkeys(("progress", "strict", "tolerance", "tokens"), "dsf.inspect"),
    **dict.fromkeys(("adapters", "text"), "all functions that take a model"),
    "resume": "dsf.sweep",
}
"""By an argument of ours the functions that have it."""
AS_GOOD_AS = 0.85


def check_names(model: nn.Module, named: Iterable[str]) -> None:
    """Whether no input of a model of the library is a misspelt argument of ours."""
    # Its forward pass takes every name and ignores what it does not know.
    takes = signature(model.forward).parameters
    for name in named:
        near = [] if name in takes else get_close_matches(name, OURS, n=1, cutoff=AS_GOOD_AS)
        if near:
            raise InspectionError(
                f"{name}: no input of {type(model).__name__} is called so, which would ignore it "
                f"without a word. Did you mean '{near[0]}', an argument of {OURS[near[0]]}?"
            )


def hint(model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """A sentence with the cure; empty where the numbers are not to blame."""
    from dsf.loading.building import input_embeddings

    if getattr(model, "main_input_name", None) != NUMBERS:
        return ""
    if not inputs and named.get(NUMBERS) is None:
        given = any(named.get(other) is not None for other in ("inputs_embeds", "encoder_outputs"))
        return "" if given else "It reads numbers of tokens: pass input_ids=torch.tensor([[1, 2]])."
    numbers = named.get(NUMBERS, inputs[0] if inputs else None)
    wrong = _wrong(numbers, getattr(input_embeddings(model), "num_embeddings", None))
    return f"input_ids {wrong}." if wrong else ""


def _wrong(numbers: Any, known: int | None) -> str:
    """What is wrong with numbers of tokens, of which the model may know so many."""
    if not isinstance(numbers, Tensor):
        return (
            f"must be a tensor, such as torch.tensor([[1, 2]]), but it is {type(numbers).__name__}"
        )
    if numbers.is_floating_point():
        return "must be whole numbers, but they are fractions: convert them with .long()"
    if numbers.ndim != 2:
        cure = ": input_ids[None] is one sample" if numbers.ndim == 1 else ""
        return f"must have the axes (sample, time), but the shape is {tuple(numbers.shape)}{cure}"
    if not numbers.numel():
        return f"must have one token at least, but the shape is {tuple(numbers.shape)}"
    if known is not None:
        for extreme in (numbers.min().item(), numbers.max().item()):
            if not 0 <= extreme < known:
                return f"must be numbers from 0 to {known - 1}, but there is {extreme}"
    return ""


KEEP = "logits_to_keep"


@contextmanager
def as_it_ran(model: nn.Module) -> Iterator[None]:
    """Inside, modules that are repeated compute as they did in the run of the model."""
    wide = dtype_of(model) is torch.float64
    with guarded(model), interface.plain_experts(model) if wide else nullcontext():
        yield


def run(  # noqa: PLR0913 (what a run is called with, and what listens to it)
    model: nn.Module,
    watched: Mapping[str, nn.Module],
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    *,
    exchange: Exchange | None = None,
    only: Collection[str] | None = None,
    tracker: Any = None,
    kept: Collection[nn.Module] = (),
    passes: list[Invocation] | None = None,
) -> list[Call]:
    """Run ``model`` once and record every call of a token mixer.

    Args:
        watched: modules whose calls are recorded; so are attentions, fused and written out.
        exchange: what a recorded call is to return instead; None to leave it.
        only: the paths of modules whose calls alone are recorded, and cannot be repeated.
        kept: modules whose forward passes are kept whether a mixer runs in them or not.
        passes: receives the forward passes that are kept.
    """
    calls: list[Call] = []
    if interface.is_of_library(model):
        check_names(model, named)
    named = without_cache(model, named)
    inputs, named = lent(inputs), lent(named)
    where = ModuleStack(
        model,
        claimed=set(watched),
        exchange=exchange,
        tracker=tracker,
        keeps_passes=only is None,
        looks_around=only is None,
        only=only,
    )
    if passes is not None:
        passes.clear()
        where.invocations = passes
    where.keeps_outputs = where.keeps_passes  # that are compared with those of a pass in float64
    recorded = {path: module for path, module in watched.items() if where.records(path)}

    def keep(module: nn.Module, _: Any) -> None:
        frame, is_asking = where.frame_of(module), tracker is not None and tracker.is_asking
        if frame is not None and not is_asking and not where.is_claimed():
            begun(frame, where)

    with (
        recording_softmax(where, calls),
        interface.recording_attention(model, where, calls),
        recording(recorded, calls, where),
        ExitStack() as hooks,
        as_it_ran(model),
        nullcontext() if tracker is None else tracker.following(where, model, inputs, named),
    ):
        for one in kept:
            hooks.callback(one.register_forward_pre_hook(keep).remove)
        try:
            output = model(*inputs, **named)
            if tracker is not None:
                tracker.finish(output)
        except Exception as error:
            if is_out_of_memory(error):
                raise memory_ran_out(f"{described(model)}: its run", error) from error
            given = {f"input {k}": part for k, part in enumerate(inputs)} | named
            listed = ", ".join(
                f"{name} {tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}"
                if isinstance(part, Tensor)
                else f"{name} {type(part).__name__}"
                for name, part in given.items()
            )
            reason = f"{type(error).__name__}: {error}".rstrip(". \n")
            cure = hint(model, inputs, named) or (
                "Try to call the model itself with the same inputs; inspect passes them on "
                f"unchanged.{_wants_a_card(model)}"
            )
            raise InspectionError(
                f"{described(model)} could not be run on its inputs "
                f"({listed or 'none were given'}): {reason}. {cure}"
            ) from error
    return calls


def _wants_a_card(model: nn.Module) -> str:
    """What is likely to be the cause where modules of flash-linear-attention have no card."""
    if torch.accelerator.is_available():
        return ""
    of_fla = any(type(part).__module__.partition(".")[0] == "fla" for part in model.modules())
    return (
        " Its modules are those of flash-linear-attention, whose Triton kernels need a card, and "
        "this machine has none that torch can use: run it where there is one."
        if of_fla
        else ""
    )


def without_cache(model: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """``named`` with ``use_cache=False`` for models of the library."""
    # Several of them compute wrong outputs when they continue a cache.
    if not interface.is_of_library(model):
        return named
    is_known = "use_cache" in signatures.signature(model.forward).parameters
    is_known |= hasattr(getattr(model, "config", None), "use_cache")
    if is_known and takes(model, "use_cache"):
        return {"use_cache": False, **named}
    return named


def without_loss(model: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """``named`` without ``labels``, where a model of the library computes a loss from them."""
    # A loss joins all tokens behind the last token mixer and hides the logits. A model that makes
    # the tokens of its decoder of its labels needs them until these are made.
    if named.get("labels") is None or not interface.is_of_library(model):
        return named
    begins = (named.get(f"decoder_{what}") for what in ("input_ids", "inputs_embeds"))
    if getattr(model.config, "is_encoder_decoder", False) and all(one is None for one in begins):
        return named  # whose decoder is given nothing else to begin with
    return {name: value for name, value in named.items() if name != "labels"}


def without_logits(
    model: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]
) -> dict[str, Any]:
    """``named``, where a model of the library computes logits of the last token only."""
    # No token mixer comes after the language head, which takes a fifth to a third of a small
    # model's forward pass, and whose logits may be the largest tensor of it. With labels, as where
    # they are measured, all are needed. A model whose inner part gets the number as well, as that
    # of gemma4, leaves out other tokens of its last layers, too: it is called as it is.
    if not interface.is_of_library(model):
        return named
    signature = signatures.signature(model.forward)
    if KEEP not in signature.parameters or named.get("labels") is not None:
        return named
    inner: list[Any] = [part for part in model.modules() if hasattr(part, "get_output_embeddings")]
    is_passed_on = any(
        KEEP in signatures.signature(part.forward).parameters
        for part in inner
        if part is not model and part.get_output_embeddings() is None
    )
    is_positional = list(signature.parameters).index(KEEP) < len(inputs)
    return named if is_positional or is_passed_on else {KEEP: 1, **named}
