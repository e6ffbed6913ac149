"""``load_model``: builds the model in a folder or file or of a hub id, without running its code.

``open_piecewise``, for models larger than the memory, reads the weights of a block while they are
needed.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from dsf.loading.building import (
    Held,
    blueprint,
    build,
    check_unused,
    checked_skeleton,
    fingerprint,
    named_unused,
    read_named,
    read_weights,
    skeleton,
    tensor_shapes,
    undisturbed,
)
from dsf.loading.errors import LoadError, check_torch, listed
from dsf.loading.folder import ModelFolder, gguf_file, read_settings, snapshot, weight_files
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
        texts: what the tokenizer is going to read; the child process tries these, too.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    check_torch()
    place = _located(path_or_id, revision, offline)
    if isinstance(place, Path):
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
            model, unused, shared = build(plan, read_weights(files), str(place.path), dtype)
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
    place = _located(path_or_id, revision, offline)
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
    place = _located(path_or_id, revision, offline)
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
    place = _located(path_or_id, revision, offline, settings_only=True)
    if isinstance(place, Path):
        return skeleton(gguf_blueprint(read_gguf(place))[0], str(place))
    where = f"{place.path / 'config.json'}"
    return skeleton(blueprint(read_settings(place, allow_quantized=True).values, where), where)


def _located(
    path_or_id: str | Path, revision: str | None, offline: bool | None, **wanted: bool
) -> Path | ModelFolder:
    """The GGUF file, or the folder of a model, downloaded from the hub where an id was passed."""
    file, given = gguf_file(path_or_id), Path(path_or_id)
    if file is None and given.is_file():
        raise LoadError(f"{given}: a file, where the folder around it is expected; pass that.")
    if revision is not None and (file is not None or given.is_dir()):
        what = "folder" if file is None else "file"
        raise LoadError(f"{given}: a {what} has no revision {revision!r}; pass revision=None.")
    if file is None and not given.is_dir():
        given = snapshot(str(path_or_id), revision, offline=bool(offline), **wanted)
    return ModelFolder(given.resolve()) if file is None else file


def _hash_of_settings(folder: ModelFolder) -> str:
    file = folder.required("config.json", "save the model with save_pretrained")
    return sha256(file.read_bytes()).hexdigest()


_PICKLES = "ignored {}: pickles are not opened."
_DROPPED = "ignored settings that select code: {}."
_UNUSED = "ignored weights that the model does not use: {}."
_EXPANDED = "the weights are stored as {} and were expanded to float32."


class PiecewiseModel:
    """A model of transformers whose parameters are on the meta device unless they are opened.

    Attributes:
        model: the whole module, in evaluation mode.
        body: the path of the model without its head.
        blocks: the paths of the modules to open one by one: the entries of the outermost
            ``ModuleList``.
    """

    def __init__(self, model: nn.Module, body: str, places: dict[str, Path]):
        self.model, self.body = model, body
        self.blocks = tuple(outer_blocks(model.get_submodule(body), body))
        self._places = places

    def opened(self, path: str) -> AbstractContextManager[None]:
        """Read the weights below ``path`` from disk for the ``with`` block."""
        return self._filled([name for name in self._names if name.startswith(f"{path}.")])

    def opened_around(self) -> AbstractContextManager[None]:
        """Read the weights of the body outside its blocks: embeddings, norms, shared modules."""
        inside = tuple(f"{path}." for path in self.blocks)
        names = (name for name in self._names if not name.startswith(inside))
        body = f"{self.body}." if self.body else ""
        return self._filled([name for name in names if name.startswith(body)])

    @property
    def _names(self) -> Iterable[str]:
        return self.model.state_dict()

    @contextmanager
    def _filled(self, names: list[str]) -> Iterator[None]:
        if missing := [name for name in names if name not in self._places]:
            raise LoadError(
                f"{listed(missing)}: not in the weight files under this name. Models whose weights "
                "are renamed or merged on loading must be loaded as a whole, with load_model."
            )
        every = self.model.state_dict(keep_vars=True)
        empty = {name: every[name] for name in names}
        tensors: dict[str, Tensor] = {}
        for path in sorted({self._places[name] for name in names}):
            tensors |= read_named(path, [name for name in names if self._places[name] == path])
        for name, tensor in tensors.items():
            own, is_number = empty[name], tensor.is_floating_point()
            if tensor.shape != own.shape or is_number != own.is_floating_point():
                raise LoadError(
                    f"{self._places[name]}: {name} is stored as {tensor.dtype} of shape "
                    f"{tuple(tensor.shape)}, and config.json asks for {own.dtype} of shape "
                    f"{tuple(own.shape)}; use the one that belongs to these weights, or save them "
                    "again."
                )
        self.model.load_state_dict(tensors, strict=False, assign=True)
        try:
            yield
        finally:
            self.model.load_state_dict(empty, strict=False, assign=True)


def open_piecewise(path_or_id: str | Path, *, offline: bool | None = None) -> PiecewiseModel:
    """The model in a folder, or of a hub id, with all weights still on disk.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    check_torch()
    folder = _located(path_or_id, None, offline)
    if isinstance(folder, Path):
        raise LoadError(
            f"{folder}: the weights of a GGUF file cannot be loaded block by block; load it as a "
            "whole (load_model, or without --layerwise)."
        )
    settings = read_settings(folder, allow_quantized=False)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    places: dict[str, Path] = {}
    shapes: dict[str, list[int]] = {}
    for path in weight_files(folder):
        shapes |= (found := tensor_shapes(path))
        places |= dict.fromkeys(found, path)
    size = sum(path.stat().st_size for path in set(places.values()))
    held = Held(len(places), sum(map(prod, shapes.values())), size)
    checked_skeleton(plan, held, str(folder.path))
    hook = register_module_parameter_registration_hook(_emptied)  # type: ignore[arg-type]
    try:
        with undisturbed():  # buffers stay, since models compute some of them when they are built
            model = plan.model(plan.config).eval()
    finally:
        hook.remove()
    prefix = model.base_model_prefix
    body = prefix if hasattr(model, prefix) else ""
    if all(name in places for name in model.state_dict() if name.startswith(body)):
        unused = named_unused(model, places)  # of others, names are changed on loading
        read = lambda name: read_named(places[name], [name])[name]  # noqa: E731
        check_unused(model, plan.config, unused, read, str(folder.path))
    return PiecewiseModel(model, body, places)


def outer_blocks(module: nn.Module, path: str = "") -> Iterator[str]:
    """The paths of the entries of the outermost lists of modules."""
    for name, child in module.named_children():
        at = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield from (f"{at}.{number}" for number in range(len(child)))
        else:
            yield from outer_blocks(child, at)


def _emptied(_module: nn.Module, _name: str, parameter: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(parameter.to("meta"), requires_grad=False)
