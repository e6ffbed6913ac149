"""The viewer's content for one layer: facts, maps, measures of the maps and of the state.

``measures_of`` measures every drawn map. ``states_of`` adds the Hankel spectrum, decay and memory
of its state. ``layer_picture`` and ``Explained`` have pictures other than maps: all channels
together, and the edges of an attribution, of tokens, or of groups of neighbours where the layer is
wide or the sequence long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from math import isfinite, nan, prod
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from dsf import measures
from dsf.attribution import Agreement, Attribution, Paths
from dsf.evaluate import Rows
from dsf.inspection import InspectedLayer, Inspection
from dsf.inspection.errors import InspectionError
from dsf.inspection.results.measurements import QUANTITIES, Quantity, values
from dsf.inspection.whole.stages import group_bounds
from dsf.measures.erasers import losses_by_map
from dsf.measures.fold import Collected, Reduced
from dsf.measures.passes import is_streamable, reductions_of
from dsf.report import selection
from dsf.report import views as pictures
from dsf.report.escaping import escaped
from dsf.runtime.threads import in_parallel
from dsf.systems.algebra import select
from dsf.systems.coefficient import dense_of
from dsf.systems.composite import ExplicitMap, Operator, kept_rows, parts_of
from dsf.systems.system import System
from dsf.systems.transition import DiagonalPlusLowRank

MAX_GROUP_WORK = 2**16
"""The largest number of groups times channels; the time grows with its square."""

FEWEST = 48
"""Groups that are formed even of very wide layers."""


@dataclass(frozen=True)
class LayerPicture:
    """The pictures of one layer, one for each sample."""

    views: list[pictures.MapView]
    channels: int
    total: int
    onto: str


def layer_picture(layer: InspectedLayer, *, side: int) -> LayerPicture | None:
    """How strongly tokens act on each other through all, or the chosen, channels; None of heads."""
    system = layer.system
    if not selection.has_channels(layer) or isinstance(system, ExplicitMap):
        return None
    has_samples = layer.axes[0] in ("sample", "window")
    channels = prod(system.batch[int(has_samples) :])
    groups = min(system.steps, side, max(MAX_GROUP_WORK // channels, FEWEST))
    norms = selection.remembered(layer, groups, lambda: layer.contribution_norms(groups=groups))
    samples = system.batch[0] if has_samples else 1
    bounds = group_bounds(system.steps, groups)
    ways = {getattr(part, "runs_backward", False) for part in parts_of(system)}
    hidden = np.zeros((groups, groups), dtype=bool)  # zero for all coefficients
    if len(ways) == 1:
        later = np.triu(np.ones((groups, groups), dtype=bool), 1)
        hidden = later.T if ways.pop() else later
    words = "channels" if layer.heads is None else "chosen channels"
    label = f"all {channels} {words}" if channels > 1 else "the only channel"
    views = [
        _view(label if samples == 1 else f"{layer.axes[0]} {k}, {label}", k, each, hidden, bounds)
        for k, each in enumerate(norms[: selection.SAMPLES].numpy(force=True))
    ]
    total = prod(layer.mixer.system().batch[int(has_samples) :])
    return LayerPicture(views, channels, total, layer.contributes_to)


def _view(
    label: str, sample: int, norms: np.ndarray, hidden: Bool[np.ndarray, "_ _"], bounds: list[int]
) -> pictures.MapView:
    starts, ends = np.array(bounds[:-1]), np.array(bounds[1:]) - 1
    columns = np.zeros(bounds[-1])
    columns[starts] = norms.sum(axis=0)
    return pictures.MapView(
        label=label,
        sample=sample,
        weights=norms,
        masked=hidden,
        strongest=pictures.strongest([], norms, ends, starts),
        column_sums=columns,
        row_sums=norms.sum(axis=1),
        empty_rows=[last for last, row in zip(ends.tolist(), norms, strict=True) if not row.any()],
        nans=int(np.isnan(norms).sum()),
        infinities=int(np.isinf(norms).sum()),
    )


EDGES = 12


@dataclass(frozen=True, eq=False)
class Explained:
    """An attribution that a page shows, with words for its number."""

    share: Attribution
    target: str
    paths: Paths | None
    agreement: Agreement | None
    cuts: Mapping[int, float] | None

    def edge_views(self, layer: InspectedLayer, *, side: int) -> list[pictures.MapView]:
        """What the edges of a layer contribute, over all heads or channels; none without edges."""
        if layer.name not in self.share.total:
            return []
        try:
            sums = self.share.edge_sums(layer.name)
        except (InspectionError, KeyError):
            return []
        found = sums[: selection.SAMPLES].double().numpy(force=True)
        count, written, read = found.shape
        pooled = pictures.View(count, written, read, side)
        later = np.triu(np.ones(found.shape, dtype=bool), 1) & (found == 0)
        pooled.add(found, later, np.arange(written), np.arange(read))
        labels = ["edges"] if count == 1 else [f"sample {k}, edges" for k in range(count)]
        return [replace(view, empty_rows=[]) for view in pooled.maps(labels, range(count))]

    def content(self) -> dict[str, Any]:
        """Everything but the pictures of edges; the lists of one sample each, of the first four."""
        share = self.share
        samples = range(min(len(share.value), selection.SAMPLES))
        paths = None if self.paths is None else self.paths.to_json()
        for path in paths["paths"] if paths else ():
            for edge in path["edges"]:
                edge["layer"] = escaped(edge["layer"])
        return {
            "target": escaped(self.target),
            "value": share.value[: selection.SAMPLES].tolist(),
            "remainder": share.remainder[: selection.SAMPLES].tolist(),
            "tokens": share.tokens[: selection.SAMPLES].tolist(),
            "layers": [
                [
                    escaped(name),
                    share.layers[name][: selection.SAMPLES].tolist(),
                    total[: selection.SAMPLES].tolist(),
                ]
                for name, total in share.total.items()
                if name in share.layers
            ],
            "edges": [
                [
                    [escaped(edge["layer"]), edge["query"], edge["key"], edge["share"]]
                    for edge in share.strongest_edges(EDGES, sample=sample).to_json()
                    if edge.get("share") is not None
                ]
                for sample in samples
            ],
            "paths": paths,
            "agreement": None if self.agreement is None else self.agreement.to_json(),
            "cuts": self.cuts or None,
        }


def check_tokens(name: str, tokens: int, inspections: Sequence[Inspection]) -> None:
    counts = {layer.system.steps for inspection in inspections for layer in inspection}
    if tokens not in counts:
        raise ValueError(
            f"{name!r} is of {tokens} tokens, but the layers of 'result' have {sorted(counts)}. "
            "Use the same input for both."
        )


MOST_CELLS = 2**25
OF_ORDER = ("mean_distance", "half_life")
"""What has a meaning only where row k and column k are token k."""

WORDS = {
    "negative_share": "negative share of the weight",
    "sink_mass": "share of later queries' weight on the first key",
    "mean_distance": "mean distance from query to key, tokens",
    "half_life": "half of the weight is within this lag, tokens",
    "mean_effective_tokens": "effective number of keys per query",
    "absolute_gain": "largest row sum of absolute weights",
}


class Walk:
    """What is kept of the rows of the drawn maps, while these are formed once."""

    def __init__(self, system: Operator, quantities: Mapping[str, Quantity]) -> None:
        self.quantities = quantities
        cells = system.batch.numel() * system.steps**2
        self.are_few = cells <= MOST_STATE_CELLS
        by_row = [each for each in quantities.values() if is_streamable(each)]
        by_row += [measures.mass_by_lag] if self.are_few else []
        self._collected: Collected | None = Collected(reductions_of(by_row), cells)
        self._kept: list[Tensor] = []
        self._keeps = _states(system) is None and self.are_few and _work(system) <= MOST_WORK
        self._square = getattr(system, "read_steps", system.steps) == system.steps

    def add(self, rows: Rows) -> None:
        if self._collected is not None:
            try:
                self._collected.add(rows)
            except ValueError:  # signs of a complex map
                self._collected = None
        if self._keeps:
            self._kept.append(rows.weights.clone())

    @property
    def passed(self) -> Reduced | None:
        return None if self._collected is None else Reduced(self._collected.joined(), 0.0)

    @property
    def weights(self) -> Tensor | None:
        return torch.cat(self._kept, dim=-2) if self._keeps and self._square else None


def quantities_of(drawn: selection.Selection, *, ordered: bool) -> dict[str, Quantity]:
    """What is measured of every drawn map: nothing of too many."""
    if unmeasured(drawn):
        return {}
    return {name: QUANTITIES[name] for name in WORDS if ordered or name not in OF_ORDER}


def unmeasured(drawn: selection.Selection) -> str:
    """What is not measured of the drawn maps, why, and what measures it; empty if all is."""
    steps, maps = drawn.system.steps, len(drawn.labels)
    if maps * steps**2 <= MOST_CELLS:
        return ""
    return (
        f"Not measured in this page: {maps} maps of {steps:,} tokens have {maps * steps**2:,} "
        f"weights, and the page measures up to {MOST_CELLS:,} of a layer. inspection.measure() and "
        "'dsf measure' have no such limit."
    )


def measures_of(drawn: selection.Selection, walk: Walk) -> list[list[tuple[str, float | None]]]:
    """For every drawn map its measures, as (label, value); None for values that are not finite."""
    found, _ = values(drawn.system, walk.quantities, passed=walk.passed)
    listed: list[list[tuple[str, float | None]]] = [[] for _ in drawn.labels]
    for name in walk.quantities:
        numbers = found[name].flatten().tolist() if name in found else [nan]
        for of_map, number in zip(listed, numbers, strict=False):
            is_lost = not isfinite(number) or (name == "half_life" and number == NO_LAG)
            of_map.append((WORDS[name], None if is_lost else float(number)))
    return listed


NO_LAG = -1
"""What ``half_life`` returns where a weight is not finite: whole numbers have no ``nan``."""

MOST_WORK = 2**28
"""The largest number of multiplications, about: maps times tokens times the cube of the states."""

MOST_STATE_CELLS = 2**23
"""The largest number of weights of all drawn maps of a layer, for the mean weight by lag."""

LONGEST = 512
POINTS = 64
QUARTERS = (1 / 4, 1 / 2, 3 / 4)


def states_of(
    drawn: selection.Selection, walk: Walk, *, finite: bool, disorder: str = ""
) -> list[dict[str, Any]]:
    """For every drawn map its Hankel spectrum, decay and memory, as far as they are defined.

    ``hankel`` holds ``[token, singular values]`` after a quarter, a half and three quarters of the
    tokens, or ``unmeasured`` the one reason for which there are none; ``exponents`` the growth of
    each direction in nats per token; ``left`` the norm that remains of the largest unit state, and
    ``horizon`` the tokens until that is one half; ``erased`` what the last token no longer reads,
    as ``[key, eraser, decay, overwriting]``; ``traces`` the coefficients of short systems, by which
    the page computes the erasers of any cell; ``lags`` the mean absolute weight by lag.
    ``states`` is the number of states, None where every token is kept.
    """
    system, states = drawn.system, _states(drawn.system)
    found: list[dict[str, Any]] = [{"states": states} for _ in drawn.labels]
    reason = _unmeasured_state(system, finite=finite, disorder=disorder)
    if finite and system.steps > 1 and not disorder and walk.are_few:
        at = _points(system.steps)
        mass = _by_map(measures.mass_by_lag(walk.passed or system), system)
        for facts, curve in zip(found, mass, strict=True):
            facts["lags"] = [at.tolist(), _short(curve[at])]
    if reason:
        for facts in found:
            facts["unmeasured"] = reason
        return found
    positions = sorted({int(share * (system.steps - 1)) for share in QUARTERS})
    source = system if walk.weights is None else walk.weights
    spectra = _by_map(measures.hankel_singular_values(source, positions=positions), system)
    for facts, blocks in zip(found, spectra, strict=True):
        facts["hankel"] = [
            [token, _short(block[:POINTS])] for token, block in zip(positions, blocks, strict=True)
        ]
    if isinstance(system, System) and states:
        _add_decay(found, system)
    return found


def _unmeasured_state(system: Operator, *, finite: bool, disorder: str) -> str:
    """The first reason that applies; empty if the state can be measured."""
    maps, states = system.batch.numel(), _states(system)
    what = "maps" if states is None else f"maps of {states} states each"
    reasons = {
        "since a weight is not finite": not finite,
        "since there is a single token": system.steps < 2,
        f"since {disorder}": bool(disorder),
        "since the layer also reads later tokens": any(
            getattr(part, "runs_backward", False) for part in parts_of(system)
        ),
        f"since {system.steps:,} tokens are more than the {LONGEST} up to which a page does so": (
            system.steps > LONGEST
        ),
        f"since {maps} {what} over {system.steps} tokens are too much work for a page": (
            _work(system) > MOST_WORK
        ),
    }
    return next((reason for reason, applies in reasons.items() if applies), "")


def _states(system: Operator) -> int | None:
    """The number of states of each map; None where every token is kept."""
    if isinstance(system, System) and kept_rows(system) is None:
        return system.state_size
    return None


def _work(system: Operator) -> int:
    """The number of multiplications, about, for the measures of the state."""
    maps, states = system.batch.numel(), _states(system)
    if states is None:
        return 4 * maps * system.steps**3  # a decomposition takes several products
    return maps * system.steps * states**3


def _add_decay(found: list[dict[str, Any]], system: System) -> None:
    at = _points(system.steps)
    exponents = _by_map(measures.lyapunov_exponents(system), system)
    norms = _by_map(measures.product_norms(system), system)
    horizon = _by_map(measures.memory_horizon(system), system)
    has_one_port = system.input_size == system.output_size == 1
    erased, traces = (_erased(system), _traces(system)) if has_one_port else ([], [])
    for k, facts in enumerate(found):
        facts["exponents"] = _short(exponents[k][:POINTS])
        facts["left"] = [(at + 1).tolist(), _short(norms[k][at])]
        facts["horizon"] = int(horizon[k])
        if erased:
            facts["erased"] = erased[k]
        if traces:
            facts["traces"] = traces[k]


def _erased(system: System) -> list[list[list[int | float | None]]]:
    """For every map what the last token reads least of: key, eraser, decay and overwriting."""
    return [
        [
            [
                one.key,
                one.token,
                *_short(torch.cat([one.decay, one.overwriting])[:, 0].numpy(force=True)),
            ]
            for one in losses
        ]
        for losses in losses_by_map(system, query=system.steps - 1, count=ERASERS_LISTED)
    ]


def _traces(system: System) -> list[dict[str, Any]]:
    """The coefficients of every map, token by token; none of long or dense or complex systems."""
    is_split = system.A.cut(0, 1).window(0, 1).diagonal() is not None
    found: list[dict[str, Any]] = []
    for index in product(*map(range, system.batch)):
        one = select(system, index)
        whole = one.window(0, one.steps, dtype=torch.float64)
        if whole.A.dtype.is_complex or not (is_split or isinstance(whole.A, DiagonalPlusLowRank)):
            return []
        parts = {
            "decay": whole.A.decays(),
            "write": dense_of(whole.B).squeeze(-1),
            "read": dense_of(whole.C).squeeze(-2),
        }
        if isinstance(whole.A, DiagonalPlusLowRank):
            parts |= {"left": whole.A.left.mT, "right": whole.A.right.mT}
        parts = {name: part.expand(one.steps, *part.shape[1:]) for name, part in parts.items()}
        if sum(part.numel() for part in parts.values()) * system.batch.numel() > MAX_TRACES:
            return []
        found.append({name: _nested(part.tolist()) for name, part in parts.items()})
        found[-1]["before"] = one.reads_before_update
    return found


def _nested(numbers: Any) -> Any:
    return [_nested(each) if isinstance(each, list) else float(f"{each:.5g}") for each in numbers]


def _points(count: int) -> Int[np.ndarray, " points"]:
    """At most ``POINTS`` of the indices 0 ... count - 1, with the first and the last."""
    return np.unique(np.linspace(0, count - 1, min(count, POINTS)).round().astype(int))


def _by_map(values: Tensor, system: Operator) -> np.ndarray:
    return (values if system.batch else values[None]).numpy(force=True)


def _short(numbers: np.ndarray) -> list[float | None]:
    return [float(f"{each:.4g}") if isfinite(each) else None for each in numbers.tolist()]


THUMBNAIL = 48
COLUMNS_LISTED = 8
ERASERS_LISTED = 10
MAX_TRACES = 2**15
"""Maximum number of coefficients of a layer's maps that a page holds for the erasers of a cell."""
EMPTY_ROWS_LISTED = 64


