"""Laws that every mixer must satisfy, measured on stated cases; also for user-defined mixers.

- ``judged``: the certificate of a statement with a limit, from its measured cases.
- ``MixerUnderTest``: the mixer that is tested, as a class with random instances or as one instance.
- ``check_mixer``: all laws, followed by the functions that measure the cases of each.
"""

import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from dsf.certificates.certificate import Certificate, Level, Verdict
from dsf.evaluate import attention_map, chunkwise, convolution, recurrent, respond, row_blocks, scan
from dsf.evaluate.invariant import varying
from dsf.inspection.rebuild import relative_error
from dsf.mixers.base import axes_of
from dsf.runtime.argument_checks import checked
from dsf.systems.composite import ExplicitMap
from dsf.systems.system import System

Case = tuple[Mapping[str, Any], Callable[[], float]]
"""A label that describes a case, and the function that measures it."""


def judged(
    law: tuple[str, str, str, float],
    cases: Iterable[Case],
    *,
    method: str,
    from_below: bool = False,
) -> Certificate:
    """HOLDS_NUMERICALLY if every case is within the limit, else REFUTED by the worst case.

    A case that raises an error or measures nan violates the law. Without a case the verdict is
    UNKNOWN.

    Args:
        law: the name of the class that is tested; of the law; its statement; and the limit.
        from_below: whether the limit is a minimum instead of a maximum.
    """
    owner, name, sentence, figure = law
    worse = operator.lt if from_below else operator.gt
    verdict = Verdict.UNKNOWN
    worst: float | None = None
    where: Mapping[str, Any] = {}
    for label, measure in cases:
        verdict = Verdict.HOLDS_NUMERICALLY
        try:
            measured = measure()
        except Exception as error:  # raised by the code under test
            worst, where = None, {**label, "error": f"{type(error).__name__}: {error}"}
            break
        if math.isnan(measured):
            measured = -math.inf if from_below else math.inf
        if worst is None or worse(measured, worst):
            worst, where = measured, label
    if "error" in where or (worst is not None and worse(worst, figure)):
        verdict = Verdict.REFUTED
    refuted = verdict is Verdict.REFUTED
    return Certificate(
        claim=f"{owner}, {name}: {sentence}",
        verdict=verdict,
        level=Level.FLOAT,
        method=method,
        bound=figure,
        observed=worst,
        witness={"law": name, **where, "figure": worst} if refuted else None,
        limits={"reason": "no case"} if verdict is Verdict.UNKNOWN else {},
    )


def bent(part: Shaped[Tensor, "*axes"], rng: torch.Generator) -> Shaped[Tensor, "*axes"]:
    """``part`` with every entry slightly smaller and none zero, so that decays stay below one."""
    spread = torch.rand(part.shape, generator=rng, dtype=torch.float64).to(part.device)
    smaller = part * (0.99 - 0.1 * spread).to(part.real.dtype)
    return torch.where(part == 0, (0.01 + 0.1 * spread).to(part.dtype), smaller)


LENGTHS = (1, 2, 9, 65)


class MixerUnderTest:
    """The mixer under test: a class with random instances of any length, or one instance."""

    def __init__(self, mixer_or_class: Any, seed: int):
        self._given, self._seed = mixer_or_class, seed
        self._drawn = isinstance(mixer_or_class, type)
        needed = ("system", "signal", "draw") if self._drawn else ("system", "signal")
        missing = [name for name in needed if not hasattr(mixer_or_class, name)]
        if missing or not is_dataclass(mixer_or_class):
            lacking = f"has no {', '.join(missing)}" if missing else "is not a dataclass"
            raise TypeError(
                f"check_mixer: 'mixer_or_class' must be a dataclass with system() and signal(), "
                f"and for a class also draw(rng, steps=...), but {mixer_or_class!r} {lacking}. "
                f"Derive it from dsf.mixers.Mixer."
            )
        owner: Any = mixer_or_class if self._drawn else type(mixer_or_class)
        self.owner: str = owner.__name__

    @property
    def lengths(self) -> tuple[int, ...]:
        """Numbers of tokens of the instances; 0 for a single instance that was passed."""
        return LENGTHS if self._drawn else (0,)

    def mixer(self, steps: int) -> Any:
        """The instance, in double precision."""
        if not self._drawn:
            return as_type(self._given, torch.float64)
        rng = torch.Generator().manual_seed(self._seed)
        return as_type(self._given.draw(rng, steps=steps), torch.float64)

    def label(self, steps: int, **more: Any) -> dict[str, Any]:
        """The label of a case."""
        return {**more, "tokens": steps} if self._drawn else more


