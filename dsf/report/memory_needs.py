"""Forecast the memory of a page or a picture before the first map is drawn."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

from dsf.evaluate.memory_plan import GB, MapTooLarge, free_memory, naming_out_of_memory
from dsf.inspection import Forecast, InspectedLayer, Inspection
from dsf.report.map_bytes import FULL_BYTES, LONGEST
from dsf.report.selection import CHANNELS, HEADS, LARGEST_VIEW, SAMPLES
from dsf.report.views import BLOCK_BYTES
from dsf.runtime.threads import MOST

DOUBLE = 8
# Copies: of a block of rows while it is pooled, of one map while it is kept without pooling, of the
# response by which heads are chosen, and of maps without pooling until they are text.
OF_BLOCK, OF_WHOLE, OF_RESPONSE, OF_TEXT = 6, 6, 4, 4
TOGETHER = 3 * 2**27  # the contributions of all channels, some channels at a time, and their copies
SPARE = 2**27
CURE = (
    "Show fewer layers or heads (layers=..., heads=..., on the command line --layers, --heads), "
    "keep no map without pooling (full_resolution=0), or give a shorter input; without a report "
    "(--no-report) every layer is still rebuilt and compared."
)


def report_bytes(*, steps: int, maps: int, samples: int, width: int, whole: bool = True) -> int:
    """Return about how many bytes writing a page takes at its peak, beyond the inspection."""
    drawn = min(maps, CHANNELS if maps > HEADS else HEADS) * min(samples, SAMPLES)
    row = drawn * steps * DOUBLE
    block = OF_BLOCK * max(min(BLOCK_BYTES, row * steps), row)
    kept = OF_WHOLE * DOUBLE * steps**2 if whole and steps <= LONGEST else 0
    text = OF_TEXT * FULL_BYTES if kept and steps > LARGEST_VIEW else 0
    response = OF_RESPONSE * DOUBLE * samples * steps * width
    together = TOGETHER if maps > HEADS else 0
    return max(block, kept, response) + text + together + SPARE


def check_report(expected: Forecast) -> int:
    """Return the bytes that a report is going to take, before its inspection runs."""
    steps = expected.tokens // expected.samples
    needed = report_bytes(
        steps=steps,
        maps=expected.largest_maps // max(DOUBLE * expected.samples * steps**2, 1),
        samples=expected.samples,
        width=expected.kept // max(DOUBLE * expected.tokens * expected.layers, 1),
    )
    kept = 0 if expected.uses_disk else expected.kept
    if expected.available is not None and needed + kept > expected.available:
        raise MapTooLarge(
            f"the report takes about {needed / GB:.1f} GB at its peak, plus {kept / GB:.1f} GB "
            f"that the layers keep, but {expected.available / GB:.1f} GB are available. {CURE}"
        )
    return needed


@contextmanager
def within_memory(
    owner: str, shown: Inspection | Sequence[Inspection], *, whole: bool = True
) -> Iterator[None]:
    """Before the ``with`` block, refuse what does not fit; inside, name memory that runs out."""
    inspections = [shown] if isinstance(shown, Inspection) else shown
    with naming_out_of_memory(owner, cure=CURE):
        for layer in (layer for each in inspections for layer in each):
            needed, free = _needed(layer, whole), free_memory(layer.system.device)
            if free is not None and needed > free:
                raise MapTooLarge(
                    f"{owner}: drawing {layer.name} takes about {needed / GB:.1f} GB at its peak, "
                    f"but {free / GB:.1f} GB are available. {CURE}"
                )
        yield


def at_a_time(layers: Sequence[InspectedLayer]) -> int:
    """How many layers may be drawn side by side, so that all fit in half of the free memory."""
    if any(layer.stored is not None for layer in layers):
        return 1  # on disk, for want of memory
    fits = MOST
    for layer in layers:
        free = free_memory(layer.system.device)
        if free is not None:
            fits = min(fits, int(free / 2 // _needed(layer, True)))
    return max(fits, 1)


def _needed(layer: InspectedLayer, whole: bool) -> int:
    system = layer.system
    samples = system.batch[0] if layer.axes[:1] == ("sample",) and system.batch else 1
    steps = max(system.steps, getattr(system, "read_steps", 1))
    return report_bytes(
        steps=steps,
        maps=prod(system.batch) // samples,
        samples=samples,
        width=layer.signal.numel() // (samples * steps),
        whole=whole,
    )
