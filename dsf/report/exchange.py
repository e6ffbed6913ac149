"""Converts systems and maps to and from other tools, which are imported only when needed.

Maps go to npz, safetensors, xarray, BertViz and CircuitsVis; the two viewers insert tokens into
HTML without escaping, so that angle brackets are replaced by ‹ and ›. Time-invariant systems are
those of SciPy and python-control. Attention comes from a TransformerLens cache, which may be any
mapping from the names of hooks to tensors.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from safetensors.torch import save_file
from scipy import signal as scipy_signal
from torch import Tensor

from dsf.evaluate import attention_map, respond
from dsf.evaluate.invariant import varying
from dsf.inspection import InspectedLayer, Inspection, NothingCapturedError, ReconstructionError
from dsf.inspection.capture.precision import TOLERANCE
from dsf.inspection.rebuild import relative_error
from dsf.inspection.softmax.attention import attention
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.runtime.first_use import library
from dsf.runtime.shapes import has_axes, of_kind
from dsf.systems.algebra import select
from dsf.systems.system import System

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "from_transformer_lens",
    "state_space",
    "to_bertviz",
    "to_circuitsvis",
    "to_control",
    "to_npz",
    "to_safetensors",
    "to_scipy",
    "to_xarray",
]

ABOUT = "about"
CAVEAT = "linear in its signal, given its coefficients: a statement about this run"


@checked
def to_npz(inspection: Inspection, path: str | Path) -> Path:
    """Write the map of every layer under its name, and a description, ``about``, as JSON.

    Maps are in single precision. The file is written atomically.
    ``json.loads(str(numpy.load(path)["about"]))`` has the axes of every map, its error, and the
    tokens.

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
    arrays: dict[str, Any] = {
        name: map.numpy(force=True) for name, map in _maps(inspection).items()
    }
    arrays[ABOUT] = np.array(_about(inspection))

    def write(draft: Path) -> None:
        with draft.open("wb") as file:  # given a path, numpy would append .npz
            np.savez(file, **arrays)

    return replace_file(path, write)


@checked
def to_safetensors(inspection: Inspection, path: str | Path) -> Path:
    """Write the map of every layer under its name, and a description, ``about``, as metadata.

    Maps are in single precision. The file is written atomically. One head can be read without the
    rest: ``safetensors.safe_open(path, "pt").get_slice(name)[0, 3]``.

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
    maps = {name: map.contiguous().cpu() for name, map in _maps(inspection).items()}
    about = {ABOUT: _about(inspection)}
    return replace_file(path, lambda draft: save_file(maps, draft, metadata=about))


@checked
def to_xarray(inspection: Inspection) -> Any:
    """The maps as an ``xarray.DataTree``, with a node for each layer, named axes and tokens.

    Maps are in single precision.

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
    xarray = library("to_xarray", "xarray", "xarray")
    nodes = {}
    for layer, map in zip(inspection, _maps(inspection).values(), strict=True):
        axes, tokens = _axes(layer), inspection.tokens or ()
        sizes = dict(zip(axes, map.shape, strict=True))
        coordinates: dict[str, Any] = {axis: np.arange(size) for axis, size in sizes.items()}
        lengths = {len(sample) for sample in tokens}
        for axis in ("query", "key"):
            if len(tokens) == sizes.get("sample") and lengths == {sizes[axis]}:
                coordinates[f"{axis}_token"] = (("sample", axis), np.array(tokens))
        data = xarray.DataArray(map.numpy(force=True), coordinates, axes, attrs=_record(layer))
        nodes[layer.name] = xarray.Dataset({"map": data})
    root = xarray.Dataset(attrs={"model": inspection.model, "caveat": CAVEAT})
    return xarray.DataTree.from_dict({"/": root, **nodes})


