"""Reads the tokenizer in a model's folder, if there is one."""

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dsf.loading.bounded_json import read_object
from dsf.loading.errors import LoadError, reason
from dsf.loading.folder import ModelFolder
from dsf.loading.library_versions import model_library

_SETTINGS = "tokenizer_config.json"
_VOCABULARIES = (
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
TOKENIZER_FILES = (_SETTINGS, "added_tokens.json", "special_tokens_map.json", *_VOCABULARIES)
_DROPPED = {"auto_map", "chat_template", "custom_code", "name_or_path", "trust_remote_code"}
_UNKNOWN = "\N{REPLACEMENT CHARACTER}"
_MOST_BYTES = 128 * 1024**2
_MOST_SETTINGS_BYTES = 8 * 1024**2


def read_tokenizer(folder: ModelFolder, config: Any) -> Any | None:
    """The tokenizer of ``folder``, or None where it has none.

    The model library is given a copy with the known files only, so that no other file is opened.

    Raises:
        LoadError: a file is refused, or the model library cannot make a tokenizer of them.
    """
    files = [path for name in TOKENIZER_FILES if (path := folder.file(name)) is not None]
    if not any(path.name in _VOCABULARIES for path in files):
        return None
    with tempfile.TemporaryDirectory() as copy:
        for path in files:
            _copy(path, Path(copy))
        try:
            return model_library().AutoTokenizer.from_pretrained(
                copy, config=config, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the model library may raise anything on untrusted files
            raise LoadError(
                f"{folder.path}: its tokenizer cannot be read ({reason(error)}); "
                "pass a folder without the tokenizer's files to load the model without it."
            ) from None


def token_texts(tokenizer: Any, numbers: Sequence[int]) -> list[str]:
    """The text of every token, with the spaces that belong to it.

    Tokenizers that work on bytes write them in an alphabet of their own, in which a space is ``Ġ``.
    A token of theirs becomes the text that it stands for, unless its bytes are no whole characters.
    The tokens of all other tokenizers are returned as they are, such as ``[CLS]`` and ``##ing``.
    """
    return [_text(tokenizer, str(name)) for name in tokenizer.convert_ids_to_tokens(numbers)]


def _text(tokenizer: Any, name: str) -> str:
    said = str(tokenizer.convert_tokens_to_string([name]))
    of_bytes = len(said.encode("utf-8", "replace")) == len(name) and _UNKNOWN not in said
    return said if of_bytes else name


def _copy(path: Path, target: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        raise LoadError(
            f"{path}: larger than {_MOST_BYTES} bytes; check that this is the right file."
        )
    if path.name != _SETTINGS:
        shutil.copyfile(path, target / path.name)
        return
    settings = read_object(path, most_bytes=_MOST_SETTINGS_BYTES)
    kept = {name: value for name, value in settings.items() if name not in _DROPPED}
    (target / _SETTINGS).write_text(json.dumps(kept), encoding="utf-8")
