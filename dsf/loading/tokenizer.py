"""Opens the tokenizer in a model's folder or GGUF file, if there is one.

A stranger's tokenizer is opened in a child process first, with limits of time and memory: the
compiled libraries behind tokenizers can end a process on a damaged file. What the child opened and
used is then opened here, from the same copy of the files. The child works while the weights are
read. The tokenizers inside this package need no child.
"""

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dsf.loading import tokenizer_child
from dsf.loading.building import fingerprint, undisturbed
from dsf.loading.errors import LoadError, model_library, shown
from dsf.loading.folder import (
    TOKENIZER_FILES,
    TOKENIZER_SETTINGS,
    ModelFolder,
    has_tokenizer,
    read_object,
)
from dsf.loading.gguf_files import GgufFile
from dsf.loading.tokenizer_child import open_tokenizer

# The settings that are kept, by name. Any other may name code or a file outside the folder, as
# vocab, merges_file, fast_tokenizer_files, sp_model_kwargs and mecab_kwargs do.
_SETTINGS = {
    "add_dummy_prefix_space", "add_prefix_space", "added_tokens_decoder", "backend",
    "clean_up_tokenization_spaces", "continuing_subword_prefix", "do_basic_tokenize",
    "do_lower_case", "end_of_word_suffix", "errors", "keep_accents", "legacy", "max_length",
    "model_input_names", "model_max_length", "never_split", "pad_to_multiple_of",
    "pad_token_type_id", "padding_side", "remove_space", "return_token_type_ids",
    "spaces_between_special_tokens", "split_special_tokens", "src_lang", "stride",
    "strip_accents", "tgt_lang", "tokenize_chinese_chars", "tokenizer_class", "trim_offsets",
    "truncation_side", "truncation_strategy", "use_default_system_prompt", "use_fast",
    "wordpieces_prefix",
}  # fmt: skip
_TOKEN_SETTINGS = ("_token", "_tokens", "_token_id")
_SPECIAL_TOKENS = "special_tokens_map.json"
_MOST_BYTES = 128 * 1024**2
_MOST_SETTINGS_BYTES = 8 * 1024**2
_PROGRAM = str(tokenizer_child.__file__)
# One thread each, and no calls to other machines, whatever the parent may do.
CHILD_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "critical",
}
_GRACE_SECONDS = 60  # in wall time, since limits count processor time
_SECONDS = 10
_SECONDS_A_MEGABYTE = 2  # vocabularies without merges take that long to convert
_BYTES_OF_MEMORY = 2 * 1024**3
_BYTES_A_BYTE = 16  # of memory for a byte of the files
_LARGEST_HEADER = 32 * 1024**2  # of a GGUF file, as far as it is about tokens
_OWN_FILES = Path(__file__).resolve().parents[1]


class ChildStopped(Exception):
    """A child process ended without an answer; the message says how."""


class Child:
    """A process that opens and uses one tokenizer; it works while this one does something else."""

    def __init__(self, request: dict[str, Any]):
        self._seconds = request["seconds"] + _GRACE_SECONDS
        self._process = subprocess.Popen(  # noqa: S603 - our own file, and arguments without a shell
            [sys.executable, "-I", "-B", _PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **CHILD_ENVIRONMENT},
        )
        with contextlib.suppress(OSError), self._process.stdin as stream:  # type: ignore[union-attr]
            stream.write(json.dumps(request).encode())  # if it ended already, answer() tells why
        self._process.stdin = None

    def answer(self) -> dict[str, Any]:
        """Wait for the answer."""
        try:
            said, complaint = self._process.communicate(timeout=self._seconds)
        except subprocess.TimeoutExpired:
            self.stop()
            raise ChildStopped("took too long") from None
        code = self._process.returncode
        if code != 0:
            last = complaint.decode(errors="replace").strip().rpartition("\n")[2]
            why = last if code > 0 and last else f"code {code}"  # negative: ended by a signal
            raise ChildStopped(f"stopped ({shown(why)})")
        answer: dict[str, Any] = json.loads(said)
        return answer

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.communicate()


