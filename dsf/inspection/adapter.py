"""What is written once for every family: a few functions of what was captured."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dsf.inspection.capture.calls import Call, Captured
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.inspection.whole.head_layout import as_tokens
from dsf.inspection.whole.stages import Chain
from dsf.mixers import Mixer

Parts = Iterable[Captured]


def one_layer(layer: Captured) -> Parts:
    """A call that holds one layer."""
    return (layer,)


def _none(_: Captured) -> Tensor | None:
    return None


def _alone(calls: Sequence[Call]) -> Sequence[Call]:
    return calls


@dataclass(frozen=True)
class Adapter:
    """How to read the modules of one kind, or of several that differ in little.

    Write one for modules of your own: pass it as ``dsf.inspect(model, ..., adapters=(MINE,))``, or
    name it under the entry point group ``dsf.adapters`` of your package. ``dsf.check_adapter`` says
    whether it is right.

    Attributes:
        families: class paths, such as ``transformers.models.mamba.modeling_mamba.MambaMixer``,
            beside the family name of each. Subclasses are read alike.
        read: the mixer a module applied, recomputed from its parameters and its arguments.
        leave: what happens to the response on its way out, given that response as
            ``sample time width``.
        enter: what happens to the module's input before it is mixed. With it the layer is known as
            a whole, from input to output.
        takes: the argument that ``enter`` begins with.
        finish: instead of ``leave``, what was captured from the response as it is; where that is
            no chain of stages, or not yet the module's output.
        whole: instead of ``enter`` and ``leave``, the layer from input to output, from its mixer.
        overlooked: tokens whose output the module makes in another way than the mixer, because
            they are padding: ``sample time``, or None for none.
        axes: what the batch axes of the mixer's system count.
        split: a module that holds several mixers (the layers and directions of an LSTM) as one
            captured call for each.
        join: a module that is called once for every token (an LSTM cell): all its calls, those
            that continue one another as one.
        repeat: for such a module, its output where a copy of it in float64 goes through the joined
            call again, given that copy and the call's arguments.
        rewrites_weights: whether the model writes into its weights when it runs, so that those of
            the run have to be kept.
        tolerance: the largest error of a healthy layer in guarded float64, relative.
        advice: what to do when a family is not reproduced, where the cause is known.
    """

    families: Mapping[str, str]
    read: Callable[[Captured], Mixer]
    leave: Callable[[Captured, Tensor], Chain] | None = None
    enter: Callable[[Captured], Chain] | None = None
    takes: str = "hidden_states"
    finish: Callable[[Captured, Tensor], Tensor] | None = None
    whole: Callable[[Any], AffineLayer] | None = None
    overlooked: Callable[[Captured], Tensor | None] = _none
    axes: tuple[str, ...] = ("sample", "head")
    split: Callable[[Captured], Parts] = one_layer
    join: Callable[[Sequence[Call]], Sequence[Call]] = _alone
    repeat: Callable[[Any, Mapping[str, Any]], Any] | None = None
    rewrites_weights: bool = False
    tolerance: float = 1e-12
    advice: Mapping[str, str] = field(default_factory=dict)

    def finished(self, layer: Captured, mixer: Any, mixed: Tensor) -> Tensor:
        """The module's output, from the response of its mixer."""
        if self.finish is not None:
            return self.finish(layer, mixed)
        if self.leave is None:
            raise TypeError("Adapter: 'leave' or 'finish' must say what comes after the mixer.")
        response = as_tokens(mixed, mixer.value)
        return self.leave(layer, response)(response)
