"""An untrusted folder: only plain files directly inside it are opened."""

from dataclasses import dataclass
from pathlib import Path

from dsf.loading.errors import LoadError, shown

_PICKLES = (".bin", ".ckpt", ".joblib", ".pickle", ".pkl", ".pt", ".pth")


@dataclass(frozen=True)
class ModelFolder:
    """A folder that holds a model's files; ``path`` is absolute and has no links in it."""

    path: Path

    def file(self, name: str) -> Path | None:
        """The file called ``name``, or None where there is none.

        Raises:
            LoadError: ``name`` leads out of the folder, is a link, or is no regular file.
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
        """The file called ``name``.

        Raises:
            LoadError: as ``file``, and where there is none; ``cure`` says what to do.
        """
        path = self.file(name)
        if path is None:
            raise LoadError(f"{self.path}: no {shown(name)} there; {cure}.")
        return path

    def pickles(self) -> list[str]:
        """Names of the files that would have to be unpickled, in order."""
        return sorted(entry.name for entry in self.path.iterdir() if entry.suffix in _PICKLES)

    def _is_cached_blob(self, path: Path) -> bool:
        """Whether a link has the one form that the model library's download cache uses."""
        blobs = self.path.parent.parent / "blobs"
        return self.path.parent.name == "snapshots" and path.resolve().parent == blobs


def open_folder(path: Path) -> ModelFolder:
    """The folder at ``path``, which itself may be reached through a link."""
    return ModelFolder(path.resolve())
