"""Writes the maps of an inspection to npz, safetensors or xarray, or for BertViz and CircuitsVis.

The two viewers insert tokens into HTML without escaping, so that angle brackets are replaced by ‹
and ›.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from torch import Tensor

from dsf.evaluate import attention_map
from dsf.inspection import InspectedLayer, Inspection
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.systems.algebra import select

ABOUT = "about"
CAVEAT = "linear in its signal, given its coefficients: a statement about this run"


@checked
def to_npz(inspection: Inspection, path: str | Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write the map of every layer under its name, and a description, ``about``, as JSON.

    The file is written atomically. ``json.loads(str(numpy.load(path)["about"]))`` has the axes of
    every map, its error, and the tokens.

    Args:
        dtype: the real dtype to store; complex maps get the complex dtype of that precision.

    Raises:
        MapTooLarge: if a map would take more than half of the free memory.

    Example:
        >>> import dsf, json, numpy, tempfile, torch
        >>> inspection = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(1, 6, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     stored = numpy.load(to_npz(inspection, f"{folder}/maps.npz"))
        ...     stored["LSTM[layer 0]"].shape, json.loads(str(stored["about"]))["layers"][0]["axes"]
        ((1, 4, 6, 6), ['sample', 'channel', 'query', 'key'])
    """
    arrays = {name: map.numpy(force=True) for name, map in _maps(inspection, dtype).items()}
    arrays[ABOUT] = np.array(_about(inspection))
    return replace_file(path, lambda draft: _write_npz(draft, arrays))