@contextmanager
def folder_tokenizer(
    folder: ModelFolder, settings: dict[str, Any], given: Sequence[str] = ()
) -> Iterator[Callable[[], Any | None]]:
    """Let a child open the tokenizer of ``folder``, from a copy of the known files alone.

    The function waits for the child and returns the tokenizer, or None where there is none.
    """
    files = [path for name in TOKENIZER_FILES if (path := folder.file(name)) is not None]
    if not has_tokenizer(folder):
        yield lambda: None
        return
    with tempfile.TemporaryDirectory(prefix="dsf-") as copy:
        for path in files:
            _copy(path, Path(copy))
        names = ", ".join(path.name for path in files)
        cure = f"pass a folder without the tokenizer's files ({names}), and give token ids"
        copies = sorted(Path(copy).iterdir())
        size = sum(path.stat().st_size for path in copies)
        request = {"folder": copy, "settings": settings, "gguf": None, "texts": list(given)}
        is_own = folder.path.is_relative_to(_OWN_FILES)
        identity = None if is_own else fingerprint(copies)
        with _tried(request, f"{folder.path}: its tokenizer", cure, identity, size) as opened:
            yield opened


@contextmanager
def gguf_tokenizer(file: GgufFile, given: Sequence[str] = ()) -> Iterator[Callable[[], Any | None]]:
    """Let a child open the tokenizer of a GGUF file, as ``folder_tokenizer``."""
    if "tokenizer.ggml.model" not in file.fields:
        yield lambda: None
        return
    # Alone in a folder, so that no file next to it is opened.
    with tempfile.TemporaryDirectory(prefix="dsf-") as alone:
        place = Path(alone) / "model.gguf"
        try:
            os.symlink(file.path, place)
        except OSError:  # a file system without links
            shutil.copyfile(file.path, place)
        request = {"folder": alone, "settings": {}, "gguf": place.name, "texts": list(given)}
        where = f"{file.path}: its tokenizer"
        cure = "give token ids, and convert the model without it"
        with _tried(request, where, cure, file.header_hash, _LARGEST_HEADER) as opened:
            yield opened


@contextmanager
def _tried(
    request: dict[str, Any], where: str, cure: str, identity: str | None, size: int
) -> Iterator[Callable[[], Any]]:
    """Start a child, except for files of this package, whose ``identity`` is None."""
    model_library()
    key = f"{identity} {json.dumps([request['settings'], request['texts']])}"
    limits = {
        "seconds": _SECONDS + size * _SECONDS_A_MEGABYTE // 1024**2,
        "bytes_of_memory": _BYTES_OF_MEMORY + _BYTES_A_BYTE * size,
        "path": [os.path.abspath(place) for place in sys.path],
    }
    is_known = identity is None or key in _accepted
    child = None if is_known else Child({**request, **limits})

    def opened() -> Any:
        try:
            answer = child.answer() if child else {}
        except ChildStopped as error:
            raise LoadError(
                f"{where} cannot be read: the process that opened it {error}; {cure}."
            ) from None
        if "refused" in answer:
            raise LoadError(f"{where} cannot be read ({_line(answer['refused'])}); {cure}.")
        _accepted.add(key)
        with undisturbed(), contextlib.redirect_stderr(io.StringIO()):  # readers draw bars
            try:
                return open_tokenizer(request["folder"], request["settings"], request["gguf"])
            except (KeyboardInterrupt, SystemExit):
                raise
            except BaseException as error:  # a panic in compiled code is not an Exception
                raise LoadError(f"{where} cannot be read ({_line(str(error))}); {cure}.") from None

    try:
        yield opened
    finally:
        if child:
            child.stop()


_accepted: set[str] = set()
"""Files, settings and texts that a child of this process has got through."""


def _line(message: str) -> str:
    return shown((message.strip() or "no reason given").splitlines()[0])


def _copy(path: Path, target: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        raise LoadError(
            f"{path}: larger than {_MOST_BYTES} bytes; check that this is the right file."
        )
    if path.name not in (TOKENIZER_SETTINGS, _SPECIAL_TOKENS):
        shutil.copyfile(path, target / path.name)
        return
    settings = read_object(path, most_bytes=_MOST_SETTINGS_BYTES)
    known = _SETTINGS if path.name == TOKENIZER_SETTINGS else ()
    kept = {
        name: value
        for name, value in settings.items()
        if name in known or name.endswith(_TOKEN_SETTINGS)
    }
    (target / path.name).write_text(json.dumps(kept), encoding="utf-8")
