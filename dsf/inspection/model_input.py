"""One way in: a model and a text, messages, a mapping of tensors or token numbers, as one call.

Every public function that takes a model reads its arguments here. What an encoder-decoder model
makes for its decoder itself (BART shifts the tokens of the encoder, or ``labels``, by one place)
becomes an input of its own, since maps of the decoder would bear the texts of the encoder's tokens.
``run`` calls the model once and records the calls of its token mixers and attention functions.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from copy import deepcopy
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dsf import loading
from dsf.evaluate.memory_plan import is_out_of_memory
from dsf.inspection.capture.calls import Call, Exchange, Invocation, begun, recording
from dsf.inspection.capture.containers import lent, mapped
from dsf.inspection.capture.isolation import isolated, uncompiled
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import described, dtype_of, guarded
from dsf.inspection.errors import InspectionError, memory_ran_out
from dsf.inspection.softmax.attention import is_of_library, plain_experts, recording_attention
from dsf.inspection.softmax.follower import recording_softmax
from dsf.loading.building import input_embeddings

NAME = "decoder_input_ids"
INSTEAD = (NAME, "decoder_inputs_embeds", "encoder_outputs", "past_key_values")
"""Arguments with which a model makes no tokens for its decoder, or does not begin anew."""


Spell = Callable[[Tensor], Sequence[Sequence[str]]]
"""The texts of token numbers, sample by sample."""


def takes(model: nn.Module, name: str) -> bool:
    """Whether a model can be called with an argument of this name."""
    parameters = signature(model.forward).parameters
    others = (each.kind is Parameter.VAR_KEYWORD for each in parameters.values())
    return name in parameters or any(others)


def _are_names(model: nn.Module, mapping: Mapping[Any, Any]) -> bool:
    """Whether a mapping holds the arguments of a model by their names, and is none of them."""
    if not all(isinstance(name, str) and takes(model, name) for name in mapping):
        return False
    kinds = {name: one.kind for name, one in signature(model.forward).parameters.items()}
    stars = {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    if any(kinds.get(name, Parameter.VAR_KEYWORD) not in stars for name in mapping):
        return True
    by_name = {Parameter.KEYWORD_ONLY, Parameter.VAR_KEYWORD}
    return hasattr(model, "main_input_name") or by_name.issuperset(kinds.values())


class _FoundError(Exception):
    """Ends a run of the model before its decoder begins."""


def with_decoder_tokens(
    model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    """The named arguments of a run, with the decoder's tokens among them.

    They are as they came for a model without a decoder besides its encoder, and for one that cannot
    be run on them, which the run itself will report.
    """
    given = dict(named)
    config = getattr(model, "config", None)
    is_pair = getattr(config, "is_encoder_decoder", False) is True and hasattr(model, "get_decoder")
    if (
        not (is_pair and takes(model, NAME))
        or len(inputs) > 1
        or any(given.get(name) is not None for name in INSTEAD)
    ):
        return given
    decoder = model.get_decoder()
    found: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tokens = kwargs.get("input_ids", args[0] if args else None)
        if isinstance(tokens, Tensor):
            found.append(tokens.clone())
        raise _FoundError

    if not isinstance(decoder, nn.Module):
        return given
    with (
        decoder.register_forward_pre_hook(note, with_kwargs=True),
        torch.no_grad(),
        torch.random.fork_rng(devices=[]),
        suppress(Exception),  # the run itself raises what is wrong
    ):
        model(*inputs, **given)
    return {**given, NAME: found[0]} if found else given


def decoder_texts(
    named: Mapping[str, Any], spell: Spell | None
) -> tuple[tuple[str, ...], ...] | None:
    """The texts of the decoder's tokens; None where they are not known."""
    ids = named.get(NAME)
    if spell is None or not isinstance(ids, Tensor) or ids.ndim != 2:
        return None
    return tuple(map(tuple, spell(ids)))


IDS, MASK = "input_ids", "attention_mask"
OPTIONS = ("text", "messages", "tokenizer", "device", "dtype", "revision", "generate")
"""Arguments of every function that takes a model, besides those of the model itself:

- ``text``: a text or several, which may also stand in the first place. Shorter ones are padded on
  the right, under an attention mask.
- ``messages``: a conversation as transformers takes it, through the tokenizer's own chat template.
- ``tokenizer``: of a model in memory; a folder brings its own.
- ``device``, ``dtype``: where and in which number type the model runs. A model in memory is copied.
- ``revision``: branch, tag or commit of a hub id.
- ``generate``: so many tokens are generated first (greedily), and belong to the input then.
"""


