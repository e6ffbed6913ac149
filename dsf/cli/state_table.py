"""What recurrent states hold, for a terminal."""

from collections.abc import Sequence
from pathlib import Path

from dsf.cli.terminal import print_table
from dsf.report.plot import StateReport

WHY = {
    "little": "little is lost",
    "decays": "it forgets because it decays",
    "full": "it forgets because it is full",
}


def show_states(report: StateReport, written: Sequence[Path]) -> None:
    """One row for each layer, then what has no state and what was written."""
    print_table(
        ("layer", "states", "kept", "decayed", "taken", "in use", "length", ""),
        [
            (
                layer.name,
                str(layer.states),
                *(f"{share:.2f}" for share in layer.shares),
                f"{layer.occupancy[-1]:.2f}",
                layer.length,
                WHY[layer.loss],
            )
            for layer in report.layers
        ],
    )
    for name, reason in report.without:
        print(f"no state: {name}: {reason}")
    for path in written:
        print(f"wrote {path}")
