"""What is wrong with the inputs of a model, where that can be told."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from inspect import signature
from typing import Any

from torch import Tensor, nn

from dsf.inspection.errors import InspectionError

NUMBERS = "input_ids"
OURS = (
    "adapters", "against", "blocks", "checks", "clean", "edits", "exact", "heads", "layers",
    "memory", "position", "probe", "progress", "resume", "sources", "strict", "target", "text",
    "together", "tolerance", "tokens",
)  # fmt: skip
"""Arguments of ``dsf.inspect``, ``dsf.stack``, ``dsf.intervene`` and ``dsf.sweep``."""
AS_GOOD_AS = 0.85


def check_names(model: nn.Module, named: Iterable[str]) -> None:
    """Whether no input of a model of the library is a misspelt argument of ours.

    Its forward pass takes every name and ignores what it does not know.

    Raises:
        InspectionError: if one is.
    """
    takes = signature(model.forward).parameters
    for name in named:
        near = [] if name in takes else get_close_matches(name, OURS, n=1, cutoff=AS_GOOD_AS)
        if near:
            raise InspectionError(
                f"{name}: no input of {type(model).__name__} is called so, which would ignore it "
                f"without a word. Did you mean '{near[0]}' of dsf.inspect, dsf.intervene or "
                "dsf.sweep?"
            )


def hint(model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> str:
    """A sentence with the cure; empty where the numbers are not to blame."""
    if getattr(model, "main_input_name", None) != NUMBERS:
        return ""
    if not inputs and named.get(NUMBERS) is None:
        given = any(named.get(other) is not None for other in ("inputs_embeds", "encoder_outputs"))
        return "" if given else "It reads numbers of tokens: pass input_ids=torch.tensor([[1, 2]])."
    numbers = named.get(NUMBERS, inputs[0] if inputs else None)
    wrong = _wrong(numbers, _known(model))
    return f"input_ids {wrong}." if wrong else ""


def _wrong(numbers: Any, known: int | None) -> str:
    if not isinstance(numbers, Tensor):
        return (
            f"must be a tensor, such as torch.tensor([[1, 2]]), but it is {type(numbers).__name__}"
        )
    if numbers.is_floating_point():
        return "must be whole numbers, but they are fractions: convert them with .long()"
    if numbers.ndim != 2:
        cure = ": input_ids[None] is one sample" if numbers.ndim == 1 else ""
        return f"must have the axes (sample, time), but the shape is {tuple(numbers.shape)}{cure}"
    if not numbers.numel():
        return f"must have one token at least, but the shape is {tuple(numbers.shape)}"
    if known is not None:
        for extreme in (numbers.min().item(), numbers.max().item()):
            if not 0 <= extreme < known:
                return f"must be numbers from 0 to {known - 1}, but there is {extreme}"
    return ""


def _known(model: nn.Module) -> int | None:
    """How many tokens the model knows."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    return getattr(embedding, "num_embeddings", None)
