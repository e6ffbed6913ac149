"""Many measures of one map in a single pass, exact or with a stated error."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

from dsf.evaluate import MapOrSystem
from dsf.measures.passes import one_pass
from dsf.measures.row_reductions import Progress, Requested

MOST = 0.1

Measure = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Streamed:
    """Measures of one map, and how they were found.

    Attributes:
        values: one for each measure, in order.
        error: the bound that was asked for; 0 for an exact pass.
        left_out: the largest share of its absolute weight that a row can have in the entries that
            were not looked at, for every map of the batch. Certified, not estimated; 0 where every
            entry that is not zero was looked at.
        visited: share of the entries in reach that were looked at, between 0 and 1.
    """

    values: tuple[Tensor, ...]
    error: float
    left_out: Shaped[Tensor, "*batch"] | float
    visited: float


def streamed(
    map_or_system: MapOrSystem,
    *measures: Measure,
    error: float = 0.0,
    progress: Progress | None = None,
    resume: str | Path | None = None,
) -> Streamed:
    """Several measures of one map in one pass over it, without the map.

    With an ``error`` above 0, tiles of the map are skipped where it is certain beforehand, from the
    sizes of reads and writes and the decays between, that all of them together change no number
    of any row by more: a share of the row's absolute weight by at most ``error``, a mean distance
    by ``error`` tokens, an entropy by ``error`` nats, a sum of absolute weights by ``error`` times
    the weight of its row; all beside the rounding of the number type. Systems whose states share
    one decay or have one each are skipped through; others are visited whole and are exact.

    Args:
        map_or_system: a map, a system or blocks of rows.
        measures: functions of ``dsf.measures`` that look at rows one by one, or anything that asks
            them: ``functools.partial(measures.window_mass, width=64)``.
        error: 0 for exact numbers.
        progress: told how many rows of how many are done.
        resume: a file for what has been found so far, written every minute. Where it exists the
            pass goes on from there, to the same numbers; at the end it holds all of them.

    Raises:
        ValueError: if ``error`` is not between 0 and 0.1, no measure is given, or ``resume`` is the
            file of another system, other measures or another ``error``.
        TypeError: if a measure needs the map itself.

    Example:
        >>> import dsf, torch
        >>> from dsf import measures
        >>> one = torch.ones(3, 1)
        >>> system = dsf.System.from_write_and_read(dsf.transition.Diagonal(one / 2), one, one)
        >>> seen = measures.streamed(system, measures.absolute_gain, measures.mean_distance)
        >>> seen.values
        (tensor(1.7500), tensor([0.0000, 0.3333, 0.5714]))
    """
    if not measures:
        raise ValueError("streamed: needs at least one measure, such as measures.row_entropy.")
    if not 0 <= error <= MOST:
        raise ValueError(f"streamed: 'error' must lie between 0 and {MOST}, but it is {error}.")
    asked = Requested()
    for measure in measures:
        try:
            measure(asked)
        except (TypeError, AttributeError) as reason:
            name = getattr(measure, "__name__", repr(measure))
            raise TypeError(
                f"streamed: {name} cannot be found row by row in one pass ({reason}). Call it by "
                f"itself, with the map or the system."
            ) from reason
    wanted = tuple(dict.fromkeys(asked.wanted))
    made = one_pass(map_or_system, wanted, error=error, progress=progress, resume=resume)
    values = tuple(measure(made) for measure in measures)
    return Streamed(values, made.error, made.left_out, made.visited)