def _maps(inspection: Inspection) -> dict[str, Tensor]:
    """Every map under its layer's name; several input or output ports get their own axes."""
    maps = {}
    for layer in inspection:
        system, map = layer.system, layer.map()
        map = map.unflatten(-1, (-1, system.input_size)).unflatten(-3, (-1, system.output_size))
        single = [k for k, size in ((-1, system.input_size), (-3, system.output_size)) if size == 1]
        map = map.squeeze(tuple(single))
        maps[layer.name] = map.to(torch.complex64 if map.is_complex() else torch.float32)
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


Four = tuple["NDArray[Any]", "NDArray[Any]", "NDArray[Any]", "NDArray[Any]"]


@checked
def state_space(system: System) -> Four:
    """A, B, C, D of a time-invariant system in the control convention, as arrays.

    In control the output reads the state before the update, ``x_{t+1} = A x_t + B u_t``,
    ``y_t = C x_t + D u_t``. A system that reads after the update gets ``C A`` for C and ``D + C B``
    for D, which gives the same response at every token.

    Raises:
        ValueError: if the system changes with time, has batch axes, runs backward, or takes the
            real part of a complex state.
    """
    name = varying(system)
    if name is not None:
        raise ValueError(
            f"state_space: needs a time-invariant system, since control libraries have no others, "
            f"but {name} changes with time."
        )
    if system.batch or system.runs_backward or system.takes_real_part:
        raise ValueError(
            "state_space: needs one causal system without batch axes whose output is not the real "
            "part of a complex state; pick one with dsf.systems.algebra.select, reverse time with "
            "dsf.systems.algebra.reverse, or use dsf.systems.algebra.with_conjugates first."
        )
    token = system.window(0, 1)
    A = token.A.dense()[0]
    B, C, D = (torch.as_tensor(part)[0] for part in (token.B, token.C, token.feedthrough))
    if not system.reads_before_update:
        C, D = C @ A, D + C @ B
    return A.numpy(force=True), B.numpy(force=True), C.numpy(force=True), D.numpy(force=True)


@checked
def to_scipy(system: System) -> Any:
    """The system as ``scipy.signal.StateSpace`` with a time step of one token."""
    return scipy_signal.StateSpace(*state_space(system), dt=True)


@checked
def to_control(system: System) -> Any:
    """The system as ``control.StateSpace`` with a time step of one token.

    Raises:
        ModuleNotFoundError: if python-control is not installed.
    """
    control = library("to_control", "control", "control")
    return control.StateSpace(*state_space(system), True)


PATTERN = "hook_pattern"


@checked
def from_transformer_lens(
    cache: Any,
    *,
    scale: float | None = None,
    softcap: float | None = None,
    tokens: Sequence[Sequence[str]] | None = None,
) -> Inspection:
    """The attentions in a cache, each rebuilt from its queries and keys.

    The rebuilt map is compared with the pattern and, where the cache has it, with ``hook_z``. Zero
    weights of a pattern are taken to be masked. If the cache has ``hook_attn_scores``, whatever the
    model adds to its scores (ALiBi, relative positions) becomes a bias.

    Args:
        cache: the cache of ``model.run_with_cache(...)``, with or without a batch axis.
        scale: the factor on the product of query and key, one over the model's ``cfg.attn_scale``;
            by default ``d_head ** -0.5``.
        softcap: the soft cap of the scores, if the model has one.
        tokens: the text of every token, one sequence for each sample.

    Raises:
        NothingCapturedError: if there is no pattern in the cache.
        ReconstructionError: if queries and keys do not reproduce a pattern.

    Example:
        >>> import torch
        >>> q, k, v = torch.randn(3, 1, 5, 2, 4).unbind()  # batch, position, head, d_head
        >>> scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / 2
        >>> ahead = torch.ones(5, 5, dtype=torch.bool).triu(1)
        >>> pattern = scores.masked_fill(ahead, -torch.inf).softmax(dim=-1)
        >>> names = [f"blocks.0.attn.hook_{name}" for name in ("q", "k", "v", "pattern")]
        >>> inspection = from_transformer_lens(dict(zip(names, (q, k, v, pattern))))
        >>> inspection[0].name, inspection[0].error < 1e-6, inspection[0].mixer.causal
        ('blocks.0.attn', True, True)
    """
    of_kind(
        "from_transformer_lens",
        "cache",
        cache,
        lambda given: hasattr(given, "keys") and hasattr(given, "__getitem__"),
        "the cache of model.run_with_cache(...)",
    )
    names = [name for name in map(str, cache.keys()) if name.endswith(PATTERN)]
    if not names:
        raise NothingCapturedError(
            f"from_transformer_lens: no name in the cache ends in '{PATTERN}'. Keep the attention "
            "patterns: call run_with_cache without names_filter."
        )
    layers = (_layer(cache, name.removesuffix(PATTERN), scale, softcap) for name in names)
    return Inspection(
        layers=tuple(layers),
        model="TransformerLens cache",
        tokens=None if tokens is None else tuple(tuple(sample) for sample in tokens),
    )