def layer_content(  # each is a part of what is drawn
    subject: selection.Subject,
    layer: InspectedLayer,
    drawn: selection.Selection,
    planned: selection.Plan,
    *,
    model: int,
    explained: Explained | None = None,
    progress: pictures.Progress,
) -> dict[str, Any]:
    """Everything about one layer: edges of an attribution, all channels together, pooled maps."""
    disorder = selection.why_not_in_order(layer)
    walk = Walk(drawn.system, quantities_of(drawn, ordered=not disorder))
    side = pictures.first_side(drawn, planned.side) if planned.whole else planned.side
    formed = pictures.views(drawn, side=side, progress=progress, also=walk.add)
    seen = [pictures.smaller(view, planned.side) for view in formed]
    maps: list[dict[str, Any]] = [{} for _ in seen]

    def encode(k: int) -> None:
        maps[k].update(_map(seen[k], exact=planned.exact))
        if seen[k] is not formed[k]:
            maps[k][pictures.WHOLE] = pictures.whole_picture(formed[k])

    in_parallel(encode, range(len(seen)))
    finite = not any(view.nans + view.infinities for view in seen)
    known = (
        measures_of(drawn, walk),
        states_of(drawn, walk, finite=finite, disorder=disorder),
        drawn.places,
    )
    orders, order_facts = selection.orders_of(layer, drawn.places, subject.inspection)
    for map, numbers, state, place, order in zip(maps, *known, orders, strict=True):
        map.update(measures=numbers, state=state, verdicts=subject.decided(layer, place))
        map.update(order, unmeasured=unmeasured(drawn))
    picture = layer_picture(layer, side=planned.side)
    if picture is not None:
        facts = {"channels": picture.channels, "total": picture.total, "onto": picture.onto}
        seen = picture.views + seen
        maps = bare_maps(picture.views, exact=planned.exact, together=facts) + maps
    if explained is not None:
        edges = explained.edge_views(layer, side=planned.side)
        seen = edges + seen
        share = {"target": escaped(explained.target)}
        maps = bare_maps(edges, exact=planned.exact, share=share) + maps
    return {
        "name": escaped(layer.name),
        "family": escaped(layer.family),
        "mixer": type(layer.mixer).__name__,
        "columns": layer.columns,
        "written": drawn.system.steps,
        "read": getattr(drawn.system, "read_steps", drawn.system.steps),
        "ports": drawn.system.input_size * drawn.system.output_size,
        "total": drawn.total,
        "chosen": drawn.chosen,
        **order_facts,
        "model": model,
        "thumbnails": thumbnails(seen),
        "maps": maps,
    }


