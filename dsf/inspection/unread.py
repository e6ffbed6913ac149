"""Token mixers that were seen and not read, with the reason."""

import re

from torch import nn

from dsf.inspection.adapter import class_path
from dsf.inspection.result import Unsupported

LOOKS_LIKE_A_MIXER = re.compile(
    r"(Attention|Mixer|DeltaNet|ShortConv|RecurrentBlock|LSTM|GRU|RNN|LSTMLayer|SSM|LRU)$"
)


def unread(model: nn.Module, read: set[str]) -> list[Unsupported]:
    """Modules whose class is named like a token mixer and that no adapter read.

    One that wraps a module which was read, or sits inside one, is accounted for.
    """
    found = []
    for path, module in model.named_modules():
        if not LOOKS_LIKE_A_MIXER.search(type(module).__name__):
            continue
        if any(_related(path, other) for other in read):
            continue
        found.append(
            Unsupported(path or "(the model itself)", class_path(type(module)), _reason(module))
        )
    return [part for part in found if not _inside_another(part, found)]


def _reason(module: nn.Module) -> str:
    if type(module).__name__.endswith("Attention"):
        return "computes attention on its own, outside the attention interface, or was not called"
    return "no adapter knows this class, or it was not called"


def _related(path: str, other: str) -> bool:
    return path == other or other.startswith(f"{path}.") or path.startswith(f"{other}.") or not path


def _inside_another(part: Unsupported, found: list[Unsupported]) -> bool:
    return any(part.name.startswith(f"{other.name}.") for other in found if other is not part)