@dataclass(frozen=True, kw_only=True)
class ModelInput:
    """A model in memory and what it is called with.

    Attributes:
        model: the module itself; a copy where another device or number type was asked for.
        tokenizer: the one that was passed, or that of the folder; None where there is none.
        tokens: the text of every token of each sample, padding included; None without a tokenizer
            that has all of them.
        identity: the folder, file or hub id; None for a module.
        notes: what was ignored when a checkpoint was loaded, one sentence each.
    """

    model: nn.Module
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    tokenizer: Any | None = None
    tokens: list[list[str]] | None = None
    identity: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def numbers(self) -> Any:
        """The numbers of the tokens, if that is what the model is called with."""
        return numbers_in(self.inputs, self.named)

    @property
    def spell(self) -> Spell | None:
        """A function from token numbers to texts; None without a tokenizer."""
        return None if self.tokenizer is None else partial(_spelt, self.tokenizer)

    @property
    def environment(self) -> dict[str, str]:
        """What an inspection's environment says of the checkpoint."""
        return {"on loading": " ".join(self.notes)} if self.notes else {}


def numbers_in(inputs: Sequence[Any], named: Mapping[str, Any]) -> Any:
    return named.get(IDS, inputs[0] if inputs else None)


def _spelt(tokenizer: Any, numbers: Tensor) -> list[list[str]]:
    return [loading.token_texts(tokenizer, row) for row in numbers.tolist()]


def model_input(
    model: nn.Module | str | Path, inputs: tuple[Any, ...], named: Mapping[str, Any], *, where: str
) -> ModelInput:
    """Load the model if it is a path or hub id, and turn what was passed into its arguments."""
    options = {name: named[name] for name in OPTIONS if named.get(name) is not None}
    named = {name: value for name, value in named.items() if name not in OPTIONS}
    has_tokenizer = options.get("tokenizer") is not None
    text = options.pop("text", None)
    text, inputs, named = _first_place(model, text, inputs, named, has_tokenizer, where)
    messages = options.pop("messages", None)
    _check_sources(text, messages, inputs, named, where)
    device, dtype = options.get("device"), number_type(options.get("dtype"), where)
    _check_device(device, where)
    identity: str | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Any = options.get("tokenizer")
    if tokenizer is not None and not is_tokenizer(tokenizer):
        got = type(tokenizer).__name__
        raise unlike(where, "tokenizer", "a tokenizer of transformers", got)
    if isinstance(model, nn.Module):
        model = uncompiled(model)
        if "revision" in options:
            raise unlike(where, "revision", "a hub id as the model", "a module")
        if device is not None or dtype is not None:
            model = deepcopy(model).to(device=device, dtype=dtype)
    else:
        texts = [text] if isinstance(text, str) else list(text or ())
        if isinstance(messages, Sequence):
            texts = [str(one.get("content", "")) for one in messages if isinstance(one, Mapping)]
        loaded = loading.load_model(
            model, revision=options.get("revision"), dtype=dtype, texts=texts
        )
        model = loaded.model if device is None else loaded.model.to(device)
        identity, notes = loaded.identity, loaded.notes
        tokenizer = loaded.tokenizer if tokenizer is None else tokenizer
    _check_names(model, named, where)
    if text is not None or messages is not None:
        word = "text" if messages is None else "messages"
        if tokenizer is None:
            raise InspectionError(
                f"{where}: '{word}' needs a tokenizer, and the "
                + ("checkpoint has none. Pass input_ids=..." if identity else "model is a module. ")
                + ("" if identity else "Pass tokenizer=..., or input_ids=... instead.")
            )
        named = {**_encoded(tokenizer, text, messages, where), **named}
    if device is not None:
        inputs, named = mapped((inputs, named), lambda part: part.to(device))
    if "generate" in options:
        inputs, named = (), _generated(model, inputs, named, options["generate"], where)
    numbers, tokens = numbers_in(inputs, named), None
    if tokenizer is not None and isinstance(numbers, Tensor) and not numbers.is_floating_point():
        is_inside = bool(((numbers >= 0) & (numbers < len(tokenizer))).all())
        tokens = _spelt(tokenizer, numbers) if is_inside and numbers.ndim == 2 else None
    if tokens is None and options.get("tokenizer") is not None:
        raise InspectionError(
            f"{where}: 'tokenizer' has {len(tokenizer)} tokens, and the input is not numbers of "
            "these with the axes (sample, time). Pass the tokenizer that made them."
        )
    return ModelInput(
        model=model,
        inputs=inputs,
        named=dict(named),
        tokenizer=tokenizer,
        tokens=tokens,
        identity=identity,
        notes=notes,
    )


def unlike(where: str, name: str, expected: str, got: str) -> InspectionError:
    """The error for an argument that is something else than what it is to be."""
    return InspectionError(f"{where}: '{name}' expected {expected}, got {got}.")


def _check_device(device: Any, where: str) -> None:
    try:
        torch.empty(0, device=device)  # None is that of torch
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        what = "a device of this machine, such as 'cpu'"
        raise unlike(where, "device", what, f"{device!r} ({reason})") from error


