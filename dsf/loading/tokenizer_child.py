"""How a tokenizer is opened and used, by the child process that tries it and by its parent alike.

Run as a program, it is the child: it limits its own time and memory, opens one tokenizer, uses it,
and answers in JSON. The libraries behind tokenizers are compiled, and a damaged file can end the
process that opens it. Nothing is imported before the limits are set but the standard library.
"""

import copy
import json
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # as vocabularies of SentencePiece write it
_TRIALS = (
    *("", "a", "To be, or not to be.\n\tThat is: 42", " x" * 600),
    "é ß \u65e5\u672c \U0001f469\u200d\U0001f4bb \u202e\x00 \ufffd",
)


def open_tokenizer(folder: str, settings: dict[str, Any], gguf: str | None) -> Any:
    """Return the tokenizer in a folder of checked files, or in its file ``gguf``; no code."""
    import transformers

    if gguf is not None:
        tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(
            folder, gguf_file=gguf, local_files_only=True
        )
        tokenizer.chat_template = None  # a program
        return tokenizer
    # A configuration may change what it is given.
    values = copy.deepcopy({k: v for k, v in settings.items() if k != "model_type"})
    kinds = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    return transformers.AutoTokenizer.from_pretrained(
        folder,
        config=kinds[settings["model_type"]](**values),
        local_files_only=True,
        trust_remote_code=False,
    )


def token_texts(tokenizer: Any, numbers: Sequence[int]) -> list[str]:
    """The text of every token, with the spaces that belong to it.

    Tokenizers that work on bytes write them in an alphabet of their own, in which a space is ``Ġ``.
    Such a token is decoded to the text it represents; bytes that are not a whole character are
    written as ``\\xe2``. The ``▁`` of SentencePiece becomes a space where the tokenizer decodes it
    as one. Other tokens are returned as they are, such as ``[CLS]`` and ``##ing``.
    """
    return [_text(tokenizer, str(name)) for name in tokenizer.convert_ids_to_tokens(numbers)]


def _text(tokenizer: Any, name: str) -> str:
    decoded = str(tokenizer.convert_tokens_to_string([name]))
    try:  # a name in the alphabet of tokenizers that work on bytes
        content = bytes(_alphabet()[letter] for letter in name)
    except KeyError:
        content = None
    if content is not None and decoded == content.decode("utf-8", "replace"):
        return content.decode("utf-8", "backslashreplace")
    spaced = name.replace(_SPACE, " ")
    return spaced if decoded.strip() == spaced.strip() else name


@cache
def _alphabet() -> dict[str, int]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Open and use a tokenizer; return ``opened``, or ``refused`` with the reason."""
    _limit_this_process(request["bytes_of_memory"], request["seconds"])
    sys.path[:] = request["path"]
    if request["gguf"] is None:
        sys.modules["torch"] = None  # type: ignore[assignment]  # it would take seconds to import
    try:
        tokenizer = open_tokenizer(request["folder"], request["settings"], request["gguf"])
        for text in (*_TRIALS, *request["texts"]):
            numbers = list(tokenizer(text)["input_ids"])
            token_texts(tokenizer, numbers)
            tokenizer.decode(numbers)
            for number in set(tokenizer.encode(text, add_special_tokens=False)):
                tokenizer.decode([number])
    except BaseException as error:  # a panic in compiled code is not an Exception
        return {"refused": f"{type(error).__name__}: {error}"}
    return {"opened": True}


def _limit_this_process(bytes_of_memory: int, seconds: int) -> None:
    """Limit memory and processor time for good; no file can be written and no core be left."""
    try:
        import resource
    except ImportError:  # Windows has no such limits; the parent's time limit still applies.
        return
    wanted = {
        resource.RLIMIT_DATA: bytes_of_memory,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, value in wanted.items():
        resource.setrlimit(kind, (value, value))


if __name__ == "__main__":
    request = json.load(sys.stdin)
    # What libraries print must not end up in the answer.
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    json.dump(answer(request), channel)
    channel.flush()
