"""``ModelFolder``: an untrusted folder, of which only regular files directly inside are opened."""

from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from dsf.loading.errors import LoadError, listed, shown

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


@dataclass(frozen=True)
class ModelFolder:
    """A folder with a model's files; ``path`` is absolute and without symbolic links."""

    path: Path

    def file(self, name: str) -> Path | None:
        """The path of the file ``name``, or None where there is none.

        Raises:
            LoadError: ``name`` leads out of the folder, or is a link or no regular file.
        """
        if name in ("", ".", "..") or any(character in name for character in "/\\:\0"):
            raise LoadError(
                f"{self.path}: {shown(name)} leads out of the folder; "
                "only files directly inside it are read, so correct the name."
            )
        path = self.path / name
        if path.is_symlink() and not self._is_cached_blob(path):
            raise LoadError(
                f"{self.path}: {shown(name)} is a link, and links are not followed; "
                "put a copy of the file in its place."
            )
        if not path.exists():
            return None
        if not path.is_file():
            raise LoadError(
                f"{self.path}: {shown(name)} is no regular file; put a copy of one in its place."
            )
        return path

    def required(self, name: str, cure: str) -> Path:
        """The path of the file ``name``.

        Raises:
            LoadError: as ``file``, and if there is none; the message ends with ``cure``.
        """
        path = self.file(name)
        if path is None:
            raise LoadError(f"{self.path}: has no file {shown(name)}; {cure}.")
        return path

    def pickles(self) -> list[str]:
        """Names of the files that would have to be unpickled, in order."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.suffix in _PICKLES)

    def _is_cached_blob(self, path: Path) -> bool:
        """Whether a link leads to a blob of the model library's download cache."""
        blobs = self.path.parent.parent / "blobs"
        return self.path.parent.name == "snapshots" and path.resolve().parent == blobs


def open_folder(path: Path) -> ModelFolder:
    """The folder at ``path``; ``path`` itself may contain symbolic links."""
    return ModelFolder(path.resolve())


def has_tokenizer(folder: ModelFolder) -> bool:
    """Whether a tokenizer's vocabulary is among the files of a folder.

    Raises:
        LoadError: if one of its files is a link or no regular file.
    """
    return any(folder.file(name) is not None for name in _VOCABULARIES)


def holds_model(folder: Path) -> bool:
    """Whether the files of a model lie in a folder, whole or not."""
    try:
        names = {entry.name for entry in folder.iterdir()}
    except OSError:
        return False
    endings = (".safetensors", "pytorch_model.bin")
    return "config.json" in names or any(name.endswith(endings) for name in names)


def check_holds_no_model(folder: Path, what: str) -> None:
    """Raises ValueError if a model lies where ``what``, such as a run, is to be written."""
    if holds_model(folder):
        raise ValueError(
            f"{folder} holds the files of a model, which no {what} is written beside. Choose "
            "another folder."
        )


def gguf_file(path_or_id: str | Path) -> Path | None:
    """The GGUF file that is meant by a path, or None where it leads to none.

    A folder without a ``config.json`` stands for the one GGUF file in it.

    Raises:
        LoadError: a folder with several of them, or with a link in the place of one; something else
            than a path.
    """
    if not isinstance(path_or_id, str | PathLike):
        raise LoadError(
            "a model is a torch module, the folder of a checkpoint, a GGUF file or a hub id, but "
            f"what came is {type(path_or_id).__name__}."
        )
    given = Path(path_or_id)
    if given.is_file():
        return given.resolve() if given.suffix == GGUF_ENDING else None
    if not given.is_dir() or (given / "config.json").exists():
        return None
    folder = open_folder(given)
    names = sorted(entry.name for entry in folder.path.iterdir() if entry.suffix == GGUF_ENDING)
    if len(names) > 1:
        raise LoadError(
            f"{folder.path}: has {len(names)} GGUF files ({listed(names)}); pass the path of the "
            "one to read."
        )
    return folder.file(names[0]) if names else None
