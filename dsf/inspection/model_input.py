"""One way in: a model and a text, messages, a mapping of tensors or token numbers, as one call.

Every public function that takes a model reads its arguments here. What an encoder-decoder model
makes for its decoder itself (BART shifts the tokens of the encoder, or ``labels``, by one place)
becomes an input of its own, since maps of the decoder would bear the texts of the encoder's tokens.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from dsf.inspection.capture.containers import mapped
from dsf.inspection.capture.isolation import uncompiled
from dsf.inspection.errors import InspectionError

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
    handle = decoder.register_forward_pre_hook(note, with_kwargs=True)
    try:
        # the run itself raises what is wrong
        with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(Exception):
            model(*inputs, **given)
    finally:
        handle.remove()
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
        return _numbers(self.inputs, self.named)

    @property
    def spell(self) -> Spell | None:
        """A function from token numbers to texts; None without a tokenizer."""
        return None if self.tokenizer is None else partial(_spelt, self.tokenizer)

    @property
    def environment(self) -> dict[str, str]:
        """What an inspection's environment says of the checkpoint."""
        return {"on loading": " ".join(self.notes)} if self.notes else {}


def _numbers(inputs: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
    return named.get(IDS, inputs[0] if inputs else None)


def _spelt(tokenizer: Any, numbers: Tensor) -> list[list[str]]:
    from dsf.loading import token_texts

    return [token_texts(tokenizer, row) for row in numbers.tolist()]


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
    identity: str | None = None
    notes: tuple[str, ...] = ()
    tokenizer: Any = options.get("tokenizer")
    if tokenizer is not None and not is_tokenizer(tokenizer):
        raise InspectionError(
            f"{where}: 'tokenizer' expected a tokenizer of transformers, got "
            f"{type(tokenizer).__name__}."
        )
    if isinstance(model, nn.Module):
        model = uncompiled(model)
        if "revision" in options:
            raise InspectionError(
                f"{where}: 'revision' expected a hub id as the model, got a module."
            )
        if device is not None or dtype is not None:
            model = deepcopy(model).to(device=device, dtype=dtype)
    else:
        from dsf.loading import load_model

        loaded = load_model(
            model, revision=options.get("revision"), dtype=dtype, texts=_texts(text, messages)
        )
        model = loaded.model if device is None else loaded.model.to(device)
        identity, notes = loaded.identity, loaded.notes
        tokenizer = loaded.tokenizer if tokenizer is None else tokenizer
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
    if options.get("generate"):
        inputs, named = (), _generated(model, inputs, named, options["generate"], where)
    numbers, tokens = _numbers(inputs, named), None
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
    elif inputs and isinstance(inputs[0], Mapping) and _takes(model, inputs[0]):
        doubled = sorted(inputs[0].keys() & named.keys())
        if doubled:
            raise InspectionError(
                f"{where}: '{doubled[0]}' expected one value, got two: by its name and in the "
                "mapping. Pass one of them."
            )
        named, inputs = {**inputs[0], **named}, inputs[1:]
    if text is not None and not (_is_text(text) and all([text] if text == "" else text)):
        raise InspectionError(
            f"{where}: 'text' expected a text that is not empty, or several, got {text!r}."
        )
    return text, inputs, named


def _takes(model: Any, mapping: Mapping[Any, Any]) -> bool:
    """Whether the model's forward pass takes the entries of ``mapping`` as named arguments."""
    if not isinstance(model, nn.Module):
        return True
    parameters = signature(model.forward).parameters
    if any(each.kind is Parameter.VAR_KEYWORD for each in parameters.values()):
        return all(isinstance(name, str) for name in mapping)
    return bool(mapping) and all(name in parameters for name in mapping)


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
    if dtype is not None and not isinstance(found, torch.dtype):
        raise InspectionError(
            f"{where}: 'dtype' expected a number type such as torch.bfloat16, got {dtype!r}."
        )
    return found


def _texts(text: Any, messages: Any) -> list[str]:
    if isinstance(messages, Sequence):
        return [str(each.get("content", "")) for each in messages if isinstance(each, Mapping)]
    return [text] if isinstance(text, str) else list(text or ())


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
    pad = next(
        (
            number
            for name in ("pad_token_id", "eos_token_id")
            if (number := getattr(tokenizer, name, None)) is not None
        ),
        0,
    )
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=pad)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
    return {IDS: ids, MASK: mask} if bool((mask == 0).any()) else {IDS: ids}


def _generated(
    model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any], count: Any, where: str
) -> dict[str, Any]:
    """The named arguments, followed by ``count`` tokens that the model generates greedily."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InspectionError(
            f"{where}: 'generate' expected a number of tokens above zero, got {count!r}."
        )
    ids = _numbers(inputs, named)
    if not callable(getattr(model, "generate", None)) or not isinstance(ids, Tensor):
        raise InspectionError(
            f"{where}: 'generate' needs a model with a method generate and token numbers, and "
            f"{type(model).__name__} was not given both. Generate first, and pass input_ids=..."
        )
    mask = named.get(MASK, torch.ones_like(ids))
    if not bool(mask.bool().all()):
        raise InspectionError(
            f"{where}: 'generate' expected texts of one length, got padded ones. Pass one text at "
            "a time."
        )
    with torch.no_grad():
        whole = model.generate(
            ids, attention_mask=mask, max_new_tokens=count, min_new_tokens=count, do_sample=False
        )
    longer = {MASK: torch.ones_like(whole)} if MASK in named else {}
    return {**named, IDS: whole, **longer}
