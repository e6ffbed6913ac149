"""Train every model on the digits and read what its attention does.

    nohup nice python -m papers.in_line.experiments.digits.run &

Run from the repository: about half an hour of one core, one file a run in ``runs``. What is there
already is left alone, so an interrupted sweep goes on where it stopped.
"""

from time import process_time

import torch

from experiments.training.examples import accuracy, batches
from experiments.training.fit import Schedule, fit
from experiments.training.sweep import Result, sweep, write_json
from papers.in_line.experiments.digits import report, speed
from papers.in_line.experiments.digits.digits import digits
from papers.in_line.experiments.digits.masking import masked_accuracies
from papers.in_line.experiments.digits.peaked import confusions_of_peaked_rows
from papers.in_line.experiments.digits.reading import confusions_per_image, locality, weight_spread
from papers.in_line.experiments.digits.settings import Setting, settings

SCHEDULE = Schedule(rate=3e-3, steps=500, warm_up=50, check_every=250, enough=float("inf"))
"""All models take all steps: a stop at an accuracy would compare unequal trainings."""
BATCH = 64
READ = 200
"""Test images whose maps are read."""


def main() -> None:
    """Do the runs that are missing, and write what all of them found."""
    torch.set_num_threads(1)
    if not report.SPEED.exists():
        write_json(report.SPEED, {"rows": speed.times()})
    sweep(run, settings(), report.RUNS)
    report.main()


def run(setting: Setting, schedule: Schedule = SCHEDULE) -> Result:
    """Train one model, and what its maps show on test images before and after."""
    data = digits()
    model = setting.model()
    images = data.tested.inputs[:READ]
    result: Result = {
        "variant": setting.variant,
        "seed": setting.seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }
    with torch.inference_mode():
        result["locality_untrained"] = locality(model, images)
    drawn = batches(data.trained, size=BATCH, seed=setting.seed)
    try:
        *_, progress = fit(model, drawn, data.checked, schedule)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        return {**result, "stopped": "the gradient was no longer finite"}
    started = process_time()
    with torch.inference_mode():
        result |= {
            "steps": progress.steps,
            "loss": progress.loss,
            "processor_seconds": round(progress.seconds, 1),
            "accuracy": accuracy(model, data.tested),
            "locality": locality(model, images),
            "weight_spread": weight_spread(model, images),
            "confusions": confusions_per_image(model, images),
            "masked": masked_accuracies(model, data.tested),
        }
        if setting.attention == "softmax":
            result["peaked"] = confusions_of_peaked_rows(model, images)
    result["processor_seconds_of_reading"] = round(process_time() - started, 1)
    return result


if __name__ == "__main__":
    main()
