"""The state of every CUDA kernel on a device: active, or off with the reason."""

import torch

from dsf.evaluate.cuda.responses import fla_has_passed, recall_has_passed, scan_has_passed
from dsf.evaluate.cuda.rows import map_has_passed
from dsf.systems.kernels import asks_for_fla, why_off_on_cuda
from dsf.systems.kernels.cuda.fla import FUNCTIONS
from dsf.systems.kernels.cuda.trial_results import NAMES, trial_result

STATES, CHANNELS = 16, 64


def all_trial_results(device: torch.device) -> dict[str, str]:
    """``active``, or ``off`` with the reason, for every kernel; missing trials are run first."""
    asked = FUNCTIONS if asks_for_fla() else {}
    if not why_off_on_cuda():
        for structure in ("scalar", "diagonal"):
            for delta in ("", " delta"):
                recall_has_passed(device, structure + delta, STATES, CHANNELS, before=False)
            map_has_passed(device, structure, STATES, before=False)
        scan_has_passed(device, STATES)
        for structure in asked:
            fla_has_passed(device, structure, STATES, CHANNELS)
    names = (*NAMES, *(function.label for function in asked.values()))
    return {name: trial_result(name, device) for name in names}
