"""Train, measure, and write the results, the tables and the figures.

    nohup nice python -m papers.zero_sum.experiments.ablation.run &

Run from the repository. Finished runs are kept in ``runs`` next to this file; what is there is not
done again, so an interrupted run goes on where it stopped. Remove the folder to start anew.
"""

from pathlib import Path

import torch

from experiments.training.sweep import gather, sweep, write_json
from papers.zero_sum.experiments.ablation import ablation, contrast, curves, figures, tables

FOLDER = Path(__file__).parent
SEEDS = (0, 1, 2)


def main() -> None:
    """Do what is missing, then show all of it."""
    torch.set_num_threads(1)
    contrasts, ablations = contrast.settings(SEEDS), ablation.settings(SEEDS)
    sweep(contrast.run, contrasts, FOLDER / "runs" / "contrast")
    sweep(ablation.run, ablations, FOLDER / "runs" / "ablation")
    results = {
        "contrast": list(gather(contrasts, FOLDER / "runs" / "contrast").values()),
        "ablation": list(gather(ablations, FOLDER / "runs" / "ablation").values()),
        "curves": curves.measured(),
    }
    write_json(FOLDER / "results.json", results)
    figures.draw(results, FOLDER)
    tables.fill(FOLDER / "README.md", results)


if __name__ == "__main__":
    main()
