"""Where a trained model of the package is kept."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedModel


def store(model: PreTrainedModel, folder: Path) -> None:
    """Keep the weights and what is needed to build the model, nothing about this machine.

    The limit on step sizes is the library's own, whose upper end JSON has no number for.
    """
    folder.mkdir(exist_ok=True)
    with TemporaryDirectory() as scratch:
        model.save_pretrained(scratch)
        weights = Path(scratch, "model.safetensors").read_bytes()
        configuration = json.loads(Path(scratch, "config.json").read_text())
    for machine_or_infinite in ("_name_or_path", "time_step_limit"):
        configuration.pop(machine_or_infinite, None)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "config.json").write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")
