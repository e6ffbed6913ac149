"""``load_model``: builds the model in a folder or file or of a hub id, without running its code."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dsf.loading.building import blueprint, build, fingerprint, read_weights, skeleton
from dsf.loading.errors import LoadError, listed
from dsf.loading.folder import ModelFolder, located, read_settings, weight_files
from dsf.loading.gguf_files import gguf_blueprint, read_gguf, read_gguf_weights
from dsf.loading.tokenizer import folder_tokenizer, gguf_tokenizer


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
        notes: what was ignored, one sentence each.
    """

    model: nn.Module
    tokenizer: Any | None
    identity: str
    revision: str | None
    config_hash: str
    weights_hash: str
    notes: tuple[str, ...]


def load_model(
    path_or_id: str | Path,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    dtype: torch.dtype | None = None,
    allow_quantized: bool = False,
    mapped: bool = False,
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
        allow_quantized: accept a ``quantization_config``.
        mapped: leave the weights in their files, mapped into memory: for models larger than that.
            Nothing may write into these files as long as the model is used. What the model library
            converts or merges is in memory all the same.
        texts: what the tokenizer is going to read; the child process tries these, too.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    place = located(path_or_id, revision, offline=offline)
    if isinstance(place, Path):
        if mapped:
            raise LoadError(
                f"{place}: the weights of a GGUF file are expanded, so that they cannot stay in "
                "it; load it without mapped=True (--layerwise)."
            )
        file, files, version = read_gguf(place), [place], None
        config_hash = file.header_hash
        with gguf_tokenizer(file, texts) as opened:
            plan, settings = gguf_blueprint(file)
            model, unused, shared = build(plan, read_gguf_weights(file, plan), str(place), dtype)
            tokenizer = opened()
        formats = sorted({tensor.format.name for tensor in file.tensors})
        notes = {_DROPPED: settings.dropped, _UNUSED: unused, _EXPANDED: formats}
    else:
        settings = read_settings(place, allow_quantized=allow_quantized)
        plan = blueprint(settings.values, f"{place.path / 'config.json'}")
        files = weight_files(place)
        with folder_tokenizer(place, settings.values, texts) as opened:
            weights = read_weights(files, mapped=mapped)
            model, unused, shared = build(plan, weights, str(place.path), dtype)
            tokenizer = opened()
        notes = {_PICKLES: place.pickles(), _DROPPED: settings.dropped, _UNUSED: unused}
        version = None if Path(path_or_id).is_dir() else place.path.name
        config_hash = _hash_of_settings(place)
    words = (text.format(listed(names)) for text, names in notes.items() if names)
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        identity=str(path_or_id),
        revision=version,
        config_hash=config_hash,
        weights_hash=fingerprint(files),
        notes=(*words, *shared),
    )


def file_hashes(
    path_or_id: str | Path, *, revision: str | None = None, offline: bool | None = None
) -> tuple[str, str]:
    """``config_hash`` and ``weights_hash`` of a model, without building it.

    Raises:
        LoadError: as ``load_model``, for problems that are found before the weights are read.
    """
    place = located(path_or_id, revision, offline=offline)
    if isinstance(place, Path):
        return read_gguf(place).header_hash, fingerprint([place])
    files = weight_files(place)
    return _hash_of_settings(place), fingerprint(files)


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
    place = located(path_or_id, revision, offline=offline)
    if isinstance(place, Path):
        with gguf_tokenizer(read_gguf(place), texts) as opened:
            return opened()
    settings = read_settings(place, allow_quantized=True)
    blueprint(settings.values, f"{place.path / 'config.json'}")
    with folder_tokenizer(place, settings.values, texts) as opened:
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
    place = located(path_or_id, revision, offline=offline, settings_only=True)
    if isinstance(place, Path):
        return skeleton(gguf_blueprint(read_gguf(place))[0], str(place))
    where = f"{place.path / 'config.json'}"
    return skeleton(blueprint(read_settings(place, allow_quantized=True).values, where), where)


def _hash_of_settings(folder: ModelFolder) -> str:
    file = folder.required("config.json", "save the model with save_pretrained")
    return sha256(file.read_bytes()).hexdigest()


_PICKLES = "ignored {}: pickles are not opened."
_DROPPED = "ignored settings that select code: {}."
_UNUSED = "ignored weights that the model does not use: {}."
_EXPANDED = "the weights are stored as {} and were expanded to float32."
