"""Tests of models, kernels, adapters and mixers that were written elsewhere.

- ``check_mixer``: the laws of mixers, measured on random instances of a class or on one instance.
- ``assert_layer_exact``: one layer, or every layer of a model, in a test.
- ``check_adapter``: the laws of adapters, measured on a model, one call of it and its variants (a
  ``ModelUnderTest``): other parameters, lengths, samples or padding.
"""

import copy
import math
import operator
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from dsf import inspection
from dsf.certificates import Certificate, Level, Verdict
from dsf.evaluate import attention_map, chunkwise, convolution, recurrent, respond, row_blocks, scan
from dsf.evaluate.invariant import varying
from dsf.inspection.capture.precision import TOLERANCE
from dsf.inspection.examine import Examination, examine
from dsf.inspection.families.registry import known_modules
from dsf.inspection.rebuild import relative_error, whole_and_error
from dsf.runtime.argument_checks import checked
from dsf.systems.coefficient import axes_of, cast
from dsf.systems.composite import ExplicitMap
from dsf.systems.system import System

__all__ = ["assert_layer_exact", "check_adapter", "check_mixer"]

Case = tuple[Mapping[str, Any], Callable[[], float]]
"""A label that describes a case, and the function that measures it."""


class Law(NamedTuple):
    """A law and its limit, a maximum or ``from_below`` a minimum of what the cases measure."""

    name: str
    sentence: str
    limit: float
    cases: Iterable[Case]
    from_below: bool = False


def judged(owner: str, law: Law, *, method: str) -> Certificate:
    """HOLDS_NUMERICALLY if every case is within the limit, else REFUTED by the worst case.

    A case that raises an error or measures nan violates the law. Without a case the verdict is
    UNKNOWN. ``owner`` is the name of the class that is tested.
    """
    worse = operator.lt if law.from_below else operator.gt
    verdict = Verdict.UNKNOWN
    worst: float | None = None
    where: Mapping[str, Any] = {}
    for label, measure in law.cases:
        verdict = Verdict.HOLDS_NUMERICALLY
        try:
            measured = measure()
        except Exception as error:  # raised by the code under test
            worst, where = None, {**label, "error": f"{type(error).__name__}: {error}"}
            break
        if math.isnan(measured):
            measured = -math.inf if law.from_below else math.inf
        if worst is None or worse(measured, worst):
            worst, where = measured, label
    if "error" in where or (worst is not None and worse(worst, law.limit)):
        verdict = Verdict.REFUTED
    refuted = verdict is Verdict.REFUTED
    return Certificate(
        claim=f"{owner}, {law.name}: {law.sentence}",
        verdict=verdict,
        level=Level.FLOAT,
        method=method,
        bound=law.limit,
        observed=worst,
        witness={"law": law.name, **where, "figure": worst} if refuted else None,
        limits={"reason": "no case"} if verdict is Verdict.UNKNOWN else {},
    )


def bent(part: Shaped[Tensor, "*axes"], rng: torch.Generator) -> Shaped[Tensor, "*axes"]:
    """``part`` with every entry slightly smaller and none zero, so that decays stay below one."""
    spread = torch.rand(part.shape, generator=rng, dtype=torch.float64).to(part.device)
    smaller = part * (0.99 - 0.1 * spread).to(part.real.dtype)
    return torch.where(part == 0, (0.01 + 0.1 * spread).to(part.dtype), smaller)


LENGTHS = (1, 2, 9, 65)


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
    parts = floating(mixer).items()
    return replace(mixer, **{name: cast(part, dtype=dtype) for name, part in parts})


USUAL, SHORT = 9, 3
EVALUATORS: dict[str, Any] = {
    "default": None,
    "scan": scan,
    "chunks of 1": partial(chunkwise, size=1),
    "chunks of 4": partial(chunkwise, size=4),
    "chunks of 64": partial(chunkwise, size=64),
    "convolution": convolution,
}
SINGLE = 1e-5
SLOPE = 1e-6
"""Limit on the relative error of gradients: finite differences have half the digits."""
NUDGE = 1e-5

