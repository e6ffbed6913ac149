"""How a tokenizer is opened and used, in the child process and in the parent alike."""

import copy
from collections.abc import Sequence
from functools import cache
from typing import Any

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as vocabularies of SentencePiece write it


def open_files(folder: str, settings: dict[str, Any]) -> Any:
    """The tokenizer of a folder that has only files that were checked, and no code.

    Args:
        settings: of the model, as its configuration class takes them, and its ``model_type``.
    """
    import transformers

    # A configuration may change what it is given.
    values = copy.deepcopy({k: v for k, v in settings.items() if k != "model_type"})
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    return transformers.AutoTokenizer.from_pretrained(
        folder,
        config=kinds[settings["model_type"]](**values),
        local_files_only=True,
        trust_remote_code=False,
    )


def open_gguf(folder: str, name: str) -> Any:
    """The tokenizer in a GGUF file whose layout was checked, without its chat template."""
    import transformers

    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
        folder, gguf_file=name, local_files_only=True
    )
    tokenizer.chat_template = None
    return tokenizer


def use(tokenizer: Any, text: str) -> None:
    """Whatever is done with a text: to numbers and back, whole and token by token."""
    numbers = list(tokenizer(text)["input_ids"])
    texts(tokenizer, numbers)
    tokenizer.decode(numbers)
    for number in set(tokenizer.encode(text, add_special_tokens=False)):
        tokenizer.decode([number])


def texts(tokenizer: Any, numbers: Sequence[int]) -> list[str]:
    """The text of every token, with the spaces that belong to it."""
    return [_text(tokenizer, str(name)) for name in tokenizer.convert_ids_to_tokens(numbers)]


def _text(tokenizer: Any, name: str) -> str:
    said = str(tokenizer.convert_tokens_to_string([name]))
    content = _bytes_of(name)
    if content is not None and said == content.decode("utf-8", "replace"):
        return content.decode("utf-8", "backslashreplace")
    spaced = name.replace(_SPACE, " ")
    return spaced if said.strip() == spaced.strip() else name


def _bytes_of(name: str) -> bytes | None:
    """The bytes that are written in the alphabet of tokenizers of bytes; None for other names."""
    try:
        return bytes(_alphabet()[letter] for letter in name)
    except KeyError:
        return None


@cache
def _alphabet() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