def floating(mixer: Any) -> dict[str, Tensor]:
    """The real and complex tensors of a mixer by name."""
    parts = {field.name: getattr(mixer, field.name) for field in fields(mixer)}
    return {
        name: part
        for name, part in parts.items()
        if isinstance(part, Tensor) and (part.is_floating_point() or part.is_complex())
    }


def as_type(mixer: Any, dtype: torch.dtype) -> Any:
    """The mixer in another precision; complex parts stay complex."""
    parts = floating(mixer)
    changed = {
        name: part.to(dtype.to_complex() if part.is_complex() else dtype)
        for name, part in parts.items()
    }
    return replace(mixer, **changed)


USUAL, SHORT = 9, 3
EVALUATORS = {
    "scan": scan,
    "chunks of 1": partial(chunkwise, size=1),
    "chunks of 4": partial(chunkwise, size=4),
    "chunks of 64": partial(chunkwise, size=64),
}
SINGLE = 1e-5
SLOPE = 1e-6
"""Limit on the relative error of gradients: finite differences have half the digits."""
NUDGE = 1e-5

Reference = Callable[[Any], Tensor]


@checked
def check_mixer(
    mixer_or_class: Any,
    reference: Reference | None = None,
    *,
    causal: bool = True,
    tolerance: float = 1e-12,
    seed: int = 0,
    expected_failures: Mapping[str, str] | None = None,
) -> tuple[Certificate, ...]:
    """Measure the laws that every mixer of ``dsf`` satisfies on a mixer of your own.

    A class is tested with random instances of several lengths, which finds more errors than one
    instance. A violated law raises nothing: its certificate is REFUTED and the witness names the
    case.

    Args:
        mixer_or_class: a frozen dataclass of coefficients with ``system()`` and ``signal()``; a
            class also needs ``draw(rng, steps=...)``.
        reference: a direct implementation, ``mixer -> *batch time channel``, such as the loop of
            your paper.
        causal: whether no token may read later tokens.
        tolerance: the largest relative error in double precision.
        seed: of the random instances.
        expected_failures: laws that your mixer violates on purpose, each with the reason, which is
            recorded in its certificate.

    Raises:
        TypeError: if it is not such a class or instance.
        ValueError: if a law that is expected to fail holds, or has an unknown name.

    >>> import dsf
    >>> for certificate in dsf.testing.check_mixer(dsf.mixers.DeltaNet):
    ...     assert certificate.verdict is dsf.certify.Verdict.HOLDS_NUMERICALLY, certificate.witness
    """
    subject = MixerUnderTest(mixer_or_class, seed)
    laws = [
        ("evaluators", "every evaluator gives the same response", tolerance, _evaluators),
        ("map", "the map times the signal is the response", tolerance, _map),
        ("row blocks", "blocks of rows are the rows of the map", tolerance, _row_blocks),
        ("gradients", "they are those of finite differences", SLOPE, _gradients),
        ("number type", "single precision stays single and is right", SINGLE, _number_type),
        ("device", "nothing is made elsewhere than the parts are", tolerance, _device),
    ]
    if causal:
        laws.append(("causality", "no token reads the future", tolerance, _causality))
    if reference is not None:
        against = partial(_reference, reference=reference)
        laws.append(("reference", "the response is that of the reference", tolerance, against))
    method = "measured on one instance"
    if isinstance(mixer_or_class, type):
        lengths = ", ".join(map(str, subject.lengths))
        method = f"measured on random instances of {lengths} tokens, seed {seed}"
    made = subject.owner, "making", "it makes a system and a signal that fit", 0.0
    first = judged(made, _making(subject), method=method)
    if first.verdict is Verdict.REFUTED:
        return (first,)
    found = {
        name: judged((subject.owner, name, sentence, figure), cases(subject), method=method)
        for name, sentence, figure, cases in laws
    }
    parts = subject.owner, "parts", "every tensor takes part", 1e-9
    found["parts"] = judged(parts, _parts(subject), method=method, from_below=True)
    for law, reason in (expected_failures or {}).items():
        if law not in found:
            raise ValueError(
                f"expected_failures: there is no law '{law}'; the laws are {', '.join(found)}."
            )
        if found[law].verdict is not Verdict.REFUTED:
            raise ValueError(
                f"expected_failures: {subject.owner} was expected to violate '{law}' ({reason}), "
                f"but the verdict is {found[law].verdict.value}. Remove it from expected_failures."
            )
        found[law] = replace(found[law], limits={"expected": reason})
    return (first, *found.values())


