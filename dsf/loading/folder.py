"""Model folders: which files of them are opened, from where, and which settings are kept.

Only regular files directly inside a folder are opened, links are not followed, and of a hub id only
settings, tokenizer and weights are downloaded, no code. JSON is read with limits of size, depth and
numbers, which ``json`` has not; settings that select code or ask for vast models go, since the
model library follows them. Nothing here needs torch, so that a wrong path is reported at once.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from math import isfinite
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dsf.loading.errors import LoadError, listed, model_library, reason, shown

_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")
TOKENIZER_SETTINGS = "tokenizer_config.json"
_VOCABULARIES = (
    "merges.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
)
TOKENIZER_FILES = (
    TOKENIZER_SETTINGS,
    "added_tokens.json",
    "special_tokens_map.json",
    *_VOCABULARIES,
)
GGUF_ENDING = ".gguf"
SAFETENSORS = ".safetensors"
MAX_TENSORS = 100_000
_MAX_DEPTH = 64  # of JSON
_MAX_INDEX_BYTES = 64 * 1024**2
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model's files; ``path`` is absolute and without symbolic links."""

    path: Path

    def file(self, name: str) -> Path | None:
        """Return the path of the file ``name``, or None where there is none."""
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise LoadError(
                f"{self.path}: {shown(name)} leads out of the folder; "
                "only files directly inside it are read, so correct the name."
            )
        path = self.path / name
        blobs = self.path.parent.parent / "blobs"  # of the model library's download cache
        is_blob = self.path.parent.name == "snapshots" and path.resolve().parent == blobs
        if path.is_symlink() and not is_blob:
            raise LoadError(
                f"{self.path}: {shown(name)} is a link, and links are not followed; "
                "put a copy of the file in its place."
            )
        if not path.exists():
            return None
        if not path.is_file():
            raise LoadError(
                f"{self.path}: {shown(name)} is not a regular file; put a copy of one in its place."
            )
        return path

    def required(self, name: str, cure: str) -> Path:
        """Return the path of the file ``name``; an error for a missing one ends with ``cure``."""
        path = self.file(name)
        if path is None:
            raise LoadError(f"{self.path}: has no file {shown(name)}; {cure}.")
        return path

    def pickles(self) -> list[str]:
        return sorted(entry.name for entry in self.path.iterdir() if entry.suffix in _PICKLES)


def has_tokenizer(folder: ModelFolder) -> bool:
    return any(folder.file(name) is not None for name in _VOCABULARIES)


def weight_files(folder: ModelFolder) -> list[Path]:
    """Return the files that hold a folder's weights, in the order of their names."""
    single, index = _WEIGHTS
    if (path := folder.file(single)) is not None:
        return [path]
    if (path := folder.file(index)) is not None:
        return _shards(folder, path)
    cure = "save the model with save_pretrained"
    if pickles := folder.pickles():
        cure = (
            f"{listed(pickles)} would have to be unpickled. Convert it with transformers "
            "(from_pretrained, then save_pretrained), or pass the model that it returns"
        )
    raise LoadError(f"{folder.path}: has no {_WEIGHTS[0]}; {cure}.")


