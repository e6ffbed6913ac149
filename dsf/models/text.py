"""The text that the text models were trained on, in small, and how well a model predicts a text.

The models learnt 34 plays of Shakespeare. ``PASSAGE`` is out of a play that they did not see,
Macbeth (act 5, scene 5). The plays are in the public domain.
"""

import json
import math
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

__all__ = ["bits_per_byte", "record", "spell"]

CONTEXT = 256
"""Tokens that the models predicted in one window of training."""

LINE_BREAK = "↵"

PASSAGE = """\
She should have died hereafter;
There would have been a time for such a word.
To-morrow, and to-morrow, and to-morrow,
Creeps in this petty pace from day to day
To the last syllable of recorded time,
And all our yesterdays have lighted fools
The way to dusty death. Out, out, brief candle!
"""


def bits_per_byte(model: nn.Module, tokenizer: Any, text: str, *, context: int = CONTEXT) -> float:
    """Bits that ``model`` needs for each byte (UTF-8) of ``text``; 8 is what a guess needs.

    The text is preceded by one line break, which is not counted. It is read in windows of
    ``context`` tokens that do not overlap, so that a token is predicted from at most ``context``
    tokens before it, and the first of a window from one. The tokens must spell the whole text, as
    byte-level tokens do.

    Args:
        model: maps token ids to an object with ``logits``, as the classes of transformers do. It
            runs in evaluation mode; its own mode is restored.
        tokenizer: a tokenizer of transformers.

    Raises:
        ValueError: if ``text`` is empty, or the tokens do not spell it.
    """
    tokens = torch.tensor(tokenizer("\n")["input_ids"] + tokenizer(text)["input_ids"])
    if not text or tokenizer.decode(tokens) != "\n" + text:
        raise ValueError(
            f"bits_per_byte: the tokens of 'text', {text[:40]!r}, do not spell it, so bits per "
            f"token are not bits per byte. Pass a text that is not empty and the byte-level "
            f"tokenizer of the model."
        )
    training = model.training
    model.eval()
    nats = 0.0
    with torch.inference_mode():
        for first in range(0, len(tokens) - 1, context):
            window = tokens[first : first + context + 1]
            logits = model(window[None, :-1], use_cache=False).logits[0]
            nats += cross_entropy(logits.double(), window[1:], reduction="sum").item()
    model.train(training)
    return nats / math.log(2) / len(text.encode())


def record() -> dict[str, Any]:
    """Parameters and bits per byte of the stored models, and those of tables of bytes."""
    return json.loads(files("dsf.models").joinpath("text.json").read_text(encoding="utf-8"))


def spell(tokenizer: Any, tokens: Int[Tensor, " time"] | Sequence[int]) -> list[str]:
    """The text of every token, such as labels for the axes of a map; a line break is ``↵``."""
    return [tokenizer.decode([int(token)]).replace("\n", LINE_BREAK) for token in tokens]
