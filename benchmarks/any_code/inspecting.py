"""Inspects one model and judges what dsf said of it; run as a process of its own.

python -m benchmarks.any_code.inspecting "PACKAGE: NAME" RESULT.json
"""

import time
from importlib.metadata import version
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

import dsf
from benchmarks.any_code.models.entry import Model
from benchmarks.any_code.oracle import Claim, Subject, judged
from dsf.inspection.errors import InspectionError


def outcome(entry: Model) -> dict[str, Any]:
    """What became of one model, as a record of the table."""
    record: dict[str, Any] = {"package": entry.package, "model": entry.name}
    record["version"] = version(entry.package)
    torch.backends.mha.set_fastpath_enabled(False)  # one operation for a whole layer
    torch.manual_seed(0)
    model = entry.build().eval()
    ordinary(model)
    args, kwargs = entry.inputs()
    subject = Subject(entry, model, args, kwargs)
    with torch.no_grad():
        plain = _calls(lambda: model(*args, **kwargs))
    ran_in_it = {id(module) for module in plain}
    inspection: Any = None
    started = time.process_time()

    def inspect() -> None:
        nonlocal inspection
        inspection = dsf.inspect(model, *args, **kwargs)

    try:
        ran = sum(next(module.children(), None) is None for module in _calls(inspect))
    except InspectionError as error:
        return record | {
            "outcome": "refused",
            "reason": str(error),
            "seconds": round(time.process_time() - started, 2),
        }
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        return record | {"outcome": "error", "reason": reason}
    record["seconds"] = round(time.process_time() - started, 2)
    leaves = [module for module in plain if next(module.children(), None) is None]
    record["passes"] = round(ran / max(len(leaves), 1), 1)
    paths = dict(model.named_modules())
    claims = [_claim(layer, paths) for layer in inspection]
    unread = [
        part for part in inspection.unsupported if id(paths[_path(part.name, paths)]) in ran_in_it
    ]
    listed = [_path(part.name, paths) for part in unread]
    judgement = judged(subject, [claim for claim in claims if claim is not None], listed)
    whole = [layer for layer in inspection if layer.is_exact]
    in_part = {_path(layer.name, paths) for layer in inspection if not layer.is_exact}
    record |= {
        "exact": sum(layer.family != "probed" for layer in whole),
        "probed": sum(layer.family == "probed" for layer in whole),
        "parts": sorted(in_part),
        "listed": [[part.name, part.reason] for part in unread],
        "right": len(judgement.right),
        "unseen": judgement.unseen,
        "wrong": judgement.wrong,
        "missed": judgement.missed,
    }
    return record | {"outcome": _word(record)}


def _word(record: dict[str, Any]) -> str:
    if record["wrong"]:
        return "wrong"
    if record["missed"]:
        return "missed"
    if record["parts"] or record["listed"]:
        return "part"
    return "probed" if record["probed"] else "read"


def _claim(layer: Any, paths: dict[str, nn.Module]) -> Claim | None:
    values, weights = layer.signal.flatten(-3, -2), layer.map()
    return Claim(
        name=layer.name,
        path=_path(layer.name, paths),
        values=values,
        map=weights,
        axes=tuple(layer.axes),
        is_exact=layer.is_exact,
        has_tokens=layer.columns == "token" and type(layer.mixer).__name__ in PLAIN,
    )


def _path(name: str, paths: dict[str, nn.Module]) -> str:
    """The path of a module by the name of a layer, which may bear a number."""
    short = name.partition(" (call")[0]
    for each in (short, short.partition("[")[0]):
        if each in paths:
            return each
    return ""


def _calls(run: Any) -> list[nn.Module]:
    """The modules that a function calls, as often as it calls them."""
    found: list[nn.Module] = []

    def note(module: nn.Module, _given: Any, _output: Any) -> None:
        found.append(module)

    handle = register_module_forward_hook(note)
    try:
        run()
    finally:
        handle.remove()
    return found


PLAIN = ("SoftmaxAttention", "GivenWeights", "StoredMap")
"""Mixers whose values are of single tokens; others may have a short convolution before them."""
LARGE = 1e3
"""No initial weight of a package is larger."""


def ordinary(model: nn.Module) -> None:
    """Replace initial weights that hide what a module does: zeros, and factors near zero."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in model.parameters():
            if not part.is_floating_point() or not part.numel():
                continue
            size = part.abs().max().item()
            if not size < LARGE:  # memory that was never written
                part.copy_(torch.randn(part.shape, generator=rng) * 0.1)
                continue
            if part.ndim > 1 and size < 0.1:
                fan = max(part[0].numel(), 1)
                part.copy_(torch.randn(part.shape, generator=rng) * fan**-0.5)
            elif part.ndim < 2 and size == 0:
                part.copy_(torch.randn(part.shape, generator=rng) * 0.1)
            elif part.ndim < 2 and 0 < size < 0.1 and bool((part == part.flatten()[0]).all()):
                part.copy_(torch.rand(part.shape, generator=rng) + 0.5)
