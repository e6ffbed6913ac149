"""``load_model``: builds the model in a folder or of a hub id, without running its code."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsf.loading.building import blueprint, build
from dsf.loading.errors import LoadError, listed
from dsf.loading.folder import ModelFolder, open_folder
from dsf.loading.hub import snapshot
from dsf.loading.library_versions import check_torch
from dsf.loading.settings import read_settings
from dsf.loading.tensor_files import non_finite_weights
from dsf.loading.tokenizer import read_tokenizer
from dsf.loading.weights import fingerprint, read_weights, weight_files


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and its origin.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: the tokenizer of transformers, or None where the folder has none.
        identity: the folder or hub id that was passed.
        revision: the commit of a hub model, else None.
        config_hash, weights_hash: SHA-256 in hexadecimal, of ``config.json`` and of the names and
            contents of the weight files.
        non_finite: names of weights that hold NaN or an infinity.
        notes: what was ignored, one sentence each.
    """

    model: nn.Module
    tokenizer: Any | None
    identity: str
    revision: str | None
    config_hash: str
    weights_hash: str
    non_finite: tuple[str, ...]
    notes: tuple[str, ...]


def load_model(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    dtype: torch.dtype | None = None,
    allow_pickle_archive: bool = False,
    allow_quantized: bool = False,
) -> LoadedModel:
    """Build the model in a folder, or of a hub id, from the model library's own classes.

    No code that comes with a model runs: settings that select code are dropped, weights are read
    from safetensors, and the model library is given tensors instead of files.

    Args:
        path_or_id: a folder written by ``save_pretrained``, or ``owner/name`` on the hub.
        revision: branch, tag or commit of a hub id.
        offline: use no network. A folder is always read offline.
        dtype: dtype of the weights; None keeps the one they were saved for.
        allow_pickle_archive: where there is no safetensors file, read ``pytorch_model.bin``, still
            without unpickling it (see ``read_tensors``).
        allow_quantized: accept a ``quantization_config``.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    check_torch()
    folder = found(path_or_id, revision, bool(offline), allow_pickle_archive)
    settings = read_settings(folder, allow_quantized=allow_quantized)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    files = weight_files(folder, allow_pickle_archive=allow_pickle_archive)
    model, unused = build(plan, read_weights(files), str(folder.path), dtype)
    return LoadedModel(
        model=model,
        tokenizer=read_tokenizer(folder, plan.config),
        identity=str(path_or_id),
        revision=None if Path(path_or_id).is_dir() else folder.path.name,
        config_hash=_hash_of_settings(folder),
        weights_hash=fingerprint(files),
        non_finite=non_finite_weights(model),
        notes=_notes(folder, files, settings.dropped, unused),
    )


def file_hashes(path_or_id: str | Path, *, offline: bool | None = None) -> tuple[str, str]:
    """``config_hash`` and ``weights_hash`` of a model, without building it.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    folder = found(path_or_id, None, bool(offline), False)
    files = weight_files(folder, allow_pickle_archive=False)
    return _hash_of_settings(folder), fingerprint(files)


def read_model_tokenizer(path_or_id: str | Path, *, offline: bool | None = None) -> Any | None:
    """The tokenizer of a model, without building the model; None where it has none.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    folder = found(path_or_id, None, bool(offline), False)
    settings = read_settings(folder, allow_quantized=True)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    return read_tokenizer(folder, plan.config)


def found(
    path_or_id: str | Path, revision: str | None, offline: bool, allow_pickle_archive: bool
) -> ModelFolder:
    """The folder of a model, downloaded from the hub where an id was passed.

    Raises:
        LoadError: a file was passed, or a revision for a folder, or the download failed.
    """
    given = Path(path_or_id)
    if given.is_file():
        raise LoadError(f"{given}: a file, where the folder around it is expected; pass that.")
    if not given.is_dir():
        return open_folder(
            snapshot(
                str(path_or_id),
                revision,
                offline=offline,
                allow_pickle_archive=allow_pickle_archive,
            )
        )
    if revision is not None:
        raise LoadError(f"{given}: a folder has no revision {revision!r}; pass revision=None.")
    return open_folder(given)


def _hash_of_settings(folder: ModelFolder) -> str:
    return sha256(
        folder.required("config.json", "save the model with save_pretrained").read_bytes()
    ).hexdigest()


def _notes(
    folder: ModelFolder, files: list[Path], dropped: list[str], unused: list[str]
) -> tuple[str, ...]:
    used = {path.name for path in files}
    pickles = [name for name in folder.pickles() if name not in used]
    notes = {
        "ignored {}: pickles are not opened.": pickles,
        "ignored settings that select code: {}.": dropped,
        "ignored weights that the model does not use: {}.": unused,
    }
    return tuple(text.format(listed(names)) for text, names in notes.items() if names)
