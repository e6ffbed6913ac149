"""``report_state``: what the recurrent state of every layer holds, with one figure for each."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dsf.inspection import Inspection
from dsf.measures.state_use import NOISE
from dsf.properties.recurrent_state import LayerState, states_of
from dsf.report.plot.drawing_style import style
from dsf.runtime.argument_checks import checked
from dsf.runtime.files import replace_file
from dsf.runtime.shapes import at_least

COLOURS = {"kept": "#3879b5", "taken": "#d65430", "decayed": "#d8d4c8"}


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
        """The layers whose state is full: more is lost to other tokens than to decay."""
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
def report_state(
    inspection: Inspection,
    *,
    maps: int = 32,
    noise: float = NOISE,
    dtype: torch.dtype = torch.float16,
) -> StateReport:
    """What the recurrent state of every layer holds: does it forget by decay, or is it full?

    For every layer: how much of a write is left after some tokens (``measures.forgetting``), what
    can be read of each token off the last state (``retained``) and why the rest cannot
    (``interference``, or decay), how many of the states are in use (``occupancy``), and how the
    norm of the state goes on with the length (``state_norm``). All is of this run: decays and write
    strengths keep their values.

    Args:
        inspection: of a model with recurrent layers.
        maps: how many heads or channels of a layer are looked at, spread evenly.
        noise: up to which relative rounding the state is known; that of bfloat16 by default.
        dtype: the number type whose range the state must not leave.

    Raises:
        ValueError: if ``maps`` is less than 1 or ``noise`` is not above 0.
        TypeError: if it is no inspection.

    Example:
        >>> import dsf, torch
        >>> from dsf.models import folder, recall
        >>> prompts = recall.draw(torch.Generator().manual_seed(0), samples=1)
        >>> found = dsf.report_state(dsf.inspect(folder("mamba2"), input_ids=prompts.tokens))
        >>> found.layers[0].length
        'grows'
    """
    if not isinstance(inspection, Inspection):
        raise TypeError(
            "report_state: 'inspection' must be what dsf.inspect returns, but it is "
            f"{type(inspection).__name__}."
        )
    at_least(1, "report_state", "maps", maps)
    if not noise > 0:
        raise ValueError(f"report_state: 'noise' must be above 0, but it is {noise}.")
    found, without = states_of(inspection, maps=maps, noise=noise, dtype=dtype)
    return StateReport(inspection.model, tuple(found), tuple(without))


def _drawn(layer: LayerState) -> Figure:
    with style():
        figure = Figure(figsize=(11, 2.9), layout="constrained")
        write, tokens, used, norm = figure.subplots(1, 4)
        _draw_write(write, layer)
        _draw_tokens(tokens, layer)
        used.plot([at + 1 for at in layer.positions], layer.occupancy, marker=".")
        used.set(ylim=(0, 1.05), xlabel="tokens", ylabel="share of the states in use")
        norm.loglog(range(1, len(layer.norms) + 1), layer.norms)
        norm.set(xlabel="tokens", ylabel="norm of the state")
        norm.set_title(f"{layer.length}, exponent {layer.growth:.2f}", fontsize=9)
        figure.suptitle(
            f"{layer.name} ({layer.family}), {layer.states} states", fontsize=10, parse_math=False
        )
    return figure


def _draw_write(axes: Axes, layer: LayerState) -> None:
    middle, low, high = zip(*layer.left, strict=True)
    axes.fill_between(layer.lags, low, high, alpha=0.25, linewidth=0)
    axes.plot(layer.lags, middle, marker=".")
    axes.set(xscale="log", ylim=(0, None), xlabel="tokens later", ylabel="share of a write left")


def _draw_tokens(axes: Axes, layer: LayerState) -> None:
    ages = range(1, len(layer.kept) + 1)
    parts = {"kept": layer.kept, "taken": layer.taken, "decayed": layer.decayed}
    axes.stackplot(ages, *parts.values(), labels=list(parts), colors=COLOURS.values())
    axes.set(xscale="log", ylim=(0, 1), xlim=(1, len(ages)))
    axes.set(xlabel="tokens ago, from 1", ylabel="share of a token")
    axes.legend(loc="upper right", fontsize=7, frameon=True)