def _answer(mixer: Any, method: Any = None) -> Tensor:
    return respond(mixer.system(), mixer.signal(), method=method)


def _making(subject: MixerUnderTest) -> Iterator[Case]:
    def flaw(steps: int) -> float:
        return 0.0 * _answer(subject.mixer(steps)).numel()

    for steps in {*subject.lengths, USUAL, SHORT}:
        yield subject.label(steps), partial(flaw, steps)


def _evaluators(subject: MixerUnderTest) -> Iterator[Case]:
    for steps in subject.lengths:

        def apart(method: Any, steps: int = steps) -> float:
            mixer = subject.mixer(steps)
            if isinstance(mixer.system(), ExplicitMap):
                return 0.0
            return relative_error(_answer(mixer, method), _answer(mixer, recurrent))

        def transformed(steps: int = steps) -> float:
            system = subject.mixer(steps).system()
            if not isinstance(system, System) or varying(system) is not None:
                return 0.0
            return apart(convolution, steps)

        yield subject.label(steps, evaluator="default"), partial(apart, None)
        for name, method in EVALUATORS.items():
            yield subject.label(steps, evaluator=name), partial(apart, method)
        yield subject.label(steps, evaluator="convolution"), transformed


def _map(subject: MixerUnderTest) -> Iterator[Case]:
    def apart(steps: int) -> float:
        mixer = subject.mixer(steps)
        system, signal, response = mixer.system(), mixer.signal(), _answer(mixer)
        weights = attention_map(system)
        mixed = weights @ signal.flatten(-3, -2).to(weights.dtype)
        free = respond(system, torch.zeros_like(signal))
        return relative_error(mixed.unflatten(-2, response.shape[-3:-1]) + free, response)

    for steps in subject.lengths:
        yield subject.label(steps), partial(apart, steps)


def _row_blocks(subject: MixerUnderTest) -> Iterator[Case]:
    def apart(steps: int, size: int) -> float:
        system = subject.mixer(steps).system()
        blocks = [block.weights for block in row_blocks(system, size=size)]
        return relative_error(torch.cat(blocks, dim=-2), attention_map(system))

    for steps in subject.lengths:
        for size in (1, 4, 64):
            yield subject.label(steps, size=size), partial(apart, steps, size)


