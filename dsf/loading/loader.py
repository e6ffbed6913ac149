"""``load_model``: builds the model in a folder or file or of a hub id, without running its code."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsf.loading.building import blueprint, build, skeleton
from dsf.loading.errors import LoadError, listed
from dsf.loading.folder import ModelFolder, gguf_file, snapshot, weight_files
from dsf.loading.gguf_files import gguf_blueprint, read_gguf, read_gguf_weights
from dsf.loading.library_versions import check_torch
from dsf.loading.settings import read_settings
from dsf.loading.tokenizer import folder_tokenizer, gguf_tokenizer
from dsf.loading.weights import fingerprint, non_finite_weights, read_weights


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A model and its origin.

    Attributes:
        model: in evaluation mode, on the CPU.
        tokenizer: the tokenizer of transformers, or None where the folder has none.
        identity: the folder, file or hub id that was passed.
        revision: the commit of a hub model, else None.
        config_hash, weights_hash: SHA-256 in hexadecimal, of ``config.json`` and of the names and
            contents of the weight files. Of a GGUF file, of its header and of the whole.
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
    texts: Sequence[str] = (),
) -> LoadedModel:
    """Build the model in a folder or GGUF file, or of a hub id, from the model library's classes.

    No code of a model runs: settings that select code are dropped, weights are read
    from safetensors, and the model library is given tensors instead of files. The header of a GGUF
    file is checked against the file before another library reads it, and its quantised weights
    are expanded to float32. A tokenizer is opened in a child process with limits of time and memory
    before it is opened here, since a damaged one can end the process that opens it.

    Args:
        path_or_id: a folder written by ``save_pretrained``, a ``.gguf`` file or a folder with one
            and no ``config.json``, or ``owner/name`` on the hub.
        revision: branch, tag or commit of a hub id.
        offline: use no network. Folders and files are always read offline.
        dtype: dtype of the weights; None keeps the one they were saved for.
        allow_pickle_archive: where there is no safetensors file, read ``pytorch_model.bin`` by
            ``torch.load(weights_only=True)``, which runs none of its code.
        allow_quantized: accept a ``quantization_config``.
        texts: what the tokenizer is going to read; the child process tries these, too.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    check_torch()
    if (file := gguf_file(path_or_id)) is not None:
        _check_unversioned(file, revision)
        return _load_gguf(file, str(path_or_id), dtype, texts)
    folder = found(path_or_id, revision, bool(offline), allow_pickle_archive)
    settings = read_settings(folder, allow_quantized=allow_quantized)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    files = weight_files(folder, allow_pickle_archive=allow_pickle_archive)
    with folder_tokenizer(folder, settings.values, texts) as opened:
        model, unused, shared = build(plan, read_weights(files), str(folder.path), dtype)
        tokenizer = opened()
    used = {path.name for path in files}
    pickles = [name for name in folder.pickles() if name not in used]
    notes = _notes({_PICKLES: pickles, _DROPPED: settings.dropped, _UNUSED: unused})
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        identity=str(path_or_id),
        revision=None if Path(path_or_id).is_dir() else folder.path.name,
        config_hash=_hash_of_settings(folder),
        weights_hash=fingerprint(files),
        non_finite=non_finite_weights(model),
        notes=(*notes, *shared),
    )


def file_hashes(
    path_or_id: str | Path, *, revision: str | None = None, offline: bool | None = None
) -> tuple[str, str]:
    """``config_hash`` and ``weights_hash`` of a model, without building it.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    if (file := gguf_file(path_or_id)) is not None:
        _check_unversioned(file, revision)
        return read_gguf(file).header_hash, fingerprint([file])
    folder = found(path_or_id, revision, bool(offline), False)
    files = weight_files(folder, allow_pickle_archive=False)
    return _hash_of_settings(folder), fingerprint(files)


def read_model_tokenizer(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    texts: Sequence[str] = (),
) -> Any | None:
    """The tokenizer of a model, without building the model; None where it has none.

    Args:
        path_or_id, revision, offline, texts: as for ``load_model``.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    if (file := gguf_file(path_or_id)) is not None:
        with gguf_tokenizer(read_gguf(file), texts) as opened:
            return opened()
    folder = found(path_or_id, revision, bool(offline), False)
    settings = read_settings(folder, allow_quantized=True)
    blueprint(settings.values, f"{folder.path / 'config.json'}")
    with folder_tokenizer(folder, settings.values, texts) as opened:
        return opened()


def load_skeleton(
    path_or_id: str | Path, *, revision: str | None = None, offline: bool = False
) -> nn.Module:
    """The modules of a model on the meta device: no weights are read, downloaded or allocated.

    Args:
        path_or_id: a folder with a ``config.json``, a GGUF file, or ``owner/name`` on the hub.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    if (file := gguf_file(path_or_id)) is not None:
        _check_unversioned(file, revision)
        return skeleton(gguf_blueprint(read_gguf(file))[0], str(file))
    place = Path(path_or_id)
    if not place.is_dir():
        place = snapshot(str(path_or_id), revision, offline=offline, settings_only=True)
    folder = ModelFolder(place.resolve())
    where = f"{folder.path / 'config.json'}"
    plan = blueprint(read_settings(folder, allow_quantized=True).values, where)
    return skeleton(plan, where)


def _load_gguf(
    path: Path, identity: str, dtype: torch.dtype | None, texts: Sequence[str]
) -> LoadedModel:
    file = read_gguf(path)
    with gguf_tokenizer(file, texts) as opened:
        plan, settings = gguf_blueprint(file)
        model, unused, shared = build(plan, read_gguf_weights(file, plan), str(path), dtype)
        tokenizer = opened()
    notes = _notes({_DROPPED: settings.dropped, _UNUSED: unused, _EXPANDED: file.formats})
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        identity=identity,
        revision=None,
        config_hash=file.header_hash,
        weights_hash=fingerprint([path]),
        non_finite=non_finite_weights(model),
        notes=(*notes, *shared),
    )


def found(
    path_or_id: str | Path, revision: str | None, offline: bool, allow_pickle_archive: bool
) -> ModelFolder:
    """The folder of a model, downloaded from the hub where an id was passed."""
    given = Path(path_or_id)
    if gguf_file(given) is not None:
        raise LoadError(
            f"{given}: the weights of a GGUF file cannot be loaded block by block; load it as a "
            "whole (load_model, or without --layerwise)."
        )
    if given.is_file():
        raise LoadError(f"{given}: a file, where the folder around it is expected; pass that.")
    if given.is_dir():
        _check_unversioned(given, revision)
    else:
        given = snapshot(
            str(path_or_id), revision, offline=offline, allow_pickle_archive=allow_pickle_archive
        )
    return ModelFolder(given.resolve())


def _check_unversioned(given: Path, revision: str | None) -> None:
    if revision is not None:
        what = "folder" if given.is_dir() else "file"
        raise LoadError(f"{given}: a {what} has no revision {revision!r}; pass revision=None.")


def _hash_of_settings(folder: ModelFolder) -> str:
    return sha256(
        folder.required("config.json", "save the model with save_pretrained").read_bytes()
    ).hexdigest()


_PICKLES = "ignored {}: pickles are not opened."
_DROPPED = "ignored settings that select code: {}."
_UNUSED = "ignored weights that the model does not use: {}."
_EXPANDED = "the weights are stored as {} and were expanded to float32."


def _notes(notes: dict[str, list[str]]) -> tuple[str, ...]:
    return tuple(text.format(listed(names)) for text, names in notes.items() if names)
