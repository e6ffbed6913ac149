"""The memory of an inspection and of the maps of its layers, before they are computed."""

from dataclasses import asdict, dataclass
from typing import Any

from dsf.evaluate.memory_plan import GB
from dsf.inspection.errors import InspectionMemoryError
from dsf.runtime.threads import MOST

SPARE = 2**28  # for the allocator and for what is not counted
FRACTION = 0.95


@dataclass(frozen=True)
class Forecast:
    """Bytes that an inspection takes at its peaks, beyond the model itself.

    Attributes:
        tokens: of all samples together.
        layers: how many token mixers are looked at.
        run: the model's forward pass.
        recorded: what all mixers received and returned.
        in_float64: the run of the largest mixer in float64, one at a time.
        rebuilt: the largest layer while it is rebuilt and compared.
        kept: what all rebuilt layers keep.
        available: what this process may still take; None where that is not known.
        has_disk: whether a file that is mapped into memory takes none of it.
        samples: how many the tokens belong to.
        largest_maps, all_maps: all maps of the layer with the most, and of all layers, where they
            are asked for; no part of the peak. Counted from the heads or channels that modules
            name, so an estimate as well.
    """

    tokens: int
    layers: int
    run: int
    recorded: int
    in_float64: int
    rebuilt: int
    kept: int
    available: int | None
    samples: int = 1
    largest_maps: int = 0
    all_maps: int = 0
    has_disk: bool = True

    @property
    def peak(self) -> int:
        """The peak with everything in memory."""
        one = max(self.in_float64, self.rebuilt)
        return max(self.run + self.recorded, self.recorded + self.kept + one) + SPARE

    @property
    def peak_on_disk(self) -> int:
        """The peak where recorded calls and rebuilt layers lie on disk, but for one at a time."""
        if not self.has_disk:
            return self.peak
        layers = max(self.layers, 1)
        recorded, kept = 2 * self.recorded // layers, 2 * self.kept // layers
        one = max(self.in_float64, self.rebuilt) + recorded + kept
        return max(self.run + recorded, one) + SPARE

    @property
    def at_a_time(self) -> int:
        """How many layers are rebuilt side by side, on several threads: as many as there is room.

        The peak is that of one.
        """
        if self.available is None:
            return MOST
        if self.uses_disk:
            return 1
        one = max(self.in_float64, self.rebuilt, 1)
        room = FRACTION * self.available - SPARE - self.recorded - self.kept
        return min(max(int(room // one), 1), MOST)

    @property
    def uses_disk(self) -> bool:
        """Whether recorded calls and layers are put on disk."""
        if not self.has_disk or self.available is None:
            return False
        return self.peak > FRACTION * self.available

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
        few = f"at most about {self.longest} tokens, or " if self.longest else ""
        raise InspectionMemoryError(
            f"{owner}: inspecting {self.layers} layers on {self.tokens} tokens takes "
            f"{_gb(self.peak_on_disk)} at its peak, also where what is kept goes to disk, but "
            f"{_gb(self.available or 0)} are available. The model's own run takes "
            f"{_gb(self.run)}, one layer in float64 {_gb(self.in_float64)}, rebuilding it "
            f"{_gb(self.rebuilt)}. Give {few}more memory (memory=..., on the command line "
            "--memory, is the limit that is assumed); fewer layers or heads take as much, since "
            "they are worked on one at a time."
        )

    def worded(self) -> str:
        """Return one line for a person, without parts that round to nothing."""
        there = "" if self.available is None else f" of {_gb(self.available)}"
        peak = self.peak_on_disk if self.uses_disk else self.peak
        where = "on disk" if self.uses_disk else "in memory"
        parts = {
            "the model's run": self.run,
            "one layer in float64": self.in_float64,
            f"recorded {where}": self.recorded,
            f"kept {where}": self.kept,
        }
        shown = ", ".join(f"{name} {_gb(size)}" for name, size in parts.items() if _is_shown(size))
        maps = f"; all maps would take {_gb(self.all_maps)}, up to {_gb(self.largest_maps)} a layer"
        every = maps if _is_shown(self.all_maps) else ""
        parts_of_it = f" ({shown})" if shown else ""
        return f"memory: about {_gb(peak)}{there} at the peak{parts_of_it}{every}"

    def facts(self) -> dict[str, Any]:
        """The same as JSON, in bytes."""
        more = ("peak", "peak_on_disk", "uses_disk")
        return asdict(self) | {name: getattr(self, name) for name in more}


def _is_shown(size: int) -> bool:
    return _gb(size) != _gb(0)


def _gb(numbers: int) -> str:
    return f"{numbers / GB:.1f} GB"
