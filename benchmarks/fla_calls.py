"""What flash-linear-attention is called with for a layer of ours, where it is installed.

The calls are those of ``DSF_KERNELS=fla``, without what is around them.
"""

from collections.abc import Callable
from importlib.util import find_spec

import torch
from torch import Tensor

from dsf.evaluate.cuda import by_head
from dsf.mixers import Mixer, StateSpaceDuality
from dsf.systems.kernels.cuda import fla

AS_GIVEN = ("g", "initial_state")  # in single precision, whatever the rest is in


def call(mixer: Mixer) -> fla.Call | None:
    """How the library computes what this layer does; None if it has nothing of the kind."""
    heads = by_head(mixer.system(), mixer.signal())
    return None if heads is None else fla.call(*heads)


def works(mixer: Mixer) -> dict[str, Callable[[], Tensor]]:
    """The library's way in single and in half precision; empty where it is not installed."""
    made = call(mixer)
    if made is None or find_spec("fla") is None:
        return {}
    skip = mixer.feedthrough if isinstance(mixer, StateSpaceDuality) else None
    signal = mixer.signal().squeeze(-2)

    def run(dtype: torch.dtype) -> Tensor:
        arguments = {
            name: part.to(dtype) if isinstance(part, Tensor) and name not in AS_GIVEN else part
            for name, part in made.arguments.items()
        }
        found = made.function(**arguments)[0].reshape(signal.shape)
        return found if skip is None else found + skip[:, None, None] * signal

    return {"fla": lambda: run(torch.float32), "fla, bfloat16": lambda: run(torch.bfloat16)}
