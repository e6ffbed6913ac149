"""What the recurrent state of every layer of an inspection holds, with one figure for each."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from scipy.stats import linregress
from torch import Tensor

from dsf import measures
from dsf.inspection.results.layers import InspectedLayer, Inspection
from dsf.report.plot.charts import style
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import at_least
from dsf.systems.algebra import select
from dsf.systems.coefficient import TokenSlots
from dsf.systems.composite import parts_of
from dsf.systems.system import System, time_reversed

POSITIONS = 8
"""After how many tokens the occupancy is computed."""
LITTLE = 0.25
"""The largest share of the tokens' signals whose loss counts as little."""
LARGEST = torch.finfo(torch.float16).max
"""The norm of a state that a half-precision number still holds."""
STEADY = 0.25
"""The largest exponent of growth, in absolute value, that counts as a plateau."""


@dataclass(frozen=True)
class LayerState:
    """What the state of one layer holds; numbers are means over its heads or channels.

    Attributes:
        name, family: of the layer.
        states: the states of one channel.
        maps: how many heads or channels were looked at, of how many.
        lags, left: after ``lags`` tokens the share ``left`` of a write remains: median over heads
            or channels, and the quartiles below and above.
        kept, decayed, overwritten, taken: for each age in tokens, from 0 for the last token, the
            share of a token's signal that can be read off the last state, that has decayed, that
            later tokens removed, and that cannot be separated from what others left. Their sum is
            one.
        erased_by_decay, erased_by_overwriting: for each token the energy that it erased of all
            before (``measures.erased_by``), as shares of all that is erased.
        positions, occupancy: after which tokens, and the share of the states in use there.
        norms: the norm of the state after each token, the geometric mean.
        growth: the exponent of the norm over the second half of the tokens: 0 for a plateau, 0.5
            for a sum of independent writes, 1 for a sum of equal ones.
        length: ``grows``, ``plateau``, ``fades``, or ``overflow`` where the state is not finite or
            its norm leaves the range of float16.
        loss: ``little`` where three quarters of all tokens' signals can still be read; else what
            takes most of them: ``decays``, ``overwrites``, or ``full`` for other tokens.
    """

    name: str
    family: str
    states: int
    maps: tuple[int, int]
    lags: tuple[int, ...]
    left: tuple[tuple[float, float, float], ...]
    kept: tuple[float, ...]
    decayed: tuple[float, ...]
    overwritten: tuple[float, ...]
    taken: tuple[float, ...]
    erased_by_decay: tuple[float, ...]
    erased_by_overwriting: tuple[float, ...]
    positions: tuple[int, ...]
    occupancy: tuple[float, ...]
    norms: tuple[float, ...]
    growth: float
    length: str
    loss: str

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Kept, decayed, overwritten and taken, the mean over all tokens."""
        parts = (self.kept, self.decayed, self.overwritten, self.taken)
        kept, decayed, overwritten, taken = (sum(part) / len(part) for part in parts)
        return kept, decayed, overwritten, taken

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists."""
        record = dict(vars(self))
        record["shares"] = dict(zip(COLOURS, self.shares, strict=True))
        return {name: _plain(value) for name, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _recurrent_parts(layer: InspectedLayer) -> Iterator[tuple[str, System]]:
    """The system of a layer, or those of its sum, as far as they carry a state of fixed size."""
    parts = parts_of(layer.system)
    for number, part in enumerate(parts, start=1):
        if isinstance(part, System) and not isinstance(part.B, TokenSlots) and part.steps > 2:
            yield layer.name if len(parts) == 1 else f"{layer.name} (scan {number})", part


def _state_of(name: str, layer: InspectedLayer, system: System, maps: int) -> LayerState:
    count = system.batch.numel()
    chosen = torch.tensor([k * count // min(maps, count) for k in range(min(maps, count))])
    index = torch.unravel_index(chosen, tuple(system.batch)) if system.batch else ()
    system, signal = select(system, index), layer.signal[index]
    if system.runs_backward:
        system, signal = time_reversed(system), signal.flip(-3)
    lags = [2**k for k in range((system.steps - 1).bit_length())]
    left = measures.forgetting(system, lags=lags).reshape(-1, len(lags))
    quarters = left.nanquantile(left.new_tensor([0.5, 0.25, 0.75]), dim=0).T
    kept = _by_age(measures.retained(system))
    taken = _by_age(measures.interference(system))
    removed = _by_age(measures.overwritten(system))
    erased = [
        measures.erased_by(system, signal, part=part).reshape(-1, system.steps)
        for part in ("decay", "overwriting")
    ]
    whole = sum(part.abs().sum(dim=-1, keepdim=True) for part in erased)
    by_decay, by_overwriting = ((part / whole).nanmean(dim=0).nan_to_num() for part in erased)
    positions = sorted({(k + 1) * (system.steps - 1) // (POSITIONS + 1) for k in range(POSITIONS)})
    used = measures.occupancy(system, positions=positions).reshape(-1, len(positions))
    norms = measures.state_norm(system, signal).reshape(-1, system.steps)
    mean = norms.log().mean(dim=0).exp()
    later = torch.arange(1, system.steps + 1)[system.steps // 2 :]
    growth = float(linregress(later.double().log(), mean[later - 1].log().cpu()).slope)
    return LayerState(
        name=name,
        family=layer.family,
        states=system.state_size,
        maps=(len(chosen), count),
        lags=tuple(lags),
        left=tuple((middle, low, high) for middle, low, high in quarters.tolist()),
        kept=tuple(kept.tolist()),
        decayed=tuple((1 - kept - taken - removed).tolist()),
        overwritten=tuple(removed.tolist()),
        taken=tuple(taken.tolist()),
        erased_by_decay=tuple(by_decay.tolist()),
        erased_by_overwriting=tuple(by_overwriting.tolist()),
        positions=tuple(positions),
        occupancy=tuple(used.nanmean(dim=0).tolist()),
        norms=tuple(mean.tolist()),
        growth=growth,
        length=_in_words(norms, growth),
        loss=_loss(kept, removed, taken),
    )


def _by_age(shares: Tensor) -> Tensor:
    return shares.reshape(-1, shares.shape[-1]).mean(dim=0).flip(0)


def _loss(kept: Tensor, overwritten: Tensor, taken: Tensor) -> str:
    if 1 - kept.mean() <= LITTLE:
        return "little"
    lost = {
        "full": taken.sum(),
        "overwrites": overwritten.sum(),
        "decays": (1 - kept - overwritten - taken).sum(),
    }
    return max(lost, key=lambda reason: float(lost[reason]))


def _in_words(norms: Tensor, growth: float) -> str:
    if not bool(norms.isfinite().all()) or norms.max() > LARGEST:
        return "overflow"
    if math.isnan(growth) or abs(growth) <= STEADY:  # a state of zeros has no exponent
        return "plateau"
    return "grows" if growth > 0 else "fades"


COLOURS = {
    "kept": "#3879b5",
    "decayed": "#d8d4c8",
    "overwritten": "#e0a030",
    "taken": "#d65430",
}
"""What becomes of a token, and its colour."""


@dataclass(frozen=True, repr=False)
class StateReport:
    """What the recurrent states of a model hold after one input.

    Attributes:
        model: what was inspected.
        layers: the layers with a state of fixed size, and what theirs holds.
        without: the other layers, each with the reason.
    """

    model: str
    layers: tuple[LayerState, ...]
    without: tuple[tuple[str, str], ...]

    @property
    def saturated(self) -> tuple[LayerState, ...]:
        """The layers whose state is full: most is lost to what other tokens left there."""
        return tuple(layer for layer in self.layers if layer.loss == "full")

    def figure(self, layer: str) -> Figure:
        """One figure: what is left of a write, what becomes of tokens, occupancy and norm.

        Raises:
            KeyError: if no layer with a state is called so.
        """
        for each in self.layers:
            if each.name == layer:
                return _drawn(each)
        raise KeyError(
            f"no layer with a state is called '{layer}'; there are "
            f"{', '.join(each.name for each in self.layers) or 'none'}"
        )

    def save(self, folder: str | Path) -> list[Path]:
        """Write the figures of all layers into a folder, as PNG files numbered in their order."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        written = []
        for number, each in enumerate(self.layers):
            path = place / f"state-{number:02}.png"
            replace_file(path, partial(_drawn(each).savefig, dpi=110))
            written.append(path)
        return written

    def to_json(self) -> dict[str, Any]:
        """Numbers, strings and lists."""
        return {
            "model": self.model,
            "layers": [each.to_json() for each in self.layers],
            "without": [{"name": name, "reason": reason} for name, reason in self.without],
        }

    def __repr__(self) -> str:
        return (
            f"StateReport({self.model}: {len(self.layers)} layers with a state, "
            f"{len(self.saturated)} of them full)"
        )


@checked
def report_state(inspection: Inspection, *, maps: int = 32) -> StateReport:
    """What the recurrent state of every layer holds: does it decay, is it overwritten, or full?

    For every layer: how much of a write is left after some tokens (``measures.forgetting``), what
    can be read of each token off the last state (``retained``) and why the rest cannot
    (``interference``, ``overwritten``, or decay), which tokens erased it (``erased_by``), how many
    of the states are in use (``occupancy``), and how the norm of the state grows with the length
    (``state_norm``). All is of this run: decays and write strengths keep their values.

    Args:
        inspection: of a model with recurrent layers.
        maps: how many heads or channels of a layer are looked at, spread evenly.

    Raises:
        ValueError: if ``maps`` is less than 1.
        TypeError: if it is not an inspection.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=1)
        >>> found = dsf.report.report_state(dsf.inspect(folder("mamba2"), input_ids=prompts.tokens))
        >>> found.layers[0].length
        'grows'
    """
    at_least(1, "report_state", "maps", maps)
    found, without = [], []
    for layer in inspection:
        parts = list(_recurrent_parts(layer))
        if not parts:
            why = "attention keeps every token: it has no state of fixed size"
            if layer.system.steps <= 2:
                why = "three tokens at least are needed"
            without.append((layer.name, why))
        for name, system in parts:
            found.append(_state_of(name, layer, system, maps))
    return StateReport(inspection.model, tuple(found), tuple(without))


def _drawn(layer: LayerState) -> Figure:
    with style():
        figure = Figure(figsize=(13.5, 2.9), layout="constrained")
        write, tokens, used, norm, eraser = figure.subplots(1, 5)
        middle, low, high = zip(*layer.left, strict=True)
        write.fill_between(layer.lags, low, high, alpha=0.25, linewidth=0)
        write.plot(layer.lags, middle, marker=".")
        write.set(xscale="log", ylim=(0, None))
        write.set(xlabel="tokens later", ylabel="share of a write left")
        ages = range(1, len(layer.kept) + 1)
        parts = {name: getattr(layer, name) for name in ("kept", "taken", "overwritten", "decayed")}
        shades = [COLOURS[name] for name in parts]
        tokens.stackplot(ages, *parts.values(), labels=list(parts), colors=shades)
        tokens.set(xscale="log", ylim=(0, 1), xlim=(1, len(ages)))
        tokens.set(xlabel="tokens ago, from 1", ylabel="share of a token")
        tokens.legend(loc="upper right", fontsize=7, frameon=True)
        used.plot([at + 1 for at in layer.positions], layer.occupancy, marker=".")
        used.set(ylim=(0, 1.05), xlabel="tokens", ylabel="share of the states in use")
        norm.loglog(range(1, len(layer.norms) + 1), layer.norms)
        norm.set(xlabel="tokens", ylabel="norm of the state")
        norm.set_title(f"{layer.length}, exponent {layer.growth:.2f}", fontsize=9)
        places = range(len(layer.erased_by_decay))
        eraser.bar(places, layer.erased_by_decay, width=1, color=COLOURS["decayed"], label="decay")
        eraser.bar(
            places,
            layer.erased_by_overwriting,
            width=1,
            bottom=layer.erased_by_decay,
            color=COLOURS["overwritten"],
            label="overwriting",
        )
        eraser.set(xlabel="token", ylabel="share of all that it erased")
        eraser.legend(loc="upper right", fontsize=7, frameon=True)
        figure.suptitle(
            f"{layer.name} ({layer.family}), {layer.states} states", fontsize=10, parse_math=False
        )
    return figure
