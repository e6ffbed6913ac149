"""Opens the tokenizer in a model's folder or GGUF file, if there is one.

A stranger's tokenizer is opened in a child process first, with limits of time and memory: the
compiled libraries behind tokenizers can end a process on a damaged file. What the child opened and
used is then opened here, from the same copy of the files. The child works while the weights are
read. The tokenizers that come with this package need no child.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsf.loading.bounded_json import read_object
from dsf.loading.building import undisturbed
from dsf.loading.child_processes import Child, ChildStopped
from dsf.loading.errors import LoadError, shown
from dsf.loading.folder import TOKENIZER_FILES, TOKENIZER_SETTINGS, ModelFolder, has_tokenizer
from dsf.loading.gguf_files import GgufLayout
from dsf.loading.library_versions import model_library
from dsf.loading.tokenizer_reader.opening import open_files, open_gguf, texts

_DROPPED = {"auto_map", "chat_template", "custom_code", "name_or_path", "trust_remote_code"}
_MOST_BYTES = 128 * 1024**2
_MOST_SETTINGS_BYTES = 8 * 1024**2
_PROGRAM = "dsf.loading.tokenizer_reader.process"
_SECONDS = 10
_SECONDS_A_MEGABYTE = 2  # vocabularies without merges take that long to convert
_BYTES_OF_MEMORY = 2 * 1024**3
_BYTES_A_BYTE = 16  # of memory for a byte of the files
_LARGEST_HEADER = 32 * 1024**2  # of a GGUF file, as far as it is about tokens
_OWN = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Tokenizer:
    """A tokenizer that a child process is opening, or None where the model has none."""

    open: Callable[[], Any | None]

    def opened(self) -> Any | None:
        """The tokenizer, once the child has opened and used it.

        Raises:
            LoadError: it cannot be read; the message names its files and the way on without them.
        """
        return self.open()


@contextmanager
def folder_tokenizer(
    folder: ModelFolder, settings: dict[str, Any], given: Sequence[str] = ()
) -> Iterator[Tokenizer]:
    """The tokenizer of ``folder``, which is being opened during the ``with`` block.

    The model library is given a copy with the known files only, so that no other file is opened.

    Args:
        settings: of the model, which decide on the class of the tokenizer.
        given: texts that it will be given, which the child tries, too.

    Raises:
        LoadError: a file is refused.
    """
    files = [path for name in TOKENIZER_FILES if (path := folder.file(name)) is not None]
    if not has_tokenizer(folder):
        yield Tokenizer(lambda: None)
        return
    with tempfile.TemporaryDirectory(prefix="dsf-") as copy:
        for path in files:
            _copy(path, Path(copy))
        request = {"folder": copy, "settings": settings, "gguf": None, "texts": list(given)}
        where = f"{folder.path}: its tokenizer"
        names = ", ".join(path.name for path in files)
        cure = f"pass a folder without the tokenizer's files ({names}), and give token ids"
        own = folder.path.is_relative_to(_OWN)
        with _tried(request, where, cure, identity=_identity(copy), trusted=own) as check:

            def made() -> Any:
                check()
                return _guarded(lambda: open_files(copy, settings), where, cure)

            yield Tokenizer(made)


@contextmanager
def gguf_tokenizer(
    path: Path, layout: GgufLayout, given: Sequence[str] = ()
) -> Iterator[Tokenizer]:
    """The tokenizer of a GGUF file whose layout was checked, as ``folder_tokenizer``."""
    if not layout.has_tokenizer:
        yield Tokenizer(lambda: None)
        return
    with tempfile.TemporaryDirectory(prefix="dsf-") as alone:  # so that no file beside it is opened
        place = Path(alone) / "model.gguf"
        try:
            os.symlink(path, place)
        except OSError:  # a file system without links
            shutil.copyfile(path, place)
        request = {"folder": alone, "settings": {}, "gguf": place.name, "texts": list(given)}
        where, cure = f"{path}: its tokenizer", "give token ids, and convert the model without it"
        with _tried(request, where, cure, identity=(layout.header_hash, _LARGEST_HEADER)) as check:

            def made() -> Any:
                check()
                with undisturbed(), contextlib.redirect_stderr(io.StringIO()):  # it draws bars
                    return _guarded(lambda: open_gguf(alone, place.name), where, cure)

            yield Tokenizer(made)


@contextmanager
def _tried(
    request: dict[str, Any],
    where: str,
    cure: str,
    *,
    identity: tuple[str, int],
    trusted: bool = False,
) -> Iterator[Callable[[], None]]:
    """A child that opens the tokenizer, and the function that waits for it.

    Args:
        identity: a hash of the files, and their size in bytes.
    """
    model_library()
    content, size = identity
    key = content + json.dumps([request["settings"], request["texts"]])
    if trusted or key in _ACCEPTED:
        yield lambda: None
        return
    limits = {
        "seconds": _SECONDS + size * _SECONDS_A_MEGABYTE // 1024**2,
        "bytes_of_memory": _BYTES_OF_MEMORY + _BYTES_A_BYTE * size,
        "path": [os.path.abspath(place) for place in sys.path],
    }
    child = Child(_PROGRAM, {**request, **limits}, libraries=True)

    def check() -> None:
        try:
            answer = child.answer()
        except ChildStopped as error:
            raise LoadError(
                f"{where} cannot be read: the process that opened it {error}; {cure}."
            ) from None
        if "refused" in answer:
            raise LoadError(f"{where} cannot be read ({_line(answer['refused'])}); {cure}.")
        _ACCEPTED.add(key)

    try:
        yield check
    finally:
        child.stop()


_ACCEPTED: set[str] = set()
"""Files, settings and texts that a child of this process has got through."""


def _identity(folder: str) -> tuple[str, int]:
    digest, size = hashlib.sha256(), 0
    for path in sorted(Path(folder).iterdir()):
        content = path.read_bytes()
        size += len(content)
        digest.update(f"{path.name} {hashlib.sha256(content).hexdigest()}\n".encode())
    return digest.hexdigest(), size


def _guarded(open: Callable[[], Any], where: str, cure: str) -> Any:
    try:
        return open()
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of compiled code is no Exception
        raise LoadError(f"{where} cannot be read ({_line(str(error))}); {cure}.") from None


def _line(message: str) -> str:
    return shown((message.strip() or "no reason given").splitlines()[0])


def token_texts(tokenizer: Any, numbers: Sequence[int]) -> list[str]:
    """The text of every token, with the spaces that belong to it.

    Tokenizers that work on bytes write them in an alphabet of their own, in which a space is ``Ġ``.
    A token of theirs becomes the text that it stands for; bytes that are no whole character are
    written as ``\\xe2``. The ``▁`` of SentencePiece becomes a space where the tokenizer decodes it
    as one. Other tokens are returned as they are, such as ``[CLS]`` and ``##ing``.
    """
    return texts(tokenizer, numbers)


def _copy(path: Path, target: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        raise LoadError(
            f"{path}: larger than {_MOST_BYTES} bytes; check that this is the right file."
        )
    if path.name != TOKENIZER_SETTINGS:
        shutil.copyfile(path, target / path.name)
        return
    settings = read_object(path, most_bytes=_MOST_SETTINGS_BYTES)
    kept = {name: value for name, value in settings.items() if name not in _DROPPED}
    (target / TOKENIZER_SETTINGS).write_text(json.dumps(kept), encoding="utf-8")