def _causality(subject: MixerUnderTest) -> Iterator[Case]:
    def of_the_map() -> float:
        mixer = subject.mixer(USUAL)
        signal, response, weights = mixer.signal(), _answer(mixer), attention_map(mixer.system())
        blocks = weights.unflatten(-1, signal.shape[-3:-1]).unflatten(-3, response.shape[-3:-1])
        entries = blocks.movedim(-2, -3)  # query (row), key (column), ports
        ahead = torch.ones(entries.shape[-4:-2], dtype=torch.bool, device=weights.device).triu(1)
        return relative_error(entries * ~ahead[..., None, None], entries)

    def of_the_parts() -> float:
        mixer = subject.mixer(USUAL)
        kept = _answer(mixer).shape[-3] // 2 + 1
        rng, changed = torch.Generator().manual_seed(1), {}
        for field in fields(mixer):
            part, axes = getattr(mixer, field.name), (axes_of(field.type) or "").split()
            axis = next((k - len(axes) for k, a in enumerate(axes) if a in ("time", "read")), None)
            if axis is not None and field.name in floating(mixer):
                past, future = part.tensor_split([kept], dim=axis)
                changed[field.name] = torch.cat([past, bent(future, rng)], dim=axis)
        after = _answer(replace(mixer, **changed))
        return relative_error(after[..., :kept, :, :], _answer(mixer)[..., :kept, :, :])

    yield {"of": "the map"}, of_the_map
    yield {"of": "the response, when later parts change"}, of_the_parts


def _gradients(subject: MixerUnderTest) -> Iterator[Case]:
    def apart(name: str) -> float:
        mixer = subject.mixer(SHORT)
        part, rng = floating(mixer)[name], torch.Generator().manual_seed(2)
        weights = torch.randn(_answer(mixer).shape, generator=rng, dtype=torch.float64)

        def total(value: Tensor) -> Tensor:
            answer = _answer(replace(mixer, **{name: value}))
            return (answer.real * weights.to(answer.device)).sum()

        step = bent(part, rng) - part
        above, below = total(part + NUDGE * step), total(part - NUDGE * step)
        variable = part.detach().clone().requires_grad_(True)
        (slope,) = torch.autograd.grad(total(variable), variable)
        terms = (slope.conj() * step).real
        expected, size = terms.sum(), terms.abs().sum().clamp(min=torch.finfo(torch.float64).tiny)
        return float(((above - below) / (2 * NUDGE) - expected).abs() / size)

    for name in floating(subject.mixer(SHORT)):
        yield subject.label(SHORT, part=name), partial(apart, name)


def _number_type(subject: MixerUnderTest) -> Iterator[Case]:
    def apart() -> float:
        mixer = subject.mixer(USUAL)
        wide, small = _answer(mixer), _answer(as_type(mixer, torch.float32))
        if small.dtype != (torch.complex64 if wide.is_complex() else torch.float32):
            return math.inf
        return relative_error(small.to(wide.dtype), wide)

    yield subject.label(USUAL), apart


def _device(subject: MixerUnderTest) -> Iterator[Case]:
    """With another default device, tensors that are created without a device cause an error."""

    def apart() -> float:
        mixer = subject.mixer(USUAL)
        expected = _answer(mixer)
        with torch.device("meta"):
            system, signal = mixer.system(), mixer.signal()
        return relative_error(respond(system, signal), expected)

    yield subject.label(USUAL), apart


def _parts(subject: MixerUnderTest) -> Iterator[Case]:
    def moved(name: str) -> float:
        mixer = subject.mixer(USUAL)
        part = bent(floating(mixer)[name], torch.Generator().manual_seed(3))
        return relative_error(_answer(replace(mixer, **{name: part})), _answer(mixer))

    for name in floating(subject.mixer(USUAL)):
        yield subject.label(USUAL, part=name), partial(moved, name)


def _reference(subject: MixerUnderTest, reference: Reference) -> Iterator[Case]:
    def apart(steps: int) -> float:
        mixer = subject.mixer(steps)
        expected, response = reference(mixer), _answer(mixer)
        if response.shape[-2:] == (1, 1) and response.ndim > expected.ndim:
            response = response[..., 0, 0].mT
        else:
            response = response.squeeze(-1 if response.shape[-1] == 1 else -2)
        return relative_error(response, expected)

    for steps in subject.lengths:
        yield subject.label(steps), partial(apart, steps)
