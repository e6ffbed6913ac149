"""What a cache of the model library holds of earlier tokens: convolved inputs and states.

Layers of the same library that continue a cache start from these. Releases whose caches are kept in
another way are not read: their layers are refused, since they do not start from rest.
"""

from torch import Tensor

from dsf.inspection.capture.calls import Captured
from dsf.inspection.capture.containers import is_cache
from dsf.inspection.capture.precision import in_float64


def convolved_before(layer: Captured, channels: slice, taps: int) -> Tensor | None:
    """The inputs of a convolution before the first token, ``sample before width``, the latest last.

    None where the layer continues no cache.
    """
    held = _asked(layer, "get_conv_state")
    if held is None or taps < 2:
        return None
    return held.mT[..., -(taps - 1) :, channels]


def gated_before(layer: Captured, taps: int) -> Tensor | None:
    """The inputs that a convolution holds of earlier tokens, ``sample channel taps``."""
    held = _asked(layer, "get_conv_state")
    return None if held is None else held[..., -taps:]


def state_before(layer: Captured, question: str = "get_recurrent_state") -> Tensor | None:
    """The recurrent state before the first token, as the cache lays it out; None from rest.

    Args:
        question: the method of the cache that returns the state of a layer.
    """
    return _asked(layer, question)


def _asked(layer: Captured, question: str) -> Tensor | None:
    cache = next((part for part in layer.arguments.values() if is_cache(part)), None)
    place = getattr(layer.module, "layer_idx", None)
    if place is None or not hasattr(cache, question):
        return None
    held = getattr(cache, question)(place)
    return in_float64(held) if isinstance(held, Tensor) else None
