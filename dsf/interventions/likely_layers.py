"""Which modules hold the layers that edits are of, guessed before a run has told the layers.

A run has to keep what its mixers were given and put out where a layer is rebuilt, which takes a
fifth of a forward pass if it is done for all of them. Names are known beforehand as paths of
modules, numbers are counted among the modules that look like mixers. Whoever guesses compares with
what the run tells, and makes it again where that is more.
"""

from collections.abc import Iterator, Sequence

from torch import nn

from dsf.inspection.choice import Chosen, chosen_layers, each_chosen
from dsf.inspection.errors import InspectionError
from dsf.inspection.families.registry import Known
from dsf.inspection.softmax.interface import models_of_library


def likely_layers(model: nn.Module, known: Known, wanted: Sequence[Chosen]) -> set[str] | None:
    """Paths of modules among which those of the wanted layers are likely to be.

    Args:
        known: the modules that adapters read.
        wanted: which layers, as for ``chosen_layers``.

    Returns:
        The paths; None where only a run can tell.
    """
    paths, mixers = [path for path, _ in model.named_modules()], list(_mixers(model, known))
    found: set[str] = set()
    try:
        for each in (one for several in wanted for one in each_chosen(several)):
            found |= chosen_layers(paths if isinstance(each, str) else mixers, each)
    except InspectionError:  # perhaps a name of another kind than a path
        return None
    return found


def _mixers(model: nn.Module, known: Known) -> Iterator[str]:
    """Modules that mix tokens by their class, where the classes are those of the model library."""
    if models_of_library(model) != [model]:
        return
    attentions = {path for path, part in model.named_modules() if _is_attention(part)}
    outer = {path[:at] for path in attentions for at, sign in enumerate(path) if sign == "."}
    for path, _ in model.named_modules():
        if path in known or (path in attentions and path not in outer):
            yield path


def _is_attention(module: nn.Module) -> bool:
    return type(module).__name__.endswith("Attention")
