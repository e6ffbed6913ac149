"""How much memory an inspection will take, told before the model runs.

It counts the model's own forward pass, as far as the sizes of its modules and what is known of
their code tell it; what is recorded of every token mixer; the run of one layer at a time in
float64; and what the rebuilt layers keep. Where these do not fit together, what is recorded and
kept goes to disk. Where one part alone does not fit, the inspection is refused before it starts.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import free_memory
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.families.registry import Known
from dsf.inspection.results.memory_forecast import Forecast
from dsf.inspection.support_table import LOOKS_LIKE_A_MIXER

DOUBLE = 8
RUN = 3  # times the outputs of a module's projections: they, their activation, and a product
REBUILT = 6  # the same for a layer that is rebuilt: stages, values, response and comparison


def forecast(
    model: nn.Module,
    known: Known,
    inputs: tuple[Any, ...],
    named: Mapping[str, Any],
    *,
    wide: bool,
    layers: int | None = None,
    memory: float | None = None,
) -> Forecast | None:
    """What an inspection of ``model`` on these inputs takes; None where its inputs have no tokens.

    Args:
        known: the modules that adapters read.
        wide: whether the model runs in float64 throughout.
        layers: how many layers are looked at; all by default.
        memory: the bytes to assume as available; by default what the process may still take.
    """
    tokens = _tokens((*inputs, *named.values()))
    mixers = [model.get_submodule(path) for path in known] or list(_attentions(model))
    if tokens is None or not mixers:
        return None
    size = dtype_of(model).itemsize
    samples = _samples(model, (*inputs, *named.values()))
    square = samples * (tokens // samples) ** 2 * DOUBLE
    maps = [square * _maps(known, model, each) for each in _all_mixers(model, known)]
    running = max((_run(model, known, each, tokens, size) for each in mixers), default=0)
    double = max((_run(model, known, each, tokens, DOUBLE) for each in mixers), default=0)
    ends = [sum(_ends(each)) * tokens for each in mixers]
    widths = [_width(each) * tokens for each in mixers]
    share = 1.0 if layers is None else min(1.0, layers / len(mixers))
    stream = _width_of_stream(model) * tokens * size
    device = next(iter(model.parameters()), torch.empty(0)).device
    return Forecast(
        tokens=tokens,
        layers=len(mixers) if layers is None else layers,
        run=running + 4 * stream,
        recorded=sum(ends) * size,
        in_float64=0 if wide else double,
        rebuilt=REBUILT * max(widths) * DOUBLE // 2,
        kept=int(share * (sum(ends) + sum(widths) // 2) * DOUBLE),
        available=free_memory(device) if memory is None else int(memory),
        samples=samples,
        largest_maps=max(maps),
        all_maps=int(share * sum(maps)),
    )


# What modules call the number of their heads, and the width where every channel has a map.
HEADS = ("num_v_heads", "num_heads", "num_attention_heads", "n_heads", "n_head", "heads")
CHANNELS = ("intermediate_size", "lru_width", "attention_hidden_size", "hidden_size")


def _maps(known: Known, model: nn.Module, module: nn.Module) -> int:
    """How many maps a module has for every sample, as far as its sizes tell it; 1 if they do not.

    A module that is found to keep another number is still inspected: maps are refused by their true
    size when they are asked for.
    """
    axes = next((known[path][0].axes for path in known if model.get_submodule(path) is module), ())
    if "channel" in axes:  # of all heads together
        return _first(module, CHANNELS, CHANNELS[-1:])
    return _first(module, HEADS, HEADS)


def _first(module: nn.Module, own: tuple[str, ...], of_config: tuple[str, ...]) -> int:
    """The first positive number that a module, or its configuration, has under these names."""
    config = getattr(module, "config", None)
    found = [getattr(module, name, None) for name in own]
    found += [getattr(config, name, None) for name in of_config]
    return next((each for each in found if type(each) is int and each > 0), 1)


def _samples(model: nn.Module, given: tuple[Any, ...]) -> int:
    for part in given:
        if isinstance(part, Tensor) and part.ndim >= 2:
            first = part.is_floating_point() and getattr(model, "batch_first", None) is False
            return max(1, part.shape[1 if first else 0])
    return 1


def _run(model: nn.Module, known: Known, module: nn.Module, tokens: int, size: int) -> int:
    """The peak of a module's own forward pass, in bytes."""
    more = sum(
        known[path][0].run_numbers(module, tokens)
        for path in known
        if model.get_submodule(path) is module
    )
    return RUN * _width(module) * tokens * size + more * max(size, 4)


def _tokens(given: tuple[Any, ...]) -> int | None:
    """The tokens of all samples: of token numbers, or of vectors ``sample time width``."""
    for part in given:
        if isinstance(part, Tensor) and part.ndim >= 2:
            return part.numel() if not part.is_floating_point() else part.shape[:2].numel()
    return None


def _attentions(model: nn.Module) -> Iterator[nn.Module]:
    for module in model.modules():
        if LOOKS_LIKE_A_MIXER.search(type(module).__name__):
            yield module


def _all_mixers(model: nn.Module, known: Known) -> list[nn.Module]:
    """The modules that adapters read, and attentions beside them: the softmax layers of hybrids."""
    inside = {part for path in known for part in model.get_submodule(path).modules()}
    found = [model.get_submodule(path) for path in known]
    return [*found, *(each for each in _attentions(model) if each not in inside)]


def _matrices(module: nn.Module) -> list[tuple[int, int]]:
    """Inputs and outputs of every projection in a module."""
    return [
        (part.in_features, part.out_features)
        for part in module.modules()
        if isinstance(part, nn.Linear)
    ] or [(part.shape[1], part.shape[0]) for part in module.parameters() if part.ndim == 2]


def _ends(module: nn.Module) -> tuple[int, int]:
    """The widths of what a module takes and gives."""
    matrices = _matrices(module)
    return (matrices[0][0], matrices[-1][1]) if matrices else (0, 0)


def _width(module: nn.Module) -> int:
    """The outputs of all projections of a module together."""
    return sum(outputs for _, outputs in _matrices(module))


def _width_of_stream(model: nn.Module) -> int:
    config = getattr(model, "config", None)
    return int(getattr(config, "hidden_size", 0) or 0)
