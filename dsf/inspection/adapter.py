"""``Adapter``: the functions by which the modules of one family are read from a captured call."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dsf.certificates import StoredLayer
from dsf.inspection.capture.calls import Call, Captured
from dsf.inspection.whole.affine_layer import AffineLayer
from dsf.inspection.whole.stages import Chain, as_tokens
from dsf.mixers import Mixer

Parts = Iterable[Captured]


def one_layer(layer: Captured) -> Parts:
    """A call that holds one layer."""
    return (layer,)


def _none(_: Captured) -> Tensor | None:
    return None


def _no_more(_module: Any, _tokens: int) -> int:
    return 0


def alone(calls: Sequence[Call]) -> Sequence[Call]:
    """Calls that are layers on their own."""
    return calls


@dataclass(frozen=True)
class Adapter:
    """How the modules of one class, or of a few closely related classes, are read.

    Write one for modules of your own: pass it as ``dsf.inspect(model, ..., adapters=(MINE,))``, or
    name it under the entry point group ``dsf.adapters`` of your package.
    ``dsf.testing.check_adapter`` checks whether it is right.

    Attributes:
        families: the family name of every class path, such as
            ``transformers.models.mamba.modeling_mamba.MambaMixer``. Subclasses are read in the
            same way.
        read: the mixer that a module applied, recomputed from its parameters and its arguments.
        leave: the stages from the mixer's response to the module's output (output gate, norm,
            output projection). It is given the response as ``sample time width``.
        enter: the stages from the module's input to the mixer's values (projection, short
            convolution, activation). With it the whole layer is known, from input to output.
        takes: the name of the argument that ``enter`` starts from.
        finish: instead of ``leave``, a function from the mixer's response, in the mixer's axes, to
            the captured output. For modules where that is not a chain of stages, or where the
            captured output is not the module's output.
        whole: instead of ``enter`` and ``leave``, a function from the mixer to the whole layer.
        overlooked: the padding tokens whose output the module computes in another way than the
            mixer, as a boolean mask ``sample time``; None if there are none.
        idle: the rows of the captured output whose keys are all masked, as a boolean mask of its
            axes but the last; None if there are none. What stands there is no number of the layer,
            so that it is not rounding either.
        axes: what the batch axes of the mixer's system count.
        split: for a module that holds several mixers (the layers and directions of an LSTM): one
            captured call for each of them.
        join: for a module that is called once for every token (an LSTM cell): its calls, where
            consecutive calls of one sequence are merged into one.
        repeat: for such a module: its output where a copy of it in float64 goes through the joined
            call again, given that copy and the call's arguments.
        renew: where the module keeps buffers that it computed from others when it was built:
            computes them anew in its copy in float64, given that copy.
        hasten: sets in the copy in float64 what changes how fast the module computes but not what.
            The copy counts only where the layer and the run both agree with it; elsewhere the
            module is repeated as it is.
        rewrites_weights: whether the model writes into its weights when it runs, so that a copy of
            them must be taken for the run.
        run_numbers: how many numbers the module's own forward pass holds at its peak beyond its
            projections, given the module and the number of tokens of all samples; by default none.
        stored: the weights behind the map of one head or channel, given the module, the arguments
            of its call and the number of the head; None if ``StoredLayer`` has no such kind.
        tolerance: the largest relative error allowed when the model runs in float64 throughout.
        advice: for each family with a known defect, what to do when its output is not reproduced.
    """

    families: Mapping[str, str]
    read: Callable[[Captured], Mixer]
    leave: Callable[[Captured, Tensor], Chain] | None = None
    enter: Callable[[Captured], Chain] | None = None
    takes: str = "hidden_states"
    finish: Callable[[Captured, Tensor], Tensor] | None = None
    whole: Callable[[Any], AffineLayer] | None = None
    overlooked: Callable[[Captured], Tensor | None] = _none
    idle: Callable[[Captured], Tensor | None] = _none
    axes: tuple[str, ...] = ("sample", "head")
    split: Callable[[Captured], Parts] = one_layer
    join: Callable[[Sequence[Call]], Sequence[Call]] = alone
    repeat: Callable[[Any, Mapping[str, Any]], Any] | None = None
    renew: Callable[[Any], None] | None = None
    hasten: Callable[[Any], None] | None = None
    rewrites_weights: bool = False
    run_numbers: Callable[[Any, int], int] = _no_more
    stored: Callable[[Any, Mapping[str, Any], int], StoredLayer] | None = None
    tolerance: float = 1e-12
    advice: Mapping[str, str] = field(default_factory=dict)

    @property
    def joins(self) -> bool:
        """Whether its calls become layers only together."""
        return self.join is not alone

    def finished(self, layer: Captured, mixer: Any, mixed: Tensor) -> Tensor:
        """The module's output, from the response of its mixer."""
        if self.finish is not None:
            return self.finish(layer, mixed)
        if self.leave is None:
            raise TypeError(
                "Adapter: one of 'leave' and 'finish' must be given, since they compute the "
                "module's output from the mixer's response, but both are None."
            )
        response = as_tokens(mixed, mixer.value)
        return self.leave(layer, response)(response)