def _layer(cache: Any, prefix: str, scale: float | None, softcap: float | None) -> InspectedLayer:
    known = set(map(str, cache.keys()))

    def part_of(*hooks: str, by_head: bool = True) -> Any:
        """The first of these hooks in the cache, ``sample a b c`` in float64, a head axis first."""
        name = next((prefix + hook for hook in hooks if prefix + hook in known), None)
        if name is None:
            return None
        part = cache[name].detach().to(torch.float64)
        part = part.unsqueeze(0) if part.ndim == 3 else part
        has_axes("from_transformer_lens", name, part.shape, "sample a b c")
        return part.transpose(1, 2) if by_head else part

    pattern, mixed = part_of(PATTERN, by_head=False), part_of("hook_z")
    query, key = part_of("hook_rot_q", "hook_q"), part_of("hook_rot_k", "hook_k")
    value, dtype = part_of("hook_v"), cache[prefix + PATTERN].dtype
    if query is None or key is None or value is None:
        raise NothingCapturedError(
            f"from_transformer_lens: {prefix}{PATTERN} is in the cache, but not all of "
            f"{prefix}hook_q, hook_k and hook_v. Keep these in the cache, too."
        )
    heads = query.shape[1]
    key, value = (part.repeat_interleave(heads // part.shape[1], 1) for part in (key, value))
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    seen, bias = pattern != 0, torch.zeros_like(pattern)
    if (scores := part_of("hook_attn_scores", by_head=False)) is not None:
        products = factor * query @ key.mT
        capped = products if softcap is None else softcap * torch.tanh(products / softcap)
        added = torch.where(seen, scores - capped, 0)
        rounding = 8 * torch.finfo(dtype).eps * torch.where(seen, scores, 0).abs().max()
        bias = torch.where(added.abs() <= rounding, 0, added)
    plain = attention(query, key, value, bias.masked_fill(~seen, -torch.inf), scale=factor)
    mixer = replace(plain, softcap=softcap)
    system = mixer.system()
    error = relative_error(attention_map(system), pattern)
    if mixed is not None:
        error = max(error, relative_error(respond(system, mixer.signal()).squeeze(-2), mixed))
    limit = TOLERANCE.get(dtype, 1e-5)
    if not error <= limit:
        raise ReconstructionError(
            f"{prefix}{PATTERN}: queries and keys give another pattern, or values another "
            f"hook_z; the relative difference is {error:.1e}, above the tolerance of {limit:.0e}. "
            "Pass scale= (one over cfg.attn_scale) and softcap= of the model, or keep "
            "hook_attn_scores in the cache if the model adds a bias to its scores. In training "
            "mode a pattern has dropout: call model.eval() first."
        )
    return InspectedLayer(
        name=prefix.rstrip("."),
        family="softmax",
        mixer=mixer,
        axes=("sample", "head"),
        error=error,
        tolerance=limit,
    )