def is_tokenizer(value: Any) -> bool:
    return hasattr(value, "convert_ids_to_tokens")


def _is_text(value: Any) -> bool:
    several = value if isinstance(value, list | tuple) else [value]
    return bool(several) and all(isinstance(each, str) for each in several)


def _first_place(
    model: Any,
    text: Any,
    inputs: tuple[Any, ...],
    named: dict[str, Any],
    has_tokenizer: bool,
    where: str,
) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A text or a mapping of tensors in the first place, as ``text`` and as named arguments."""
    # Modules that take no token numbers may read a text themselves.
    has_ids = not isinstance(model, nn.Module) or getattr(model, "main_input_name", None) == IDS
    if text is None and inputs and _is_text(inputs[0]) and (has_tokenizer or has_ids):
        text, inputs = inputs[0], inputs[1:]
    elif (
        inputs
        and isinstance(inputs[0], Mapping)
        and (not isinstance(model, nn.Module) or _are_names(model, inputs[0]))
    ):
        doubled = sorted(inputs[0].keys() & named.keys())
        if doubled:
            got = "two: by its name and in the mapping. Pass one of them"
            raise unlike(where, doubled[0], "one value", got)
        named, inputs = {**inputs[0], **named}, inputs[1:]
    if text is not None and not (_is_text(text) and all([text] if text == "" else text)):
        raise unlike(where, "text", "a text that is not empty, or several", repr(text))
    return text, inputs, named


def _check_sources(text: Any, messages: Any, inputs: Any, named: Any, where: str) -> None:
    """Raise if more than one of text, messages and token numbers was passed."""
    found = {"text": text, "messages": messages, IDS: named.get(IDS)}
    passed = [f"'{name}'" for name, value in found.items() if value is not None]
    if inputs and (text is not None or messages is not None):
        passed.append("an input in the first place")
    if len(passed) > 1:
        raise InspectionError(
            f"{where}: expected one input, got {' and '.join(passed)}. Pass one of them."
        )


def number_type(dtype: Any, where: str) -> torch.dtype | None:
    """Return a number type that may be given by its name, such as "bfloat16"."""
    found = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(found, torch.dtype) and found.is_floating_point):
        raise unlike(where, "dtype", "a number type such as torch.bfloat16", repr(dtype))
    return found


def _encoded(tokenizer: Any, text: Any, messages: Any, where: str) -> dict[str, Any]:
    if messages is not None:
        if not getattr(tokenizer, "chat_template", None):
            raise InspectionError(
                f"{where}: 'messages' needs a tokenizer with a chat template, and this one has "
                "none. Pass text=... instead."
            )
        batch = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
        )
        return dict(batch)
    samples = [text] if isinstance(text, str) else list(text)
    rows = [tokenizer(sample)[IDS] for sample in samples]
    if len(rows) == 1:
        return dict(tokenizer(samples, return_tensors="pt"))
    # On the right, where later tokens change nothing before them: a recurrence without a mask
    # passes the padding last. Any number does as padding, since the mask hides it.
    numbers = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    pad = next((each for each in numbers if each is not None), 0)
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {IDS: ids, MASK: mask} if bool((mask == 0).any()) else {IDS: ids}


def _generated(
    model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], count: Any, where: str
) -> dict[str, Any]:
    """The named arguments, followed by ``count`` tokens that the model generates greedily."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise unlike(where, "generate", "a number of tokens above zero", repr(count))
    ids = numbers_in(inputs, named)
    if not callable(getattr(model, "generate", None)) or not isinstance(ids, Tensor):
        raise InspectionError(
            f"{where}: 'generate' needs a model with a method generate and token numbers, and "
            f"{type(model).__name__} was not given both. Generate first, and pass input_ids=..."
        )
    mask = named.get(MASK, torch.ones_like(ids))
    if not bool(mask.bool().all()):
        got = "padded ones. Pass one text at a time"
        raise unlike(where, "generate", "texts of one length", got)
    with isolated(model):
        whole = model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
    longer = {MASK: torch.ones_like(whole)} if MASK in named else {}
    return {**named, IDS: whole, **longer}


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


def _check_names(model: nn.Module, named: Iterable[str], where: str) -> None:
    """Whether no input of a model of the library is a misspelt argument of ours."""
    if not is_of_library(model):
        return
    # Its forward pass takes every name and ignores what it does not know.
    parameters = signature(model.forward).parameters
    for name in named:
        near = [] if name in parameters else get_close_matches(name, OURS, n=1, cutoff=AS_GOOD_AS)
        if near:
            raise InspectionError(
                f"{where}: no input of {type(model).__name__} is called '{name}', and it would "
                f"ignore it without a word. Did you mean '{near[0]}', an argument of "
                f"{OURS[near[0]]}?"
            )


