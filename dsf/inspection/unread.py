"""Token mixers that were seen and not read, with the reason."""

import re

import torch
from torch import nn

from dsf.inspection.adapter import class_path
from dsf.inspection.result import Unsupported

LOOKS_LIKE_A_MIXER = re.compile(
    r"(Attention|Mixer|DeltaNet|ShortConv|RecurrentBlock|LSTM|GRU|RNN|(LSTM|GRU|RNN)Cell|LSTMLayer"
    r"|SSM|LRU|FourierTransform|PoolFormerPooling)$"
)


def unread(model: nn.Module, called: set[str], read: set[str]) -> list[Unsupported]:
    """Modules whose class is named like a token mixer and that no adapter read.

    One that wraps a module which was read, or sits inside one, is accounted for. TorchScript is
    always listed: it shows nothing of what is inside.

    Args:
        model: the model that ran.
        called: where the modules sit that an adapter knows and that were called.
        read: where all modules sit that an adapter knows.
    """
    found: list[Unsupported] = []
    for path, module in model.named_modules():
        if any(path.startswith(f"{other.name}.") for other in found):
            continue
        reason = _reason(module, path in read)
        if reason and not any(_related(path, other) for other in called):
            found.append(Unsupported(path or "(the model itself)", _kind(module), reason))
    return found


def _reason(module: nn.Module, known: bool) -> str | None:
    if isinstance(module, torch.jit.ScriptModule):
        return (
            "TorchScript takes no hooks: build the plain module (such as torch.nn.LSTM), fill it "
            "with this one's state_dict() and inspect that"
        )
    if known:
        return "it was not called on this input"
    if not LOOKS_LIKE_A_MIXER.search(type(module).__name__):
        return None
    if type(module).__name__.endswith(("FourierTransform", "PoolFormerPooling")):
        return (
            "it mixes tokens without values and weights of its own: a fixed transform or average "
            "of its input. probe=... reads it, pass by pass"
        )
    if type(module).__name__.endswith("Attention"):
        return (
            "it was not called, or it attends in a way that was not recognised: outside the "
            "attention interface and fused attention, and without softmax between two whole "
            "products (in blocks, by sums). Where it is linear in its values, probe=... reads it"
        )
    return (
        "no adapter knows this class, or it was not called. Where it is linear in its values, "
        "probe=... reads it"
    )


def _kind(module: nn.Module) -> str:
    if isinstance(module, torch.jit.ScriptModule):
        return f"TorchScript of {module.original_name}"
    return class_path(type(module))


def _related(path: str, other: str) -> bool:
    return path == other or other.startswith(f"{path}.") or path.startswith(f"{other}.") or not path
