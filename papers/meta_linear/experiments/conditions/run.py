"""Which conditions of an optimal linear mixer does each mixer meet?

    python -m papers.meta_linear.experiments.conditions.run

Run from the repository; writes ``results.json``, ``figure.png`` and the table of ``README.md``.
"""

import platform
from pathlib import Path
from time import process_time

import torch

from experiments.page import put_into
from experiments.training.sweep import write_json
from papers.meta_linear.experiments.conditions.figure import draw
from papers.meta_linear.experiments.conditions.found import everything
from papers.meta_linear.experiments.conditions.page import disagreements, findings

FOLDER = Path(__file__).parent


def main() -> None:
    """Perturb, write, draw."""
    torch.set_num_threads(1)
    started = process_time()
    found = everything()
    seconds = round(process_time() - started, 1)
    different = list(disagreements(found))
    write_json(
        FOLDER / "results.json",
        {
            "mixers": found,
            "letters that are not the paper's": different,
            "processor_seconds": seconds,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    )
    draw(found, FOLDER / "figure.png")
    put_into(FOLDER / "README.md", findings(found))
    print(f"{findings(found)}\n{seconds} s of one core; not as printed: {different or 'none'}")


if __name__ == "__main__":
    main()
