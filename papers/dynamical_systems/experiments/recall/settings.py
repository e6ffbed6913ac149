"""Which runs there are: every mixer against its state, against the width, and at two rates."""

from collections.abc import Iterator
from dataclasses import dataclass

from papers.dynamical_systems.experiments.recall import mixers

STATES, WIDTHS, SEEDS = (4, 16, 64), (32, 64), (0, 1, 2)
N, WIDTH = 16, 64
"""What is held while the other changes."""

RATES = (3e-3, 1e-2)
BEST_RATE = {"ssd": 1e-2, "s6": 1e-2}
"""Mixers that do not get there with the first rate, on seed 0 at n = 16 and width 64."""

SLOW = {("s6", 64), ("ssd", 64)}
"""Left out: states of every channel one by one cost 0.4 s a step, a quarter of an hour a run."""
SAME = {(mixer, n) for mixer in mixers.CELLS for n in STATES if n != N}
"""Left out: these mixers have no n, so that the runs would be equal."""


@dataclass(frozen=True)
class Setting:
    """One run."""

    mixer: str
    n: int
    width: int
    seed: int
    rate: float

    @property
    def name(self) -> str:
        """A name that a file can have."""
        mixer = self.mixer.replace(" ", "_")
        return f"{mixer}-n{self.n}-w{self.width}-seed{self.seed}-rate{self.rate:g}"


def of_rates() -> dict[str, Setting]:
    """Every mixer at every rate, once."""
    return _named(
        Setting(mixer, N, WIDTH, SEEDS[0], rate) for rate in RATES for mixer in mixers.NAMES
    )


def of_sweep() -> dict[str, Setting]:
    """Every mixer at its rate, all seeds; a whole seed before the next."""
    return _named(
        Setting(mixer, n, width, seed, BEST_RATE.get(mixer, RATES[0]))
        for seed in SEEDS
        for n, width in _sizes()
        for mixer in mixers.NAMES
        if (mixer, n) not in SLOW | SAME
    )


def _sizes() -> Iterator[tuple[int, int]]:
    yield from ((n, WIDTH) for n in STATES)
    yield from ((N, width) for width in WIDTHS if width != WIDTH)


def _named(settings: Iterator[Setting]) -> dict[str, Setting]:
    return {setting.name: setting for setting in settings}