@checked
def to_safetensors(
    inspection: Inspection, path: str | Path, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Write the map of every layer under its name, and a description, ``about``, as metadata.

    The file is written atomically. One head can be read without the rest:
    ``safetensors.safe_open(path, "pt").get_slice(name)[0, 3]``.

    Args:
        dtype: the real dtype to store; complex maps get the complex dtype of that precision.

    Raises:
        MapTooLarge: if a map would take more than half of the free memory.

    Example:
        >>> import dsf, safetensors, tempfile, torch
        >>> inspection = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(1, 6, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = to_safetensors(inspection, f"{folder}/maps.safetensors")
        ...     with safetensors.safe_open(path, "pt") as stored:
        ...         stored.get_slice("LSTM[layer 0]")[0, 3].shape
        torch.Size([6, 6])
    """
    maps = {name: map.contiguous().cpu() for name, map in _maps(inspection, dtype).items()}
    about = {ABOUT: _about(inspection)}
    return replace_file(path, lambda draft: save_file(maps, draft, metadata=about))


@checked
def to_xarray(inspection: Inspection, *, dtype: torch.dtype = torch.float32) -> Any:
    """The maps as an ``xarray.DataTree``, with a node for each layer, named axes and tokens.

    Args:
        dtype: a real dtype; complex maps get the complex dtype of that precision.

    Raises:
        ModuleNotFoundError: if xarray is not installed.
        MapTooLarge: if a map would take more than half of the free memory.

    Example:
        >>> import dsf, torch
        >>> inspection = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(1, 6, 3))
        >>> tree = to_xarray(inspection)
        >>> map = tree["LSTM[layer 0]"]["map"]
        >>> map.dims
        ('sample', 'channel', 'query', 'key')
        >>> map.sel(channel=2, query=5).sum("key").shape
        (1,)
    """
    try:
        import xarray
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "to_xarray: needs xarray, which is not installed: pip install xarray."
        ) from None
    nodes = {}
    for layer, map in zip(inspection, _maps(inspection, dtype).values(), strict=True):
        axes = _axes(layer)
        coordinates: dict[str, Any] = {
            axis: np.arange(size) for axis, size in zip(axes, map.shape, strict=True)
        }
        for axis in ("query", "key"):
            fitting = _fitting(inspection, map, axes, axis)
            if fitting is not None:
                coordinates[f"{axis}_token"] = (("sample", axis), fitting)
        data = xarray.DataArray(map.numpy(force=True), coordinates, axes, attrs=_record(layer))
        nodes[layer.name] = xarray.Dataset({"map": data})
    root = xarray.Dataset(attrs={"model": inspection.model, "caveat": CAVEAT})
    return xarray.DataTree.from_dict({"/": root, **nodes})


def _maps(inspection: Inspection, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every map under its layer's name; several input or output ports get their own axes."""
    maps = {}
    for layer in inspection:
        system, map = layer.system, layer.map()
        map = map.unflatten(-1, (-1, system.input_size)).unflatten(-3, (-1, system.output_size))
        single = [k for k, size in ((-1, system.input_size), (-3, system.output_size)) if size == 1]
        map = map.squeeze(tuple(single))
        maps[layer.name] = map.to(dtype.to_complex() if map.is_complex() else dtype)
    return maps


def _axes(layer: InspectedLayer) -> list[str]:
    system = layer.system
    written = ["query", "output"] if system.output_size > 1 else ["query"]
    read = ["key", "input"] if system.input_size > 1 else ["key"]
    return [*layer.axes, *written, *read]


def _record(layer: InspectedLayer) -> dict[str, Any]:
    return {
        "family": layer.family,
        "mixer": type(layer.mixer).__name__,
        "error": layer.error,
        "formula": layer.formula,
        "rounding": layer.rounding,
        "tolerance": layer.tolerance,
    }


def _about(inspection: Inspection) -> str:
    layers = [{"name": layer.name, "axes": _axes(layer), **_record(layer)} for layer in inspection]
    missed = [vars(missed) for missed in inspection.unsupported]
    return json.dumps(
        {
            "model": inspection.model,
            "caveat": CAVEAT,
            "layers": layers,
            "unsupported": missed,
            "tokens": inspection.tokens,
            "environment": inspection.environment,
        }
    )


def _fitting(inspection: Inspection, map: Tensor, axes: list[str], axis: str) -> Any:
    """The tokens, ``sample token``, if their number fits this axis; else None."""
    tokens = inspection.tokens
    if tokens is None or "sample" not in axes:
        return None
    sizes = (map.shape[axes.index("sample")], map.shape[axes.index(axis)])
    if sizes != (len(tokens), len(tokens[0])) or len({len(sample) for sample in tokens}) > 1:
        return None
    return np.array(tokens)


def _write_npz(path: Path, arrays: dict[str, Any]) -> None:
    with path.open("wb") as file:  # given a path, numpy would append .npz
        np.savez(file, **arrays)


BRACKETS = str.maketrans("<>", "‹›")


@checked
def to_bertviz(
    inspection: Inspection,
    *,
    layers: Sequence[int] | None = None,
    sample: int = 0,
    heads: slice = slice(None),
) -> tuple[list[Float[Tensor, "1 head time time"]], list[str]]:
    """Maps of one sample and its tokens: ``bertviz.head_view(*to_bertviz(inspection))``.

    BertViz draws a weight as the opacity of a line, so that negative weights are not visible.

    Args:
        layers: indices of layers in the inspection; by default all.
        sample: the index of the sample.
        heads: the heads, or channels, of every layer.

    Raises:
        ValueError: if the layers differ in their number of heads or tokens, or a map is not square.

    Example:
        >>> import dsf, torch
        >>> attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        >>> x = torch.randn(1, 5, 8)
        >>> maps, tokens = to_bertviz(dsf.inspect(attention, x, x, x))
        >>> maps[0].shape, tokens
        (torch.Size([1, 2, 5, 5]), ['0', '1', '2', '3', '4'])
    """
    chosen = [inspection[k] for k in (range(len(inspection)) if layers is None else layers)]
    maps = [_viewer_maps(layer, sample, heads).unsqueeze(0) for layer in chosen]
    sizes = {layer.name: tuple(map.shape[1:]) for layer, map in zip(chosen, maps, strict=True)}
    if len(set(sizes.values())) != 1:
        listed = ", ".join(f"{name} has {size}" for name, size in sizes.items()) or "there is none"
        raise ValueError(
            f"to_bertviz: needs layers with the same heads and tokens, but {listed}. Choose some: "
            "layers=[0, 2], or heads=slice(0, 2)."
        )
    return maps, _tokens(inspection, sample, maps[0].shape[-1])


@checked
def to_circuitsvis(
    inspection: Inspection, layer: int = 0, *, sample: int = 0, heads: slice = slice(None)
) -> dict[str, Any]:
    """Signed maps of one layer and sample, as arguments of CircuitsVis' ``attention_heads``.

    ``circuitsvis.attention.attention_heads(**to_circuitsvis(inspection, 1))``

    Args:
        layer: the index of the layer in the inspection.
        sample: the index of the sample.
        heads: the heads, or channels.

    Raises:
        ValueError: if the map is not square.

    Example:
        >>> import dsf, torch
        >>> inspection = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.randn(1, 6, 3))
        >>> given = to_circuitsvis(inspection, heads=slice(0, 2))
        >>> given["attention"].shape, given["tokens"][:2]
        (torch.Size([2, 6, 6]), ['0', '1'])
    """
    maps = _viewer_maps(inspection[layer], sample, heads)
    return {"tokens": _tokens(inspection, sample, maps.shape[-1]), "attention": maps}


def _viewer_maps(
    layer: InspectedLayer, sample: int, heads: slice
) -> Float[Tensor, "head time time"]:
    """Maps of one sample, one for each head, without the columns of constant inputs."""
    samples = layer.system.batch[0] if layer.axes else 1
    if not -samples <= sample < samples:
        raise IndexError(
            f"{layer.name}: 'sample' must lie between 0 and {samples - 1}, but it is {sample}."
        )
    index = (sample, heads)[: len(layer.axes)]
    system = select(layer.system, index)
    map = attention_map(system).unflatten(-1, (-1, system.input_size))[..., 0]
    if map.is_complex() or map.shape[-1] != map.shape[-2]:
        raise ValueError(
            f"{layer.name}: needs a real, square map of tokens, but this one has the shape "
            f"{tuple(map.shape[-2:])} and the type {map.dtype}."
        )
    return map.reshape(-1, *map.shape[-2:]).to(torch.float32)


def _tokens(inspection: Inspection, sample: int, steps: int) -> list[str]:
    if inspection.tokens is None:
        return [str(token) for token in range(steps)]
    return [token.translate(BRACKETS) for token in inspection.tokens[sample]]