Reference = Callable[[Any], Tensor]
Cases = Iterable[tuple[int, Mapping[str, Any]]]
"""Numbers of tokens, and what else a law measures a mixer with."""


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
    is_class = isinstance(mixer_or_class, type)
    owner = _name_of_mixer(mixer_or_class)
    lengths = LENGTHS if is_class else (0,)
    method = "measured on one instance"
    if is_class:
        listed = ", ".join(map(str, lengths))
        method = f"measured on random instances of {listed} tokens, seed {seed}"

    def mixer(steps: int) -> Any:
        if not is_class:
            return as_type(mixer_or_class, torch.float64)
        rng = torch.Generator().manual_seed(seed)
        return as_type(mixer_or_class.draw(rng, steps=steps), torch.float64)

    def of(figure: Callable[..., float], cases: Cases) -> Iterator[Case]:
        def measured(steps: int, case: Mapping[str, Any]) -> float:
            return figure(mixer(steps), **case)

        for steps, case in cases:
            label = {**case, "tokens": steps} if is_class else case
            yield label, partial(measured, steps, case)

    every: Cases = [(steps, {}) for steps in lengths]
    makes = of(lambda made: 0.0 * _answer(made).numel(), [*every, (USUAL, {}), (SHORT, {})])
    making = Law("making", "it makes a system and a signal that fit", 0.0, makes)
    first = judged(owner, making, method=method)
    if first.verdict is Verdict.REFUTED:
        return (first,)
    evaluators = [(steps, {"evaluator": name}) for steps in lengths for name in EVALUATORS]
    sizes = [(steps, {"size": size}) for steps in lengths for size in (1, 4, 64)]
    runs, blocks = of(_evaluated, evaluators), of(_in_blocks, sizes)
    parts = [{"part": name} for name in floating(mixer(SHORT))]
    short, usual = ([(steps, part) for part in parts] for steps in (SHORT, USUAL))
    single, on_meta = (of(figure, [(USUAL, {})]) for figure in (_in_single, _on_meta))
    laws = [
        Law("evaluators", "every evaluator gives the same response", tolerance, runs),
        Law("map", "the map times the signal is the response", tolerance, of(_mapped, every)),
        Law("row blocks", "blocks of rows are the rows of the map", tolerance, blocks),
        Law("gradients", "they are those of finite differences", SLOPE, of(_gradient, short)),
        Law("number type", "single precision stays single and is right", SINGLE, single),
        Law("device", "nothing is made elsewhere than the parts are", tolerance, on_meta),
    ]
    if causal:
        ahead = of(_ahead, [(USUAL, {"of": each}) for each in AHEAD])
        laws.append(Law("causality", "no token reads the future", tolerance, ahead))
    if reference is not None:
        against = of(partial(_referred, reference), every)
        laws.append(Law("reference", "the response is that of the reference", tolerance, against))
    laws.append(Law("parts", "every tensor takes part", 1e-9, of(_moved, usual), from_below=True))
    found = {law.name: judged(owner, law, method=method) for law in laws}
    for name, reason in (expected_failures or {}).items():
        if name not in found:
            raise ValueError(
                f"expected_failures: there is no law '{name}'; the laws are {', '.join(found)}."
            )
        if found[name].verdict is not Verdict.REFUTED:
            raise ValueError(
                f"expected_failures: {owner} was expected to violate '{name}' ({reason}), "
                f"but the verdict is {found[name].verdict.value}. Remove it from expected_failures."
            )
        found[name] = replace(found[name], limits={"expected": reason})
    return (first, *found.values())


def _answer(mixer: Any, method: Any = None) -> Tensor:
    return respond(mixer.system(), mixer.signal(), method=method)


def _name_of_mixer(given: Any) -> str:
    is_class = isinstance(given, type)
    needed = ("system", "signal", "draw") if is_class else ("system", "signal")
    missing = [name for name in needed if not hasattr(given, name)]
    if missing or not is_dataclass(given):
        lacking = f"has no {', '.join(missing)}" if missing else "is not a dataclass"
        raise TypeError(
            f"check_mixer: 'mixer_or_class' must be a dataclass with system() and signal(), "
            f"and for a class also draw(rng, steps=...), but {given!r} {lacking}. "
            f"Derive it from dsf.mixers.Mixer."
        )
    owner: Any = given if is_class else type(given)
    return str(owner.__name__)


def _evaluated(mixer: Any, evaluator: str) -> float:
    system, method = mixer.system(), EVALUATORS[evaluator]
    changes = not isinstance(system, System) or varying(system) is not None
    if isinstance(system, ExplicitMap) or (method is convolution and changes):
        return 0.0
    return relative_error(_answer(mixer, method), _answer(mixer, recurrent))