def _shards(folder: ModelFolder, index: Path) -> list[Path]:
    table: Any = read_object(index, most_bytes=_MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        raise LoadError(f"{index}: has no 'weight_map' from names to files; download it again.")
    names = sorted(set(table.values()))
    if wrong := [name for name in names if not name.endswith(SAFETENSORS)]:
        raise LoadError(
            f"{index}: names {shown(wrong[0])}, not a {SAFETENSORS} file; download it again."
        )
    return [folder.required(name, "download the missing part of the weights") for name in names]


def read_object(path: Path, *, most_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a file of at most ``most_bytes``."""
    size = path.stat().st_size
    if size > most_bytes:
        raise LoadError(
            f"{path}: the file has {size} bytes, where at most {most_bytes} are read; "
            "check that this is the right file."
        )
    too_deep = LoadError(
        f"{path}: nested deeper than {_MAX_DEPTH} levels, which no model needs; correct the file."
    )
    try:
        text = path.read_bytes().decode("utf-8")
        value = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except RecursionError:
        raise too_deep from None
    except ValueError as error:
        raise LoadError(f"{path}: not acceptable JSON ({error}); save the file again.") from None
    if not isinstance(value, dict):
        raise LoadError(
            f"{path}: expected a JSON object, got {type(value).__name__}; save the file again."
        )
    level: list[Any] = [value]
    for _ in range(_MAX_DEPTH):
        tables = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for each in chain.from_iterable(tables) if isinstance(each, dict | list)]
    if level:
        raise too_deep
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


@contextmanager
def opened_safetensors(path: Path, framework: str) -> Iterator[Any]:
    """Open a safetensors file, whose header the library checks; by ``"np"`` without torch."""
    try:
        with safe_open(path, framework=framework) as file:
            if (count := len(file.keys())) > MAX_TENSORS:
                raise LoadError(
                    f"{path}: lists {count} tensors, where at most {MAX_TENSORS} are read; check "
                    "that this is the right file."
                )
            yield file
    except (SafetensorError, OSError) as error:
        raise LoadError(
            f"{path}: is damaged or cut short ({reason(error)}); download or save the file again."
        ) from None


def holds_model(folder: Path) -> bool:
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return False
    endings = (SAFETENSORS, "pytorch_model.bin")
    return "config.json" in names or any(name.endswith(endings) for name in names)


def check_holds_no_model(folder: Path, what: str) -> None:
    """Raise ValueError if a folder for ``what``, such as a run, holds a model."""
    if holds_model(folder):
        raise ValueError(
            f"{folder} holds the files of a model. Choose another folder for the {what}."
        )


def gguf_file(path_or_id: str | Path) -> Path | None:
    """Return the GGUF file at a path, or None where there is none.

    A folder without a ``config.json`` means the one GGUF file in it.
    """
    if not isinstance(path_or_id, str | PathLike):
        raise LoadError(
            "a model is a torch module, the folder of a checkpoint, a GGUF file or a hub id, got "
            f"{type(path_or_id).__name__}."
        )
    given = Path(path_or_id)
    if given.is_file():
        return given.resolve() if given.suffix == GGUF_ENDING else None
    if not given.is_dir() or (given / "config.json").exists():
        return None
    folder = ModelFolder(given.resolve())
    names = sorted(entry.name for entry in folder.path.iterdir() if entry.suffix == GGUF_ENDING)
    if len(names) > 1:
        raise LoadError(
            f"{folder.path}: has {len(names)} GGUF files ({listed(names)}); pass the path of the "
            "one to read."
        )
    return folder.file(names[0]) if names else None


def located(
    path_or_id: str | Path,
    revision: str | None,
    *,
    offline: bool | None,
    settings_only: bool = False,
) -> Path | ModelFolder:
    """Return a GGUF file, or the folder of a model, downloaded where a hub id was passed."""
    file, given = gguf_file(path_or_id), Path(path_or_id)
    if file is None and given.is_file():
        raise LoadError(f"{given}: is a file, where the folder around it is expected; give that.")
    if revision is not None and (file is not None or given.is_dir()):
        what = "folder" if file is None else "file"
        raise LoadError(f"{given}: a {what} has no revision {revision!r}. Leave the revision out.")
    if file is None and not given.is_dir():
        given = snapshot(
            str(path_or_id), revision, offline=bool(offline), settings_only=settings_only
        )
    return ModelFolder(given.resolve()) if file is None else file


_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")


def snapshot(
    model_id: str, revision: str | None, *, offline: bool, settings_only: bool = False
) -> Path:
    """Download a hub model's settings, tokenizer and weights; return their folder."""
    if model_id.endswith(GGUF_ENDING):
        raise LoadError(f"{shown(model_id)}: there is no such file; check the path.")
    if model_id.startswith("~"):
        raise LoadError(
            f"{shown(model_id)}: there is no such folder. Write your home folder out: the shell "
            "does not expand '~' in quotes or after '='."
        )
    if not _ID.fullmatch(model_id):
        raise LoadError(
            f"{shown(model_id)}: neither an existing folder nor a hub id of the form owner/name; "
            "check the path."
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        model_library()  # says what to install, if it is missing, too
        raise

    wanted = ["config.json"]
    if not settings_only:
        wanted += [*TOKENIZER_FILES, *_WEIGHTS, "model-*-of-*.safetensors"]
    try:
        found = snapshot_download(
            model_id, revision=revision, allow_patterns=wanted, local_files_only=offline
        )
    except Exception as error:  # the client's errors have no common base class
        raise LoadError(
            f"{shown(model_id)}: no folder of this name, and the download failed "
            f"({type(error).__name__}){'' if not offline else ', from the local cache only'}; "
            "check the name and the connection, or pass a downloaded folder."
        ) from None
    return Path(found)


_MAX_BYTES = 4 * 1024**2
_PARTS = ("blocks", "depth", "depths", "experts", "groups", "heads", "layer", "layers", "stages")
_MAX_COUNTS = {**dict.fromkeys(_PARTS, 10_000), "labels": 100_000}
"""By the endings of their names: counts of what is made one by one, before any size is known."""
_DTYPES = {"None", "auto", "float16", "bfloat16", "float32", "float64"}
_QUANTIZED = {"quantization_config", "compression_config"}
# By these settings the model library loads kernels, code or files, or replaces attributes of its
# own classes.
_SELECT_CODE = {
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_attn_implementation_internal",
    "_auto_class",
    "_commit_hash",
    "_experts_implementation",
    "_experts_implementation_internal",
    "_name_or_path",
    "attn_implementation",
    "attribute_map",
    "auto_map",
    "custom_code",
    "custom_generate",
    "custom_pipelines",
    "device_map",
    "distributed_config",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "sub_configs",
    "transformers_weights",
    "trust_remote_code",
    "use_kernels",
}
# How the model library writes an infinity, which JSON does not have.
_INFINITE = {"Infinity": float("inf"), "-Infinity": float("-inf")}
_HARMLESS = {"_commit_hash", "_name_or_path", "_attn_implementation_autoset", "name_or_path"}


class Settings(NamedTuple):
    """The settings that are kept, and the names of those that were dropped."""

    values: dict[str, Any]
    dropped: list[str]


def read_settings(folder: ModelFolder, *, allow_quantized: bool) -> Settings:
    """Return the settings in a folder's ``config.json``, without those that select code."""
    path = folder.required("config.json", "pass the folder that save_pretrained wrote")
    values = read_object(path, most_bytes=_MAX_BYTES)
    return acceptable(values, str(path), allow_quantized=allow_quantized)


def acceptable(values: dict[str, Any], where: str, *, allow_quantized: bool) -> Settings:
    """Return ``values`` without those that select code; ``where`` names their file in errors."""
    dropped: set[str] = set()

    def scrubbed(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(scrubbed, value))
        if not isinstance(value, dict):
            return value
        if list(value) == ["__float__"] and str(value["__float__"]) in _INFINITE:
            return _INFINITE[str(value["__float__"])]
        for name, item in value.items():
            _check(name, item, where, allow_quantized=allow_quantized)
        selecting = {name for name in value if name in _SELECT_CODE}
        dropped.update(name for name in selecting if value[name] is not None)
        return {name: scrubbed(item) for name, item in value.items() if name not in selecting}

    kept = scrubbed(values)
    return Settings(kept, sorted(dropped - _HARMLESS))


def _check(name: str, value: Any, where: str, *, allow_quantized: bool) -> None:
    if name in _QUANTIZED and value is not None and not allow_quantized:
        raise LoadError(
            f"{where}: {shown(name)} asks for quantised weights, whose values are rounded and "
            "whose layers are replaced; pass allow_quantized=True to accept that."
        )
    if name in ("dtype", "torch_dtype") and str(value) not in _DTYPES:
        raise LoadError(
            f"{where}: {shown(name)} is {shown(value)}, expected one of float16, bfloat16, float32 "
            "and float64; correct the file."
        )
    for ending, most in _MAX_COUNTS.items():
        if name.endswith(ending) and any(abs(count) > most for count in _counts(value)):
            raise LoadError(
                f"{where}: {shown(name)} is {shown(value)}, where at most {most} are built; "
                "correct the file."
            )


def _counts(value: Any) -> list[int]:
    if isinstance(value, list):
        return [count for item in value for count in _counts(item)]
    return [value] if isinstance(value, int) else []
