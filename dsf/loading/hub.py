"""Downloads the files of a hub id into the library's cache."""

import re
from pathlib import Path

from dsf.loading.errors import LoadError, shown
from dsf.loading.folder import TOKENIZER_FILES
from dsf.loading.library_versions import model_library

_ID = re.compile(r"\w[\w.-]{0,95}(/\w[\w.-]{0,95})?")
_WEIGHTS = ["model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json"]
_PICKLED = ["pytorch_model.bin", "pytorch_model-*-of-*.bin", "pytorch_model.bin.index.json"]


def snapshot(
    model_id: str,
    revision: str | None,
    *,
    offline: bool,
    allow_pickle_archive: bool = False,
    settings_only: bool = False,
) -> Path:
    """The folder with a hub model's settings, tokenizer and weights; code is not downloaded.

    Raises:
        LoadError: ``model_id`` is neither a folder nor a hub id, or the download failed.
    """
    if model_id.endswith(".gguf"):
        raise LoadError(f"{shown(model_id)}: there is no such file; check the path.")
    if model_id.startswith("~"):
        raise LoadError(
            f"{shown(model_id)}: there is no such folder. Write your home folder out: what stands "
            "in quotes or behind '=' is left as it is."
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

    wanted = ["config.json", *TOKENIZER_FILES, *_WEIGHTS, *(_PICKLED * allow_pickle_archive)]
    if settings_only:
        wanted = wanted[:1]
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
