"""What is written once for every family: two functions of what was captured."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from dsf.inspection.captured import Captured
from dsf.mixers import Mixer

Parts = Iterable[Captured]


def _whole(layer: Captured) -> Parts:
    return (layer,)


@dataclass(frozen=True)
class Adapter:
    """How to read the modules of one kind.

    Attributes:
        families: class paths, such as ``transformers.models.mamba.modeling_mamba.MambaMixer``,
            beside the family name of each. Subclasses are read alike.
        read: the mixer a module applied, recomputed from its parameters and its arguments.
        finish: the module's output, from the response of its mixer.
        axes: what the batch axes of the mixer's system count.
        split: a module that holds several mixers (the layers and directions of an LSTM) as one
            captured call for each.
        tolerance: the largest error of a healthy layer in guarded float64, relative.
    """

    families: Mapping[str, str]
    read: Callable[[Captured], Mixer]
    finish: Callable[[Captured, Tensor], Tensor]
    axes: tuple[str, ...] = ("sample", "head")
    split: Callable[[Captured], Parts] = _whole
    tolerance: float = 1e-12

    def family_of(self, module: nn.Module) -> str | None:
        """The family of ``module``, None if it is none of this adapter's."""
        for cls in type(module).__mro__:
            family = self.families.get(class_path(cls))
            if family is not None:
                return family
        return None


def class_path(cls: type) -> str:
    """``package.module.Class``."""
    return f"{cls.__module__}.{cls.__qualname__}"
