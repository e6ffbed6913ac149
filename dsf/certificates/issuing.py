"""Certificates from proposed verdicts: written to a file and returned only once it is accepted."""

import hashlib
import platform
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import torch
from safetensors.torch import save
from torch import Tensor

from dsf.certificates import checker
from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.distribution import VERSION
from dsf.saving import replace_file

Given = ParamSpec("Given")

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The result of a search before it has been checked; fields are as in ``Certificate``."""

    name: str
    verdict: Verdict
    tensors: Mapping[str, Tensor]
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    witness: Mapping[str, Any] | None = None
    bound: float | None = None
    observed: float | None = None
    assumptions: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)


def on_the_processor(claim: Callable[Given, Certificate]) -> Callable[Given, Certificate]:
    """``claim`` with the tensors it is given copied to the processor, where fractions are exact."""

    def there(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part.cpu()
        return tuple(map(there, part)) if isinstance(part, tuple) else part

    @wraps(claim)
    def decided(*args: Given.args, **named: Given.kwargs) -> Certificate:
        return claim(*map(there, args), **{name: there(part) for name, part in named.items()})

    return decided


def settled(proposal: Proposal, broken: int | None) -> Proposal:
    """The proposal as PROVED, or as REFUTED with ``broken`` as the row that violates the claim."""
    if broken is None:
        return replace(proposal, verdict=Verdict.PROVED)
    return replace(proposal, verdict=Verdict.REFUTED, witness={"row": broken})


class CheckerRefused(RuntimeError):
    """The checker rejected a proposal of the library: an error in the library, not a verdict."""


def issued(proposal: Proposal, folder: Path | None = None) -> Certificate:
    """The certificate of a proposal, after the independent checker has accepted its file.

    Written to ``folder`` (``certificates/`` and ``tensors/`` inside it), or to a temporary one that
    is deleted afterwards. If a tensor has NaN or infinite entries, the verdict is UNKNOWN.

    Raises:
        CheckerRefused: if the checker rejects the file.
    """
    bad = [role for role, part in proposal.tensors.items() if not bool(part.isfinite().all())]
    if bad:
        return _unknown(proposal, {"data": f"{', '.join(bad)} holds NaN or infinite numbers"})
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="dsf-") as temporary:
            return _written(proposal, Path(temporary))
    return _written(proposal, folder)


def _unknown(proposal: Proposal, limits: Mapping[str, Any]) -> Certificate:
    return Certificate(
        claim=checker.sentence(proposal.name, dict(proposal.parameters)),
        verdict=Verdict.UNKNOWN,
        level=Level.DATA,
        method=proposal.method,
        limits=limits,
    )


def _written(proposal: Proposal, folder: Path) -> Certificate:
    files = folder / "certificates"
    files.mkdir(parents=True, exist_ok=True)
    (folder / "tensors").mkdir(exist_ok=True)
    stem = f"{len(list(files.glob('*.json'))):04d}-{proposal.name}"
    content = _content(proposal, f"tensors/{stem}.safetensors")
    tensors = {
        role: part.detach().cpu().clone(memory_format=torch.contiguous_format)
        for role, part in proposal.tensors.items()
    }
    data = save(tensors)
    replace_file(folder / "tensors" / f"{stem}.safetensors", lambda draft: draft.write_bytes(data))
    path = files / f"{stem}.json"
    text = checker.canonical(content)
    replace_file(path, lambda draft: draft.write_text(text, encoding="utf-8", newline="\n"))
    try:
        accepted = checker.check(path)
    except checker.Rejected as error:
        raise CheckerRefused(f"{proposal.name}: {error}") from None
    return Certificate(
        claim=content["claim"]["sentence"],
        verdict=Verdict(accepted),
        level=Level.DATA,
        method=proposal.method,
        bound=proposal.bound,
        observed=proposal.observed,
        witness=proposal.witness,
        evidence=proposal.evidence,
        assumptions=proposal.assumptions,
        limits=proposal.limits,
    )


def _content(proposal: Proposal, file: str) -> dict[str, Any]:
    parameters = {name: _plain(value) for name, value in proposal.parameters.items()}
    content = {
        "format": checker.FORMAT,
        "format_version": checker.FORMAT_VERSION,
        "claim": {
            "name": proposal.name,
            "parameters": parameters,
            "sentence": checker.sentence(proposal.name, parameters),
        },
        "verdict": proposal.verdict.value,
        "level": Level.DATA.value,
        "bound": None if proposal.bound is None else {"value": hexed(proposal.bound)},
        "observed": None if proposal.observed is None else hexed(proposal.observed),
        "subject": [_entry(role, part, file) for role, part in proposal.tensors.items()],
        "evidence": {name: _plain(value) for name, value in proposal.evidence.items()},
        "witness": None if proposal.witness is None else _plain(dict(proposal.witness)),
        "method": proposal.method,
        "assumptions": list(proposal.assumptions),
        "limits": {name: _plain(value) for name, value in proposal.limits.items()},
        "provenance": {},
        "arithmetic": {},
        "software": {"dsf": VERSION, "python": platform.python_version()},
    }
    return content | {"identity": checker.identity(content)}


def _entry(role: str, part: Tensor, file: str) -> dict[str, Any]:
    if part.dtype not in TYPES:
        raise TypeError(
            f"certify: '{role}' must be a real floating tensor, but it is {part.dtype}. "
            f"Certify the real and the imaginary part separately."
        )
    raw = part.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
    return {
        "role": role,
        "file": file,
        "tensor": role,
        "dtype": TYPES[part.dtype],
        "shape": list(part.shape),
        "sha256": hashlib.sha256(raw).hexdigest(),
    }


def hexed(value: float | Fraction) -> str:
    """A finite number as exact text: a hexadecimal float, or two hexadecimal integers."""
    if isinstance(value, Fraction):
        return f"{value.numerator:x}/{value.denominator:x}"
    return float(value).hex()


def _plain(value: Any) -> Any:
    if isinstance(value, float | Fraction):
        return hexed(value)
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