def _mapped(mixer: Any) -> float:
    system, signal, response = mixer.system(), mixer.signal(), _answer(mixer)
    weights = attention_map(system)
    mixed = weights @ signal.flatten(-3, -2).to(weights.dtype)
    free = respond(system, torch.zeros_like(signal))
    return relative_error(mixed.unflatten(-2, response.shape[-3:-1]) + free, response)


def _in_blocks(mixer: Any, size: int) -> float:
    system = mixer.system()
    blocks = [block.weights for block in row_blocks(system, size=size)]
    return relative_error(torch.cat(blocks, dim=-2), attention_map(system))


def _map_ahead(mixer: Any) -> float:
    signal, response, weights = mixer.signal(), _answer(mixer), attention_map(mixer.system())
    blocks = weights.unflatten(-1, signal.shape[-3:-1]).unflatten(-3, response.shape[-3:-1])
    entries = blocks.movedim(-2, -3)  # query (row), key (column), ports
    ahead = torch.ones(entries.shape[-4:-2], dtype=torch.bool, device=weights.device).triu(1)
    return relative_error(entries * ~ahead[..., None, None], entries)


def _response_ahead(mixer: Any) -> float:
    kept = _answer(mixer).shape[-3] // 2 + 1
    rng, changed = torch.Generator().manual_seed(1), {}
    for each in fields(mixer):
        part, axes = getattr(mixer, each.name), (axes_of(each.type) or "").split()
        axis = next((k - len(axes) for k, a in enumerate(axes) if a in ("time", "read")), None)
        if axis is not None and each.name in floating(mixer):
            past, future = part.tensor_split([kept], dim=axis)
            changed[each.name] = torch.cat([past, bent(future, rng)], dim=axis)
    after = _answer(replace(mixer, **changed))
    return relative_error(after[..., :kept, :, :], _answer(mixer)[..., :kept, :, :])


AHEAD = {"the map": _map_ahead, "the response, when later parts change": _response_ahead}


def _ahead(mixer: Any, of: str) -> float:
    return AHEAD[of](mixer)


def _gradient(mixer: Any, part: str) -> float:
    value, rng = floating(mixer)[part], torch.Generator().manual_seed(2)
    weights = torch.randn(_answer(mixer).shape, generator=rng, dtype=torch.float64)

    def total(value: Tensor) -> Tensor:
        answer = _answer(replace(mixer, **{part: value}))
        return (answer.real * weights.to(answer.device)).sum()

    step = bent(value, rng) - value
    above, below = total(value + NUDGE * step), total(value - NUDGE * step)
    variable = value.detach().clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(total(variable), variable)
    terms = (slope.conj() * step).real
    expected, size = terms.sum(), terms.abs().sum().clamp(min=torch.finfo(torch.float64).tiny)
    return float(((above - below) / (2 * NUDGE) - expected).abs() / size)


def _in_single(mixer: Any) -> float:
    wide, small = _answer(mixer), _answer(as_type(mixer, torch.float32))
    if small.dtype != (torch.complex64 if wide.is_complex() else torch.float32):
        return math.inf
    return relative_error(small.to(wide.dtype), wide)


def _on_meta(mixer: Any) -> float:
    """With another default device, tensors that are created without a device cause an error."""
    expected = _answer(mixer)
    with torch.device("meta"):
        system, signal = mixer.system(), mixer.signal()
    return relative_error(respond(system, signal), expected)


def _moved(mixer: Any, part: str) -> float:
    changed = bent(floating(mixer)[part], torch.Generator().manual_seed(3))
    return relative_error(_answer(replace(mixer, **{part: changed})), _answer(mixer))


def _referred(reference: Reference, mixer: Any) -> float:
    expected, response = reference(mixer), _answer(mixer)
    if response.shape[-2:] == (1, 1) and response.ndim > expected.ndim:
        response = response[..., 0, 0].mT
    else:
        response = response.squeeze(-1 if response.shape[-1] == 1 else -2)
    return relative_error(response, expected)


