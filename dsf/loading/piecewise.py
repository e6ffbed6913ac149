"""Models that do not fit: weights stay on the disk until the part that holds them is opened."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from dsf.loading.building import blueprint, undisturbed
from dsf.loading.errors import LoadError, listed
from dsf.loading.library_versions import check_torch
from dsf.loading.loader import found
from dsf.loading.settings import read_settings
from dsf.loading.tensor_files import check_header
from dsf.loading.weights import weight_files


class PiecewiseModel:
    """A model of the library whose parameters have no numbers while they are not open.

    Attributes:
        model: the whole module, in evaluation mode.
        body: path of the model without its head.
        blocks: paths of the modules to be opened one by one: what the outermost lists hold.
    """

    def __init__(self, model: nn.Module, body: str, places: dict[str, Path]):
        self.model, self.body = model, body
        self.blocks = tuple(_blocks(model.get_submodule(body), body))
        self._places = places

    @contextmanager
    def opened(self, path: str) -> Iterator[None]:
        """Everything below ``path`` has its numbers inside the block.

        Raises:
            LoadError: if the files hold no tensor of that name and shape.
        """
        with self._filled(
            [name for name in self.model.state_dict() if name.startswith(f"{path}.")]
        ):
            yield

    @contextmanager
    def opened_around(self) -> Iterator[None]:
        """The body without its blocks: embeddings, norms, what blocks share.

        Raises:
            LoadError: if the files hold no tensor of that name and shape.
        """
        inside = tuple(f"{path}." for path in self.blocks)
        body = f"{self.body}." if self.body else ""
        names = (name for name in self.model.state_dict() if name.startswith(body))
        with self._filled([name for name in names if not name.startswith(inside)]):
            yield

    @contextmanager
    def _filled(self, names: list[str]) -> Iterator[None]:
        held = self.model.state_dict(keep_vars=True)
        tensors = self._read(names)
        for name, tensor in tensors.items():
            if tensor.shape != held[name].shape:
                raise LoadError(
                    f"{self._places[name]}: {name} has shape {tuple(tensor.shape)}, and "
                    f"config.json asks for {tuple(held[name].shape)}; use the one that belongs to "
                    "these weights."
                )
        for name, tensor in tensors.items():
            self._put(name, nn.Parameter(tensor, requires_grad=False))
        try:
            yield
        finally:
            for name in names:
                self._put(name, held[name])

    def _read(self, names: list[str]) -> dict[str, Tensor]:
        missing = [name for name in names if name not in self._places]
        if missing:
            raise LoadError(
                f"{listed(missing)}: not in the weight files under this name. Families whose "
                "weights are renamed or merged on loading have to be loaded as a whole."
            )
        read: dict[str, Tensor] = {}
        for path in sorted({self._places[name] for name in names}):
            with safe_open(path, framework="pt") as file:
                wanted = [name for name in names if self._places[name] == path]
                read |= {name: file.get_tensor(name).clone() for name in wanted}
        return read

    def _put(self, name: str, tensor: Any) -> None:
        """Set a parameter or a buffer by its full name."""
        owner, _, last = name.rpartition(".")
        module = self.model.get_submodule(owner)
        if last in module._buffers:
            module._buffers[last] = tensor.detach()
        else:
            module._parameters[last] = tensor


def open_piecewise(path_or_id: str | Path, *, offline: bool | None = None) -> PiecewiseModel:
    """The model in a folder, or of a hub id, without its weights.

    Raises:
        LoadError: something was refused, is missing or does not fit together.
    """
    check_torch()
    folder = found(path_or_id, None, bool(offline), False)
    settings = read_settings(folder, allow_quantized=False)
    plan = blueprint(settings.values, f"{folder.path / 'config.json'}")
    places: dict[str, Path] = {}
    for path in weight_files(folder, allow_pickle_archive=False):
        check_header(path)
        with safe_open(path, framework="pt") as file:
            places |= dict.fromkeys(file.keys(), path)
    with undisturbed(), _parameters_without_numbers():
        model = plan.model(plan.config).eval()
    prefix = model.base_model_prefix
    return PiecewiseModel(model, prefix if hasattr(model, prefix) else "", places)


def _blocks(module: nn.Module, path: str) -> Iterator[str]:
    """The entries of the outermost lists of modules."""
    for name, child in module.named_children():
        at = f"{path}.{name}" if path else name
        if isinstance(child, nn.ModuleList):
            yield from (f"{at}.{number}" for number in range(len(child)))
        else:
            yield from _blocks(child, at)


@contextmanager
def _parameters_without_numbers() -> Iterator[None]:
    """Modules made inside keep one parameter at a time in memory, and their buffers."""
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
