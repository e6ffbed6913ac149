"""A model without weights, from its settings alone."""

from pathlib import Path

import torch
from torch import nn

from dsf.inspection.loading.architectures import blueprint
from dsf.inspection.loading.building import undisturbed
from dsf.inspection.loading.errors import LoadError, reason
from dsf.inspection.loading.folder import open_folder
from dsf.inspection.loading.hub import snapshot
from dsf.inspection.loading.settings import read_settings


def load_skeleton(
    path_or_id: str | Path, *, revision: str | None = None, offline: bool = False
) -> nn.Module:
    """The modules of a model on the meta device: no weights are read, fetched or made.

    Args:
        path_or_id: a folder with a ``config.json``, or ``owner/name`` on the hub.

    Raises:
        LoadError: as ``load_model``, for what is found before the weights are read.
    """
    given = Path(path_or_id)
    place = given
    if not given.is_dir():
        place = snapshot(str(path_or_id), revision, offline=offline, settings_only=True)
    folder = open_folder(place)
    where = f"{folder.path / 'config.json'}"
    plan = blueprint(read_settings(folder, allow_quantized=True).values, where)
    with undisturbed(), torch.device("meta"):
        try:
            model: nn.Module = plan.model(plan.config)
        except Exception as error:  # whatever a model class makes of a stranger's settings
            raise LoadError(f"{where}: the model cannot be built ({reason(error)}).") from None
    return model.eval()
