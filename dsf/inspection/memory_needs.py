"""How much memory an inspection will take, told before the model runs.

It counts the model's own forward pass, as far as the sizes of its modules and what is known of
their code tell it; what is recorded of every token mixer; the run of one layer at a time in
float64; and what the rebuilt layers keep. Where these do not fit together, what is recorded and
kept goes to disk. Where one part alone does not fit, the inspection is refused before it starts.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dsf.evaluate.memory_plan import GB, free_memory
from dsf.inspection.capture.precision import dtype_of
from dsf.inspection.errors import InspectionMemoryError
from dsf.inspection.families.registry import Known
from dsf.inspection.support_table import LOOKS_LIKE_A_MIXER

DOUBLE = 8
RUN = 3  # times the outputs of a module's projections: they, their activation, and a product
REBUILT = 6  # the same for a layer that is rebuilt: stages, values, response and comparison
SPARE = 2**28  # for the allocator and for what is not counted
FRACTION = 0.95


@dataclass(frozen=True)
class Forecast:
    """Bytes that an inspection takes at its peaks, beyond the model itself.

    Attributes:
        tokens: of all samples together.
        layers: how many token mixers are looked at.
        run: the model's forward pass.
        recorded: what all mixers were given and put out.
        in_float64: the run of the largest mixer in float64, one at a time.
        rebuilt: the largest layer while it is rebuilt and compared.
        kept: what all rebuilt layers keep.
        available: what this process may still take; None where that is not known.
    """

    tokens: int
    layers: int
    run: int
    recorded: int
    in_float64: int
    rebuilt: int
    kept: int
    available: int | None

    @property
    def peak(self) -> int:
        """The peak with everything in memory."""
        one = max(self.in_float64, self.rebuilt)
        return max(self.run + self.recorded, self.recorded + self.kept + one) + SPARE

    @property
    def peak_on_disk(self) -> int:
        """The peak where recorded calls and rebuilt layers lie on disk, but for one at a time."""
        layers = max(self.layers, 1)
        recorded, kept = 2 * self.recorded // layers, 2 * self.kept // layers
        one = max(self.in_float64, self.rebuilt) + recorded + kept
        return max(self.run + recorded, one) + SPARE

    @property
    def uses_disk(self) -> bool:
        """Whether recorded calls and layers are put on disk."""
        return self.available is not None and self.peak > FRACTION * self.available

    @property
    def fits(self) -> bool:
        """Whether the inspection can be done, be it with the help of the disk."""
        return self.available is None or self.peak_on_disk <= self.available

    @property
    def longest(self) -> int:
        """How many tokens would fit, about: all parts grow in proportion to them."""
        if self.available is None:
            return self.tokens
        room = max(self.available - SPARE, 0)
        return int(self.tokens * room / max(self.peak_on_disk - SPARE, 1))

    def check(self, owner: str) -> None:
        """Raise where it does not fit.

        Raises:
            InspectionMemoryError: with the parts, what there is, and how many tokens would fit.
        """
        if self.fits:
            return
        raise InspectionMemoryError(
            f"{owner}: inspecting {self.layers} layers on {self.tokens} tokens takes "
            f"{_gb(self.peak_on_disk)} at its peak, also where what is kept goes to disk, but "
            f"{_gb(self.available or 0)} are available. The model's own run takes "
            f"{_gb(self.run)}, one layer in float64 {_gb(self.in_float64)}, rebuilding it "
            f"{_gb(self.rebuilt)}. Give at most about {self.longest} tokens, or more memory "
            "(memory=..., on the command line --memory, is the limit that is assumed); fewer "
            "layers or heads take as much, since they are worked on one at a time."
        )

    def worded(self) -> str:
        """One line for a person."""
        there = "" if self.available is None else f" of {_gb(self.available)}"
        peak = self.peak_on_disk if self.uses_disk else self.peak
        where = "on disk" if self.uses_disk else "in memory"
        return (
            f"memory: about {_gb(peak)}{there} at the peak (the model's run {_gb(self.run)}, one "
            f"layer in float64 {_gb(self.in_float64)}; {_gb(self.recorded)} recorded and "
            f"{_gb(self.kept)} kept, {where})"
        )

    def facts(self) -> dict[str, Any]:
        """The same as JSON, in bytes."""
        return {
            **asdict(self),
            "peak": self.peak,
            "peak_on_disk": self.peak_on_disk,
            "uses_disk": self.uses_disk,
        }


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
    )


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


def _gb(numbers: int) -> str:
    return f"{numbers / GB:.1f} GB"
