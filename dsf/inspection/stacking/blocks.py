"""Where the blocks of a model are."""

from collections.abc import Sequence

from torch import nn

from dsf.inspection.errors import InspectionError


def blocks_of(model: nn.Module, mixers: Sequence[str], wanted: str | None) -> dict[str, nn.Module]:
    """The blocks one after the other, by path: the list of modules in which the mixers sit.

    Raises:
        InspectionError: if there is no such list, or several and none is named.
    """
    lists = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList | nn.Sequential)
        and any(mixer.startswith(f"{path}." if path else "") for mixer in mixers)
    }
    outer = [path for path in lists if not any(_holds(other, path) for other in lists)]
    if wanted is not None and wanted not in lists:
        raise InspectionError(
            f"stack: blocks='{wanted}' is no list of modules with token mixers in it. There are: "
            f"{', '.join(map(repr, lists)) or 'none'}."
        )
    if wanted is None and len(outer) != 1:
        raise InspectionError(
            f"stack: needs one list of blocks with token mixers in them, but the model has "
            f"{', '.join(map(repr, outer)) or 'none'}. Name one: stack(model, ..., blocks='...')."
        )
    chosen = outer[0] if wanted is None else wanted
    front = f"{chosen}." if chosen else ""
    return {f"{front}{name}": module for name, module in lists[chosen].named_children()}


def _holds(outer: str, inner: str) -> bool:
    return outer != inner and (outer == "" or inner.startswith(f"{outer}."))