def hint(model: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any]) -> str:
    """A sentence with the cure; empty where the numbers are not to blame."""
    if getattr(model, "main_input_name", None) != IDS:
        return ""
    if not inputs and named.get(IDS) is None:
        given = any(named.get(other) is not None for other in ("inputs_embeds", "encoder_outputs"))
        return "" if given else "It reads numbers of tokens: pass input_ids=torch.tensor([[1, 2]])."
    known = getattr(input_embeddings(model), "num_embeddings", None)
    wrong = _wrong(numbers_in(inputs, named), known)
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


def tokens_shown(
    inputs: Sequence[Any], named: Mapping[str, Any]
) -> Bool[Tensor, "sample time"] | None:
    """Which tokens a mask of padding shows; None without a mask of samples and tokens."""
    masks = (part.get(MASK) for part in (named, *inputs) if isinstance(part, Mapping))
    mask = next((each for each in masks if isinstance(each, Tensor) and each.ndim == 2), None)
    return None if mask is None else mask != 0


KEEP = "logits_to_keep"


@contextmanager
def as_it_ran(model: nn.Module) -> Iterator[None]:
    """Inside, modules that are repeated compute as they did in the run of the model."""
    wide = dtype_of(model) is torch.float64
    with guarded(model), plain_experts(model) if wide else nullcontext():
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
    recorded = {path: module for path, module in watched.items() if where.records(path)}

    def keep(module: nn.Module, _: Any) -> None:
        frame, is_asking = where.frame_of(module), tracker is not None and tracker.is_asking
        if frame is not None and not is_asking and not where.is_claimed():
            begun(frame, where)

    with (
        recording_softmax(where, calls),
        recording_attention(model, where, calls),
        recording(recorded, calls, where),
        ExitStack() as hooks,
        as_it_ran(model),
        nullcontext() if tracker is None else tracker.following(where, model, inputs, named),
    ):
        for one in kept:
            hooks.enter_context(one.register_forward_pre_hook(keep))
        with explained(model, inputs, named):
            output = model(*inputs, **named)
            if tracker is not None:
                tracker.finish(output)
    return calls


@contextmanager
def explained(model: nn.Module, inputs: Sequence[Any], named: Mapping[str, Any]) -> Iterator[None]:
    """Inside, an error of a run of the model says what it was called with, and the cure."""
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise memory_ran_out(f"{described(model)}: its run", error) from error
        given = {f"input {k}": part for k, part in enumerate(inputs)} | dict(named)
        listed = ", ".join(
            f"{name} {tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}"
            if isinstance(part, Tensor)
            else f"{name} {type(part).__name__}"
            for name, part in given.items()
        )
        reason = f"{type(error).__name__}: {error}".rstrip(". \n")
        cure = hint(model, inputs, named) or (
            "Try to call the model itself with the same inputs; dsf passes them on unchanged, and "
            f"runs it under torch.no_grad().{_wants_a_card(model)}"
        )
        raise InspectionError(
            f"{described(model)} could not be run on its inputs "
            f"({listed or 'none were given'}): {reason}. {cure}"
        ) from error


def _wants_a_card(model: nn.Module) -> str:
    """What is likely to be the cause where modules of flash-linear-attention have no card."""
    if torch.accelerator.is_available():
        return ""
    if not any(type(part).__module__.partition(".")[0] == "fla" for part in model.modules()):
        return ""
    return (
        " Its modules are those of flash-linear-attention, whose Triton kernels need a card, and "
        "this machine has none that torch can use: run it where there is one."
    )


def without_cache(model: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """``named`` with ``use_cache=False`` for models of the library."""
    # Several of them compute wrong outputs when they continue a cache.
    if not is_of_library(model):
        return named
    is_known = hasattr(getattr(model, "config", None), "use_cache")
    is_known |= "use_cache" in signature(model.forward).parameters
    if is_known and takes(model, "use_cache"):
        return {"use_cache": False, **named}
    return named


def without_loss(model: nn.Module, named: dict[str, Any]) -> dict[str, Any]:
    """``named`` without ``labels``, where a model of the library computes a loss from them."""
    # A loss joins all tokens behind the last token mixer and hides the logits. A model that makes
    # the tokens of its decoder of its labels needs them until these are made.
    if named.get("labels") is None or not is_of_library(model):
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
    if not is_of_library(model):
        return named
    parameters = signature(model.forward).parameters
    if KEEP not in parameters or named.get("labels") is not None:
        return named
    inner: list[Any] = [part for part in model.modules() if hasattr(part, "get_output_embeddings")]
    is_passed_on = any(
        KEEP in signature(part.forward).parameters
        for part in inner
        if part is not model and part.get_output_embeddings() is None
    )
    is_positional = list(parameters).index(KEEP) < len(inputs)
    return named if is_positional or is_passed_on else {KEEP: 1, **named}
