"""Checked statements as data: proposed, written, and returned once the checker accepts them."""

import hashlib
import math
import platform
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from fractions import Fraction
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec

import torch
from safetensors.torch import save
from torch import Tensor

from dsf.certificates import checker
from dsf.runtime.argument_checks import checked
from dsf.runtime.distribution import VERSION
from dsf.runtime.files import read_inside, remove_inside, write_inside


class Verdict(Enum):
    """What is known about a claim.

    ``PROVED`` and ``REFUTED`` with an ``identity`` were accepted by the checker. ``ARGUED``: an
    identity by computer algebra or a short argument, which the checker cannot read.
    ``HOLDS_NUMERICALLY``: measured on stated cases. ``NOT_APPLICABLE``: the property is not defined
    for this mixer, or the input is too short for it. ``UNKNOWN``: none of these.
    """

    PROVED = "PROVED"
    REFUTED = "REFUTED"
    UNKNOWN = "UNKNOWN"
    HOLDS_NUMERICALLY = "HOLDS_NUMERICALLY"
    ARGUED = "ARGUED"
    NOT_APPLICABLE = "NOT APPLICABLE"


class Level(Enum):
    """What the claim is about.

    ``DATA``: the stored numbers, read as exact rationals. ``REAL``: the real-valued map defined by
    stored weights and a set of inputs, with rounding enclosed. ``FLOAT``: the program as it runs.
    """

    DATA = "data"
    REAL = "real"
    FLOAT = "float"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One claim about one subject, with its verdict and what the verdict rests on.

    Attributes:
        claim: the statement as a sentence, with what it quantifies over.
        verdict: what is known; only ``dsf.certify`` returns PROVED, once the checker has
            accepted the file.
        level: what the claim is about; a verdict at one level is not a verdict at another.
        scope: of what the verdict speaks: of the stored numbers, of one input, of a box of inputs.
        bound: the proven bound, with direction and unit in ``claim``; None where there is none.
        observed: what was measured on this input; never a proof about other inputs.
        witness: the case that refutes the claim; required for REFUTED.
        method: how the verdict was reached.
        evidence: what an independent checker needs to accept the verdict.
        assumptions: statements that the verdict depends on and no checker can test.
        limits: for UNKNOWN, what ended the search: boxes, seconds, missing libraries, bad data; for
            NOT_APPLICABLE the reason.
        identity: SHA-256 of the file that the checker has accepted; empty if it has seen none.
        file: path of that file inside its folder.
    """

    claim: str
    verdict: Verdict
    level: Level
    method: str
    scope: str = ""
    bound: float | None = None
    observed: float | None = None
    witness: Mapping[str, Any] | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    assumptions: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""
    file: str = ""

    def __post_init__(self) -> None:
        if self.verdict is Verdict.PROVED and not self.identity:
            raise ValueError(
                f"Certificate: PROVED needs the 'identity' of a file that the checker accepted, "
                f"which '{self.claim}' has not. Use ARGUED for an argument, HOLDS_NUMERICALLY for "
                f"what was measured."
            )
        if self.verdict is Verdict.REFUTED and not self.witness:
            raise ValueError(
                f"Certificate: REFUTED needs a witness, but there is none for '{self.claim}'. "
                f"Without a witness the verdict is UNKNOWN."
            )
        for name in ("bound", "observed"):
            value = getattr(self, name)
            if value is not None and math.isnan(value) and self.verdict is not Verdict.UNKNOWN:
                raise ValueError(
                    f"Certificate: '{name}' is nan, so nothing is known about '{self.claim}'; the "
                    f"verdict must be UNKNOWN."
                )

    def __bool__(self) -> bool:
        raise TypeError(
            "a certificate has no truth value, because its verdict may be UNKNOWN. Compare the "
            "verdict, as in certificate.verdict is Verdict.PROVED."
        )

    def __str__(self) -> str:
        said = self.verdict.value
        if self.verdict is Verdict.REFUTED and not self.identity:
            said += ", not seen by the checker"
        if self.scope:
            said += f" {self.scope}"
        parts = [f"{said} ({self.level.value}): {self.claim}"]
        if self.bound is not None:
            parts.append(f"bound {self.bound:.6g}")
        if self.observed is not None:
            parts.append(f"observed {self.observed:.6g}")
        if self.verdict in (Verdict.UNKNOWN, Verdict.NOT_APPLICABLE) and self.limits:
            parts.append(", ".join(f"{name}: {value}" for name, value in self.limits.items()))
        return "; ".join(parts)


Given = ParamSpec("Given")

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}
STORED, INPUT = "of the stored numbers", "on this input"
BOX = "for every point of the stored box"


@dataclass(frozen=True)
class Destination:
    """Where a certificate is written, and where its numbers come from.

    Attributes:
        folder: gets ``certificates/`` and ``tensors/``; None keeps nothing.
        provenance: such as the model, the layer, the head and the input; written into the file
            under ``unchecked``.
    """

    folder: Path | None
    provenance: Mapping[str, str] = field(default_factory=dict)


Where = Path | Destination | None


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """The result of a search before it has been checked; fields are as in ``Certificate``."""

    name: str
    verdict: Verdict = Verdict.UNKNOWN
    tensors: Mapping[str, Tensor]
    method: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)
    witness: Mapping[str, Any] | None = None
    bound: float | None = None
    observed: float | None = None
    assumptions: tuple[str, ...] = ()
    limits: Mapping[str, Any] = field(default_factory=dict)
    scope: str = ""


def claim(decide: Callable[Given, Certificate]) -> Callable[Given, Certificate]:
    """``decide`` with checked arguments, its tensors on the processor: there numbers are exact."""
    call = signature(decide)

    def there(role: str, part: Any) -> Any:
        if isinstance(part, tuple):
            return tuple(there(role, each) for each in part)
        if not isinstance(part, Tensor):
            return part
        if part.dtype is not torch.bool:
            certifiable(role, part)
        return part.cpu()

    @checked
    @wraps(decide)
    def decided(*args: Given.args, **named: Given.kwargs) -> Certificate:
        given = call.bind(*args, **named)
        given.arguments |= {name: there(name, part) for name, part in given.arguments.items()}
        return decide(*given.args, **given.kwargs)

    return decided


def settled(proposal: Proposal, witness: Mapping[str, Any] | None, **found: Any) -> Proposal:
    """The proposal as PROVED, or as REFUTED by ``witness``, with other fields and no limits."""
    verdict = Verdict.PROVED if witness is None else Verdict.REFUTED
    return replace(proposal, verdict=verdict, witness=witness, limits={}, **found)


class CheckerRefused(RuntimeError):
    """The checker rejected a proposal of the library: an error in the library, not a verdict."""


def issued(proposal: Proposal, where: Where = None) -> Certificate:
    """The certificate of a proposal, after the independent checker has accepted its file.

    Written to the folder of ``where``, or to a temporary one that is deleted afterwards. What is
    UNKNOWN has no evidence and therefore no file. If a tensor has NaN or infinite entries, or more
    bytes than the checker reads, the verdict is UNKNOWN.
    """
    place = where if isinstance(where, Destination) else Destination(where)
    limits = proposal.limits
    has_zeros = proposal.name == "decay"  # there minus infinity means zero
    bad = [
        role
        for role, part in proposal.tensors.items()
        if not bool((part.isfinite() | (part.isneginf() & has_zeros)).all())
    ]
    if bad:
        limits = {"data": f"{', '.join(bad)} holds NaN or infinite numbers"}
    elif proposal.verdict is not Verdict.UNKNOWN:
        data = save({role: _plain_tensor(part) for role, part in proposal.tensors.items()})
        if len(data) <= checker.MAX_TENSOR_BYTES:
            if place.folder is not None:
                return _written(proposal, place, place.folder, data)
            with tempfile.TemporaryDirectory(prefix="dsf-") as temporary:
                return _written(proposal, place, Path(temporary), data)
        limits = {"data": f"more than the {checker.MAX_TENSOR_BYTES >> 20} MiB that can be checked"}
    return _certificate(proposal, place, verdict=Verdict.UNKNOWN, limits=limits)


def where_conclusive(
    decided: Iterable[Proposal], undecided: Proposal, where: Where = None, limit: str = "enclosure"
) -> Certificate:
    """Issue the first verdict that the checker accepts, else UNKNOWN with its first refusal.

    It refuses where its enclosures or its budget do not show the verdict.
    """
    reasons = []
    for proposal in decided:
        try:
            return issued(proposal, where)
        except CheckerRefused as error:
            reasons.append(str(error))
    return issued(replace(undecided, limits={limit: reasons[0]}), where)


def _write_evidence(folder: Path, name: str, data: bytes) -> None:
    """Write a file that is named by what it holds; one that is there already must hold it."""
    try:
        there = read_inside(folder, name, checker.MAX_TENSOR_BYTES)
    except FileNotFoundError:
        write_inside(folder, name, data)
        return
    if there != data:
        raise FileExistsError(
            f"certify: {folder / name} holds something else than its name says, and is not "
            "overwritten. Remove it, or choose another folder."
        )


def certifiable(role: str, part: Tensor) -> None:
    """Raise unless a certificate can speak about the tensor."""
    if not isinstance(part, Tensor):
        raise TypeError(
            f"certify: '{role}' must be a torch tensor, such as layer.map(), but it is "
            f"{type(part).__name__}."
        )
    if part.dtype not in TYPES:
        cure = (
            "Certify the real and the imaginary part separately."
            if part.is_complex()
            else "Convert it first, for example with .float(), which changes no number of 8 bits."
        )
        raise TypeError(
            f"certify: '{role}' must be a real floating tensor of 16 bits or more, but it is "
            f"{part.dtype}. {cure}"
        )
    if not part.numel():
        raise ValueError(
            f"certify: '{role}' has the shape {tuple(part.shape)} and holds no number, so nothing "
            f"can be certified about it."
        )


def _certificate(proposal: Proposal, place: Destination, **found: Any) -> Certificate:
    scope = INPUT if "input" in place.provenance else STORED
    return Certificate(
        claim=checker.sentence(proposal.name, _plain(proposal.parameters)),
        level=Level(checker.CLAIMS[proposal.name].level),
        scope=proposal.scope or (BOX if "box" in proposal.parameters else scope),
        method=proposal.method,
        observed=proposal.observed,
        **found,
    )


def _written(proposal: Proposal, place: Destination, folder: Path, data: bytes) -> Certificate:
    """Files are named by what they hold, so none is written over another one."""
    stored = f"tensors/{hashlib.sha256(data).hexdigest()[:32]}.safetensors"
    content = _content(proposal, place, stored)
    file = f"certificates/{proposal.name}-{content['identity'][:16]}.json"
    for name, part in ((stored, data), (file, checker.canonical(content).encode("ascii"))):
        if place.folder is None:  # a temporary folder, which is not written to disk at once
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(part)
        else:
            _write_evidence(folder, name, part)
    try:
        accepted = checker.examine(folder / file)
    except checker.Rejected as error:
        remove_inside(folder, file)
        raise CheckerRefused(f"{proposal.name}: {error}") from None
    return _certificate(
        proposal,
        place,
        verdict=Verdict(accepted.verdict),
        bound=proposal.bound,
        witness=proposal.witness,
        evidence=proposal.evidence,
        assumptions=proposal.assumptions,
        limits=proposal.limits,
        identity=accepted.identity,
        file=file,
    )


def _content(proposal: Proposal, place: Destination, file: str) -> dict[str, Any]:
    parameters = _plain(proposal.parameters)
    observed = proposal.observed
    if observed is not None and not math.isfinite(observed):
        observed = None
    parts = {role: stored(part) for role, part in sorted(proposal.tensors.items())}
    subject = [
        {"role": role, "file": file, "tensor": role, "dtype": part.kind, "shape": list(part.shape),
         "sha256": hashlib.sha256(part.data).hexdigest()}
        for role, part in parts.items()
    ]  # fmt: skip
    content = {
        "format": checker.FORMAT,
        "format_version": checker.FORMAT_VERSION,
        "claim": {
            "name": proposal.name,
            "parameters": parameters,
            "sentence": checker.sentence(proposal.name, parameters),
        },
        "verdict": proposal.verdict.value,
        "level": checker.CLAIMS[proposal.name].level,
        "subject": subject,
        "evidence": _plain(proposal.evidence) if proposal.verdict is Verdict.PROVED else {},
        "witness": None if proposal.witness is None else _plain(proposal.witness),
        "unchecked": {
            "assumptions": list(proposal.assumptions),
            "limits": {name: str(value) for name, value in proposal.limits.items()},
            "method": proposal.method,
            "observed": None if observed is None else written(observed),
            "provenance": dict(place.provenance),
            "software": {"dsf": VERSION, "python": platform.python_version()},
        },
    }
    return content | {"identity": checker.identity(content)}


def _plain_tensor(part: Tensor) -> Tensor:
    return part.detach().cpu().clone(memory_format=torch.contiguous_format)


def stored(part: Tensor) -> checker.Tensor:
    """The tensor as the checker reads it from a file."""
    raw = _plain_tensor(part).view(torch.uint8).numpy().tobytes()
    return checker.Tensor(TYPES[part.dtype], tuple(part.shape), memoryview(raw))


def written(value: float | Fraction) -> str:
    """A finite number in the only form that the format has for it."""
    exact = Fraction(value)
    if checker.is_float(exact):
        return float(exact).hex() if exact else "0x0.0p+0"
    return f"{exact.numerator}/{exact.denominator}"


def as_float(value: Fraction) -> float:
    """Return the nearest float, infinite beyond the largest one."""
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def _plain(value: Any) -> Any:
    if isinstance(value, float | Fraction):
        return written(value)
    if isinstance(value, Mapping):
        return {name: _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
