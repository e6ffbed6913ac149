"""The tokens that an encoder-decoder model makes for its decoder itself, as an input of their own.

BART shifts the tokens of the encoder, or those of ``labels``, by one place where it is given none
for its decoder. What is shifted is no input any more, so that maps of the decoder would bear the
texts of the encoder's tokens. The model is asked which tokens its decoder gets, and given them.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

NAME = "decoder_input_ids"
INSTEAD = (NAME, "decoder_inputs_embeds", "encoder_outputs", "past_key_values")
"""Arguments with which a model makes no tokens for its decoder, or does not begin anew."""


Spell = Callable[[Tensor], Sequence[Sequence[str]]]
"""The texts of token numbers, sample by sample."""


class _FoundError(Exception):
    """Ends a run of the model before its decoder begins."""


def with_decoder_tokens(
    model: Any, inputs: tuple[Any, ...], named: Mapping[str, Any]
) -> dict[str, Any]:
    """The named arguments of a run, with the decoder's tokens among them.

    They are as they came for a model without a decoder beside its encoder, and for one that cannot
    be run on them, which the run itself is going to tell.
    """
    given = dict(named)
    config = getattr(model, "config", None)
    is_pair = getattr(config, "is_encoder_decoder", False) is True and hasattr(model, "get_decoder")
    if not is_pair or len(inputs) > 1 or any(given.get(name) is not None for name in INSTEAD):
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
        # what is wrong is told by the run itself
        with torch.no_grad(), torch.random.fork_rng(devices=[]), suppress(Exception):
            model(*inputs, **given)
    finally:
        handle.remove()
    return {**given, NAME: found[0]} if found else given


def decoder_texts(
    named: Mapping[str, Any], tokens: Sequence[Sequence[str]] | None, spell: Spell | None
) -> tuple[tuple[str, ...], ...] | None:
    """The texts of the decoder's tokens; None where they are not known.

    Args:
        named: the arguments of the run.
        tokens: the texts of the encoder's tokens. Without ``spell``, a number that stands there,
            too, has the same text.
    """
    ids = named.get(NAME)
    if not isinstance(ids, Tensor) or ids.ndim != 2:
        return None
    if spell is None:
        known = _texts_by_number(named.get("input_ids"), tokens)
        if not known.keys() >= set(ids.flatten().tolist()):
            return None
        return tuple(tuple(known[number] for number in row) for row in ids.tolist())
    return tuple(map(tuple, spell(ids)))


def _texts_by_number(ids: Any, tokens: Sequence[Sequence[str]] | None) -> dict[int, str]:
    """Which text every number has; none where one number has several."""
    if tokens is None or not isinstance(ids, Tensor) or ids.ndim != 2:
        return {}
    pairs = {
        pair
        for numbers, texts in zip(ids.tolist(), tokens, strict=False)
        for pair in zip(numbers, texts, strict=False)
    }
    known = dict(pairs)
    return known if len(known) == len(pairs) else {}