@checked
def assert_layer_exact(
    module: nn.Module,
    *inputs: Any,
    tolerance: float | None = None,
    rounding: float | None = None,
    adapters: Sequence[inspection.Adapter] = (),
    probe: Mapping[str, inspection.Probe] | Sequence[str] = (),
    **named: Any,
) -> inspection.Inspection:
    """Assert that every token mixer of ``module`` computes what its formula says.

    Args:
        module: a layer, or a model.
        inputs, named: what it is called with.
        tolerance: the largest difference of a rebuilt layer from its module in float64, relative;
            1e-12 by default.
        rounding: the largest difference of this run from the module in float64, relative; by
            default what the number type and the length explain.
        adapters, probe: as for ``dsf.inspect``.

    Returns:
        The inspection, with both numbers of every layer.

    Raises:
        AssertionError: if a layer is not reproduced, was not read, or is rounded too much.
        InspectionError: if the module cannot be run, or no token mixer is found in it.

    >>> import torch
    >>> from dsf.testing import assert_layer_exact
    >>> inspection = assert_layer_exact(torch.nn.GRU(3, 4, batch_first=True), torch.ones(1, 5, 3))
    >>> inspection[0].formula < 1e-12
    True
    """
    options: dict[str, Any] = {"tolerance": tolerance, "adapters": adapters, "probe": probe}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", inspection.RoundingWarning)
        try:
            found = inspection.inspect(module, *inputs, **options, **named)
        except inspection.ReconstructionError as error:
            raise AssertionError(str(error)) from error
    faults = [f"{missed.name}: {missed.reason}" for missed in found.unsupported]
    if rounding is None:
        faults += [
            str(each.message) for each in caught if each.category is inspection.RoundingWarning
        ]
    else:
        faults += [
            f"{layer.name}: the run differs by {layer.rounding:.1e} relative from its module in "
            f"float64, above {rounding:.0e}"
            for layer in found
            if not layer.rounding <= rounding
        ]
    if faults:
        raise AssertionError("; ".join(faults))
    return found


# Parameters drawn from these ranges make states decay within a few to some dozens of tokens.
RANGES = {
    "A_log": (math.log(0.05), math.log(2.0)),
    "recurrent_param": (-6.0, -3.0),
    "time_decay": (-3.0, 0.5),
    "time_mix_key": (0.0, 1.0),
    "time_mix_value": (0.0, 1.0),
    "time_mix_receptance": (0.0, 1.0),
}


@torch.no_grad()
def redraw(model: nn.Module, rng: torch.Generator) -> None:
    """Draw every parameter anew, so that states last for some tokens and no part is zero.

    Matrices keep the scale of what they multiply. Biases of step sizes and parameters of decays,
    recognised by their usual names, are drawn from the ranges above.
    """
    for name, part in model.named_parameters():
        part.copy_(_drawn(name, part, rng))


def _drawn(name: str, part: Tensor, rng: torch.Generator) -> Tensor:
    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(part.shape, generator=rng)

    normal = torch.randn(part.shape, generator=rng)
    last = name.rsplit(".", maxsplit=1)[-1]
    if last in ("dt_bias", "dt_proj_bias") or name.endswith("dt_proj.bias"):
        return uniform(math.log(0.02), math.log(0.5)).exp().expm1().log()
    if last in RANGES:
        return uniform(*RANGES[last])
    if name.endswith("fgate_preact.bias"):
        return 2 + normal
    if part.ndim > 1:
        return normal / math.sqrt(part[0].numel() if part.ndim != 3 else part.shape[-1])
    if "norm" in name and last == "weight":
        return 1 + 0.2 * normal
    return 0.3 * normal


MASK = "attention_mask"
PADDED = 3
"""One token in this many is made padding."""