def bare_maps(seen: list[pictures.MapView], *, exact: bool, **kind: Any) -> list[dict[str, Any]]:
    """Return pictures other than a layer's maps in the same form; ``kind`` says what they are."""
    bare = {"measures": [], "state": {}, "verdicts": [], "unmeasured": "", **kind}
    return [{**_map(view, exact=exact), **bare} for view in seen]


def thumbnails(seen: list[pictures.MapView]) -> dict[str, Any]:
    codes: list[np.ndarray] = []
    for _, of_one_size in groupby(seen, key=lambda view: view.weights.shape):
        alike = list(of_one_size)
        weights, masked = ([view.weights for view in alike], [view.masked for view in alike])
        small = zip(*pictures.shrunk(np.stack(weights), np.stack(masked), THUMBNAIL), strict=True)
        codes += [
            pictures.coded(*each, view.scale) for each, view in zip(small, alike, strict=True)
        ]
    rows, columns = codes[0].shape
    return {"rows": rows, "columns": columns, "codes": pictures.packed(np.stack(codes))}


def _map(view: pictures.MapView, *, exact: bool) -> dict[str, Any]:
    order = np.argsort(-np.abs(np.nan_to_num(view.column_sums)), kind="stable")
    return {
        "label": view.label,
        "sample": view.sample,
        "scale": view.scale,
        "bright": view.bright,
        "signed": view.signed,
        "nans": view.nans,
        "infinities": view.infinities,
        "magnitudes": view.complex_,
        "empty": view.empty_rows[:EMPTY_ROWS_LISTED],
        "empty_total": len(view.empty_rows),
        "links": [[link.written, link.read, link.weight] for link in view.strongest],
        "columns": [[int(k), _finite(view.column_sums[k])] for k in order[:COLUMNS_LISTED]],
        "row_sums": [_finite(view.row_sums.min()), _finite(view.row_sums.max())],
        "view": pictures.picture_of(view, exact=exact),
    }


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None
