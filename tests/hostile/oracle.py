"""Whether a loaded model has the numbers that its files say, by a reader of our own of the files.

Nothing of the library is used: files are read as bytes, and every weight is looked up by its name.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.hostile.gguf_parts import llama_weights

_KINDS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?", "C64": "<c8",
}  # fmt: skip


def stored(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the weight files, in float64 where it is a float."""
    whole = sorted(folder.glob("*.gguf"))
    if whole and not (folder / "config.json").exists():
        return llama_weights(whole[0].read_bytes())
    found = {}
    single = folder / "model.safetensors"
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if not single.exists():
        names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    for name in names:
        content = (folder / name).read_bytes()
        begin = 8 + int.from_bytes(content[:8], "little")
        for key, entry in json.loads(content[8:begin]).items():
            if key != "__metadata__":
                first, last = entry["data_offsets"]
                found[key] = _tensor(content[begin + first : begin + last], entry)
    return found


def _tensor(data: bytes, entry: dict[str, Any]) -> Tensor:
    kind = entry["dtype"]
    if kind == "BF16":
        halves = np.frombuffer(data, "<u2").astype("<u4") << 16
        flat = torch.from_numpy(halves.view("<f4").astype("<f8"))
    elif kind.startswith("F8"):
        of = torch.float8_e4m3fn if kind == "F8_E4M3" else torch.float8_e5m2
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8).view(of).double()
    else:
        numbers = np.frombuffer(data, _KINDS[kind])
        flat = torch.from_numpy(numbers.astype("<f8" if kind[0] == "F" else numbers.dtype))
    return flat.reshape(entry["shape"])


def faults(model: torch.nn.Module, folder: Path, notes: tuple[str, ...]) -> list[str]:
    """What a loaded model has that its files do not say."""
    files = stored(folder)
    said = " ".join(notes)
    wrong = []
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, found in model.state_dict(keep_vars=True).items():
        if name in parameters and not found.is_floating_point():
            wrong.append(f"{name} has numbers of type {found.dtype}")
            continue
        wanted = _wanted(name, files)
        if wanted is None:
            twins = [n for n, p in parameters.items() if p is found and n != name]
            there = [twin for twin in twins if _wanted(twin, files) is not None]
            if not there:
                wrong.append(f"{name} is in no file")
            elif "embed" in name + "wte" and name in _tables(model) and name not in said:
                wrong.append(f"{name} is in no file and nothing is said of it")
            continue
        if wanted.shape != found.shape or not _same(wanted, found.detach()):
            wrong.append(f"{name} has other numbers than its file")
    return wrong


def _tables(model: torch.nn.Module) -> list[str]:
    """The name of the table of input embeddings."""
    get = getattr(model, "get_input_embeddings", lambda: None)
    table = getattr(get(), "weight", None)
    named = model.named_parameters(remove_duplicate=False)
    return [name for name, parameter in named if parameter is table][:1]


def _wanted(name: str, files: dict[str, Tensor]) -> Tensor | None:
    """The tensor of a name; names may differ by what stands before them, experts are stacked."""
    if name in files:
        return files[name]
    if ".experts." in name:
        return _experts(name, files)
    name = name.replace(".mlp.gate.", ".block_sparse_moe.gate.")
    ends = [k for k in files if _ends_alike(k, name)]
    return files[ends[0]] if len(ends) == 1 else None


def _ends_alike(one: str, other: str) -> bool:
    return f".{one}".endswith(f".{other}") or f".{other}".endswith(f".{one}")


def _experts(name: str, files: dict[str, Tensor]) -> Tensor | None:
    """Experts of Mixtral, which files have one by one and the model in one tensor."""
    before, _, last = name.rpartition(".experts.")
    before = before.rpartition(".")[0]
    parts = ("w1", "w3") if last == "gate_up_proj" else ("w2",)
    stacked: list[Tensor] = []
    for number in range(1000):
        each = []
        for part in parts:
            ending = f"{before}.block_sparse_moe.experts.{number}.{part}.weight"
            names = [
                k for k in files if f".{k}".endswith(f".{ending}") or f".{ending}".endswith(f".{k}")
            ]
            each += [files[k] for k in names[:1]]
        if len(each) < len(parts):
            break
        stacked.append(torch.cat(each))
    return torch.stack(stacked) if stacked else None


def _same(wanted: Tensor, found: Tensor) -> bool:
    """Equal after rounding to the type that the model has, NaN included."""
    cast = wanted.to(found.dtype)
    return bool(
        torch.equal(torch.nan_to_num(cast.double(), 7.0), torch.nan_to_num(found.double(), 7.0))
    )
