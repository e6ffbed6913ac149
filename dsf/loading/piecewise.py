"""Models larger than the memory: the weights of a block are read from disk while it is needed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dsf.loading.building import (
    Held,
    blueprint,
    check_unused,
    checked_skeleton,
    named_unused,
    undisturbed,
)
from dsf.loading.errors import LoadError, listed
from dsf.loading.folder import weight_files
from dsf.loading.library_versions import check_torch
from dsf.loading.loader import found
from dsf.loading.settings import read_settings
from dsf.loading.weights import count_numbers, read_named, tensor_names


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
        self.blocks = tuple(_blocks(model.get_submodule(body), body))
        self._places = places

    @contextmanager
    def opened(self, path: str) -> Iterator[None]:
        """Read the weights below ``path`` from disk for the ``with`` block."""
        with self._filled(
            [name for name in self.model.state_dict() if name.startswith(f"{path}.")]
        ):
            yield

    @contextmanager
    def opened_around(self) -> Iterator[None]:
        """Read the weights of the body outside its blocks: embeddings, norms, shared modules."""
        inside = tuple(f"{path}." for path in self.blocks)
        body = f"{self.body}." if self.body else ""
        names = (name for name in self.model.state_dict() if name.startswith(body))
        with self._filled([name for name in names if not name.startswith(inside)]):
            yield

    @contextmanager
    def _filled(self, names: list[str]) -> Iterator[None]:
        empty = self.model.state_dict(keep_vars=True)
        tensors = self._read(names)
        for name, tensor in tensors.items():
            if tensor.is_floating_point() != empty[name].is_floating_point():
                raise LoadError(
                    f"{self._places[name]}: {name} is stored as {tensor.dtype}, and the model has "
                    f"{empty[name].dtype} there; save the weights again."
                )
            if tensor.shape != empty[name].shape:
                raise LoadError(
                    f"{self._places[name]}: {name} has shape {tuple(tensor.shape)}, and "
                    f"config.json asks for {tuple(empty[name].shape)}; use the one that belongs to "
                    "these weights."
                )
        for name, tensor in tensors.items():
            self._put(name, nn.Parameter(tensor, requires_grad=False))
        try:
            yield
        finally:
            for name in names:
                self._put(name, empty[name])

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        missing = [name for name in names if name not in self._places]
        if missing:
            raise LoadError(
                f"{listed(missing)}: not in the weight files under this name. Models whose weights "
                "are renamed or merged on loading must be loaded as a whole, with load_model."
            )
        read: dict[str, Tensor] = {}
        for path in sorted({self._places[name] for name in names}):
            read |= read_named(path, [name for name in names if self._places[name] == path])
        return read

    def _put(self, name: str, tensor: Any) -> None:
        owner, _, last = name.rpartition(".")
        module = self.model.get_submodule(owner)
        if last in module._buffers:
            module._buffers[last] = tensor.detach()
        else:
            module._parameters[last] = tensor


def open_piecewise(path_or_id: str | Path, *, offline: bool | None = None) -> PiecewiseModel:
    """The model in a folder, or of a hub id, with all weights still on disk.

    Raises:
        LoadError: a file was refused, is missing, or disagrees with another one.
    """
    check_torch()
    folder = found(path_or_id, None, bool(offline), False)
    settings = read_settings(folder, allow_quantized=False)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    places: dict[str, Path] = {}
    numbers = 0
    for path in weight_files(folder, allow_pickle_archive=False):
        numbers += count_numbers(path)
        places |= dict.fromkeys(tensor_names(path), path)
    size = sum(path.stat().st_size for path in set(places.values()))
    checked_skeleton(plan, Held(len(places), numbers, size), str(folder.path))
    with undisturbed(), _parameters_on_meta():
        model = plan.model(plan.config).eval()
    prefix = model.base_model_prefix
    body = prefix if hasattr(model, prefix) else ""
    if all(name in places for name in model.state_dict() if name.startswith(body)):
        unused = named_unused(model, places)  # of others, names are changed on loading
        read = lambda name: read_named(places[name], [name])[name]  # noqa: E731
        check_unused(model, plan.config, unused, read, str(folder.path))
    return PiecewiseModel(model, body, places)


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        at = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield from (f"{at}.{number}" for number in range(len(child)))
        else:
            yield from _blocks(child, at)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Modules built inside move each parameter to the meta device at once, but keep buffers."""
    register = nn.Module.register_parameter

    def emptied(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        register(module, name, parameter)
        if parameter is not None:
            module._parameters[name] = nn.Parameter(parameter.to("meta"), requires_grad=False)

    nn.Module.register_parameter = emptied  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]
