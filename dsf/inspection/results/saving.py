"""``save`` and ``load``: results in a folder, from which they come back without the model.

A result is a tree of data classes of this package. ``result.json`` has the tree, and
``tensors.safetensors`` the numbers, with their strides: what is computed from a loaded result is
the same, bit for bit. Reading makes nothing but data classes of the packages in ``PACKAGES``.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dsf.inspection.errors import InspectionError
from dsf.runtime.files import replace_file

TREE, NUMBERS, FORMAT = "result.json", "tensors.safetensors", 1
PACKAGES = (
    "dsf.attribution",
    "dsf.inspection.families",
    "dsf.inspection.probing",
    "dsf.inspection.results",
    "dsf.inspection.softmax",
    "dsf.inspection.whole",
    "dsf.interventions",
    "dsf.mixers",
    "dsf.systems",
)
"""Packages whose data classes a saved result may hold."""
LEFT_OUT = (
    "InspectedLayer.fingerprint",
    "InspectedLayer.is_on_disk",
    "Intervention.tokenizer",
    "WholeMixer.leaving",
)
"""Fields that need the model, or the process that made the result."""
WIDE = 4
"""A tensor's whole storage is kept if it has at most so many times its numbers."""
ALIGNED = 64
"""Bytes: sums over numbers that are aligned in another way round in another way."""


@dataclass(frozen=True, eq=False)
class Returns:
    """A function without arguments that returns what it holds."""

    value: Any

    def __call__(self) -> Any:
        return self.value


def save(result: Any, folder: str | Path, names: tuple[str, str] = (TREE, NUMBERS)) -> Path:
    """Write a result into two files of a folder, which is made if need be."""
    numbers: dict[str, Tensor] = {}
    tree = {"format": FORMAT, "result": _encoded(result, numbers, {})}
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    text = json.dumps(tree, allow_nan=False)

    def write(draft: Path) -> None:
        save_file(numbers, draft)
        (place / names[0]).unlink(missing_ok=True)  # no earlier tree is read with these numbers

    replace_file(place / names[1], write)
    replace_file(place / names[0], lambda draft: draft.write_text(text, encoding="utf-8"))
    return place


def load(folder: str | Path, names: tuple[str, str] = (TREE, NUMBERS)) -> Any:
    """Read what ``save`` wrote: an inspection, an attribution, an intervention or a ledger.

    Maps, measures and reports are computed from what was saved, without the model.

    Raises:
        FileNotFoundError: if the folder has no saved result.
        InspectionError: if the result is of another format, or no result of this package.

    Example:
        >>> import dsf, tempfile, torch
        >>> found = dsf.inspect(torch.nn.LSTM(3, 4, batch_first=True), torch.ones(1, 5, 3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     again = dsf.load(found.save(folder))
        >>> again[0].map().equal(found[0].map())
        True
    """
    place = Path(folder)
    if not (place / names[0]).is_file():
        raise FileNotFoundError(
            f"load: {place} holds no saved result, which inspection.save(folder) writes. A model "
            "is opened by dsf.inspect(folder, text)."
        )
    tree = json.loads((place / names[0]).read_text(encoding="utf-8"))
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise InspectionError(
            f"load: expected a result of format {FORMAT} in {place / names[0]}, got another file. "
            "Save it with this version of dsf."
        )
    try:
        numbers = {name: part.clone() for name, part in load_file(place / names[1]).items()}
        return _decoded(tree["result"], numbers)
    except (KeyError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise InspectionError(
            f"load: {place} holds no result that can be read ({type(error).__name__}: {error})."
        ) from error


def _encoded(value: Any, numbers: dict[str, Tensor], known: dict[int, Any]) -> Any:  # noqa: PLR0911 (one for each kind)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": str(float(value))}
    if isinstance(value, Tensor):
        return _put(value, numbers)
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_encoded(each, numbers, known) for each in value]}
    if isinstance(value, slice):
        return {"slice": [value.start, value.stop, value.step]}
    if isinstance(value, Mapping):
        return {"dict": [[name, _encoded(each, numbers, known)] for name, each in value.items()]}
    if not is_dataclass(value) or isinstance(value, type):
        raise TypeError(f"save: a result with a {type(value).__name__} cannot be written.")
    if id(value) not in known:  # one object in several places is one again
        parts = value.to_save() if hasattr(value, "to_save") else {}
        parts = {each.name: getattr(value, each.name) for each in fields(value)} | parts
        found = {
            name: _encoded(part, numbers, known)
            for name, part in parts.items()
            if f"{type(value).__name__}.{name}" not in LEFT_OUT
        }
        kind = f"{type(value).__module__}:{type(value).__qualname__}"
        known[id(value)] = len(known), value
        return {"class": kind, "number": known[id(value)][0], "fields": found}
    return {"same": known[id(value)][0]}


def _put(value: Tensor, numbers: dict[str, Tensor]) -> dict[str, Any]:
    """Keep a tensor's numbers as they lie in memory, so that sums over them are the same."""
    plain = value.detach().resolve_conj().resolve_neg()
    if plain.device.type != "cpu":
        plain = plain.cpu()
    sizes = zip(plain.shape, plain.stride(), strict=True)
    count = 1 + sum((size - 1) * step for size, step in sizes) if plain.numel() else 0
    whole = plain.untyped_storage().nbytes() // plain.element_size()
    begins = int(plain.storage_offset())
    offset = begins % (ALIGNED // plain.element_size())
    start, count = begins - offset, int(count) + offset
    if whole <= WIDE * max(plain.numel(), 1):
        start, offset, count = 0, begins, whole
    name = f"{plain.untyped_storage().data_ptr()}.{start}.{count}.{plain.dtype}"
    if name not in numbers:
        flat = plain.as_strided((count,), (1,), start).clone()
        numbers[name] = torch.view_as_real(flat) if flat.is_complex() else flat
    place = {"shape": list(plain.shape), "stride": list(plain.stride()), "offset": offset}
    return {"tensor": name, "complex": plain.is_complex(), **place}


def _decoded(tree: Any, numbers: Mapping[str, Tensor], known: dict[int, Any] | None = None) -> Any:
    known = {} if known is None else known
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        flat = numbers[tree["tensor"]]
        flat = torch.view_as_complex(flat) if tree["complex"] else flat
        return flat.as_strided(tree["shape"], tree["stride"], tree["offset"])
    if "class" in tree:
        module, _, name = tree["class"].partition(":")
        if not any(module == each or module.startswith(f"{each}.") for each in PACKAGES):
            raise InspectionError(f"load: expected a class of dsf, got {module}:{name}.")
        kind = getattr(import_module(module), name)
        if not is_dataclass(kind) or not isinstance(kind, type):
            raise InspectionError(f"load: expected a data class of dsf, got {module}:{name}.")
        parts = {key: _decoded(part, numbers, known) for key, part in tree["fields"].items()}
        known[tree["number"]] = kind(**parts)
        return known[tree["number"]]
    if "same" in tree:
        return known[tree["same"]]
    ((kind, part),) = tree.items()
    made: dict[str, Callable[[Any], Any]] = {
        "float": float,
        "slice": lambda bounds: slice(*bounds),
        "dict": lambda pairs: {name: _decoded(one, numbers, known) for name, one in pairs},
        "list": lambda several: [_decoded(one, numbers, known) for one in several],
        "tuple": lambda several: tuple(_decoded(one, numbers, known) for one in several),
    }
    return made[kind](part)