@dataclass(frozen=True, eq=False)
class ModelUnderTest:
    """A model whose modules an adapter reads, and one call of it.

    Attributes:
        time: the axis of the inputs that counts tokens.
        label: how it differs from the model and call as given, for a witness.
    """

    adapter: inspection.Adapter
    model: nn.Module
    inputs: tuple[Any, ...]
    named: Mapping[str, Any]
    time: int = 1
    label: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def families(self) -> dict[str, str]:
        """The family of every module that the adapter reads, by its path."""
        known = known_modules(self.model, (self.adapter,))
        return {path: family for path, (one, family) in known.items() if one is self.adapter}

    @property
    def steps(self) -> int:
        """The number of tokens of the call."""
        sizes = [part.shape[self.time] for part in self._tensors() if part.ndim > self.time]
        if not sizes:
            raise inspection.InspectionError(
                f"check_adapter: none of the inputs has an axis {self.time} that counts tokens. "
                "Pass the inputs of the model, and time=... if tokens are on another axis."
            )
        return sizes[0]

    @cached_property
    def exact_layers(self) -> list[inspection.InspectedLayer]:
        """The layers of the adapter's modules in float64, of any error."""
        return self.layers(exact=True)

    def layers(self, *, exact: bool) -> list[inspection.InspectedLayer]:
        """The layers of the adapter's modules, of any error."""
        question = Examination(
            inputs=self.inputs,
            named=dict(self.named),
            exact=exact,
            tolerance=float("inf"),
            adapters=(self.adapter,),
        )
        names = [path or type(self.model).__name__ for path in self.families]
        parts = tuple(f"{name}{part}" for name in names for part in ("[", " (call"))
        found = examine(self.model, question)
        return [each for each in found if each.name in names or each.name.startswith(parts)]

    def redrawn(self, seed: int) -> "ModelUnderTest":
        """The same with parameters drawn anew, so that it mixes tokens."""
        model = copy.deepcopy(self.model)
        redraw(model, torch.Generator().manual_seed(seed))
        return self._changed({"parameters": "drawn anew"}, model=model)

    def lengths(self) -> Iterator["ModelUnderTest"]:
        """The same with the first tokens only, in several lengths down to one."""
        for steps in sorted({1, 2, self.steps // 2 + 1, self.steps}):
            yield self._cut(slice(0, steps), self.time, self.steps, {"tokens": steps})

    def samples(self) -> Iterator["ModelUnderTest"]:
        """The same with every sample alone."""
        axis = 0 if self.time else 1
        count = next(iter(self._tensors())).shape[axis]
        for k in range(count):
            yield self._cut(slice(k, k + 1), axis, count, {"sample": k})

    def padded(self) -> Iterator["ModelUnderTest"]:
        """The same with padding before or after the first sample, if it has an attention mask."""
        mask = self.named.get(MASK)
        if isinstance(mask, Tensor) and mask.ndim == 2 and self.steps >= PADDED:
            some = self.steps // PADDED
            for side, tokens in (("left", slice(0, some)), ("right", slice(-some, None))):
                changed = mask.clone()
                changed[0, tokens] = 0
                yield self._changed({"padding": side}, named={**self.named, MASK: changed})

    def _tensors(self) -> Iterator[Tensor]:
        for part in (*self.inputs, *self.named.values()):
            if isinstance(part, Tensor):
                yield part

    def _cut(self, kept: slice, axis: int, size: int, label: Mapping[str, Any]) -> "ModelUnderTest":
        def cut(part: Any) -> Any:
            has = isinstance(part, Tensor) and part.ndim > axis and part.shape[axis] == size
            return part.movedim(axis, 0)[kept].movedim(0, axis) if has else part

        named = {name: cut(part) for name, part in self.named.items()}
        return self._changed(label, inputs=tuple(map(cut, self.inputs)), named=named)

    def _changed(self, label: Mapping[str, Any], **changes: Any) -> "ModelUnderTest":
        return replace(self, label={**self.label, **label}, **changes)


LEAST_MIXING = 0.1
METHOD = "measured on the model as given and with its parameters drawn anew"


@checked
def check_adapter(
    adapter: inspection.Adapter,
    model: nn.Module,
    *inputs: Any,
    time: int = 1,
    redraw: bool = True,
    seed: int = 0,
    **named: Any,
) -> tuple[Certificate, ...]:
    """Check an adapter of your own against the laws that every adapter of ``dsf`` keeps.

    A law that is broken raises nothing: its certificate is REFUTED, and the witness names the case.

    Args:
        adapter: how to read modules of your classes.
        model: one of your modules, or a model that contains some; its state is restored.
        inputs, named: what the model is called with: at least two samples of some ten tokens. If
            there is an ``attention_mask``, padding is checked, too.
        time: the axis of the inputs that counts tokens; the other of the first two counts samples.
        redraw: also check with parameters drawn anew, since newly initialised ones hardly mix
            tokens.
        seed: the seed of the new parameters.

    Raises:
        InspectionError: if the model contains no module of the adapter's classes.
    """
    given = ModelUnderTest(adapter, model, inputs, named, time)
    if not given.families:
        raise inspection.InspectionError(
            f"check_adapter: {type(model).__name__} holds no module of the adapter's classes, "
            f"{', '.join(adapter.families) or 'none'}. A class path is "
            "f'{Class.__module__}.{Class.__qualname__}'."
        )
    subjects = [given, given.redrawn(seed)] if redraw else [given]
    owner = next(iter(given.families.values()))
    return tuple(judged(owner, law, method=METHOD) for law in _laws(subjects))


def _laws(subjects: list[ModelUnderTest]) -> Iterator[Law]:
    exact, single = subjects[0].adapter.tolerance, TOLERANCE[torch.float32]
    cut = [part for subject in subjects for part in subject.lengths()]
    several = cut + [part for subject in subjects for part in subject.samples()]
    padded = [part for subject in subjects for part in subject.padded()]
    double = partial(_error, exact=True)
    mixing = _cases(subjects[-1:], _off_diagonal)
    yield Law("trace", "the model is unchanged by a run", 0.0, _cases(subjects, _trace))
    yield Law("axes", "every batch axis has a name", 0.0, _cases(subjects, _misnamed))
    yield Law("single precision", "a float32 model is rebuilt", single, _cases(cut, _error))
    yield Law("double precision", "a float64 model is rebuilt", exact, _cases(several, double))
    if MASK in subjects[0].named:
        yield Law("padding", "padding is rebuilt", exact, _cases(padded, double))
    yield Law("mixing", "the map mixes tokens", LEAST_MIXING, mixing, from_below=True)
    if subjects[0].adapter.enter is not None or subjects[0].adapter.whole is not None:
        yield Law("whole", "the whole layer is rebuilt", exact, _cases(cut + padded, _whole))


def _cases(
    subjects: list[ModelUnderTest], figure: Callable[[ModelUnderTest], float]
) -> Iterator[Case]:
    for subject in subjects:
        yield {"parameters": "as given", **subject.label}, partial(figure, subject)


def _error(subject: ModelUnderTest, *, exact: bool = False) -> float:
    return max(layer.error for layer in _read(subject, exact=exact))


def _read(subject: ModelUnderTest, *, exact: bool) -> list[inspection.InspectedLayer]:
    layers = subject.exact_layers if exact else subject.layers(exact=False)
    if not layers:
        raise inspection.InspectionError("the adapter gave no layer for its modules")
    return layers


def _misnamed(subject: ModelUnderTest) -> float:
    return float(sum(len(x.axes) != len(x.system.batch) for x in _read(subject, exact=True)))


def _off_diagonal(subject: ModelUnderTest) -> float:
    """The share of the Frobenius norm off the diagonal, for the map where it is smallest."""
    shares = []
    for layer in _read(subject, exact=True):
        ports = layer.mixer.signal().shape[-2]
        map = layer.map().unflatten(-1, (-1, ports))[..., 0]  # without columns of constant inputs
        own = torch.diagonal(map, dim1=-2, dim2=-1).square().sum()
        shares.append(float((1 - own / map.square().sum()).clamp(min=0).sqrt()))
    return min(shares)


def _whole(subject: ModelUnderTest) -> float:
    builders = [layer.shell for layer in _read(subject, exact=True)]
    known = [build.args[:3] for build in builders if isinstance(build, partial)]
    return max((whole_and_error(*parts)[1] for parts in known), default=math.inf)


def _trace(subject: ModelUnderTest) -> float:
    """The number of parameters, buffers and modules that an inspection changes."""
    before = _state(subject.model)
    with torch.enable_grad():
        maps = [layer.map() for layer in _read(subject, exact=False)]
    after = _state(subject.model)
    changed = sum(not _same(before.get(name), after.get(name)) for name in {**before, **after})
    return float(changed + sum(map.requires_grad for map in maps))


def _state(model: nn.Module) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, part in (*model.named_parameters(), *model.named_buffers()):
        state[name] = part.detach().clone()
        state[f"{name}, gradient"] = part.requires_grad, part.grad is None
    for name, module in model.named_modules():
        hooks = len(module._forward_hooks) + len(module._forward_pre_hooks)
        state[f"{name}, module"] = module.training, hooks, sorted(vars(module))
    return state


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    return bool(one == other)
