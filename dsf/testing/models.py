"""Tests of models, kernels and adapters that were written elsewhere.

- ``assert_layer_exact``: one layer, or every layer of a model, in a test.
- ``check_adapter``: the laws that every adapter has to keep, measured on a model, one call of it
  and its variants (a ``ModelUnderTest``): other parameters, lengths, samples or padding.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from dsf.certificates import Certificate
from dsf.inspection import (
    Adapter,
    InspectedLayer,
    Inspection,
    InspectionError,
    Probe,
    ReconstructionError,
    RoundingWarning,
    inspect,
)
from dsf.inspection.capture.precision import TOLERANCE
from dsf.inspection.examine import Examination, examine
from dsf.inspection.families.registry import known_modules
from dsf.inspection.rebuild import whole_and_error
from dsf.runtime.argument_checks import checked
from dsf.testing.mixers import Case, judged

__all__ = ["assert_layer_exact", "check_adapter"]


@checked
def assert_layer_exact(
    module: nn.Module,
    *inputs: Any,
    tolerance: float | None = None,
    rounding: float | None = None,
    adapters: Sequence[Adapter] = (),
    probe: Mapping[str, Probe] | Sequence[str] = (),
    **named: Any,
) -> Inspection:
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
        warnings.simplefilter("always", RoundingWarning)
        try:
            found = inspect(module, *inputs, **options, **named)
        except ReconstructionError as error:
            raise AssertionError(str(error)) from error
    faults = [f"{missed.name}: {missed.reason}" for missed in found.unsupported]
    if rounding is None:
        faults += [str(each.message) for each in caught if each.category is RoundingWarning]
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

    adapter: Adapter
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
            raise InspectionError(
                f"check_adapter: none of the inputs has an axis {self.time} that counts tokens. "
                "Pass the inputs of the model, and time=... if tokens are on another axis."
            )
        return sizes[0]

    @cached_property
    def exact_layers(self) -> list[InspectedLayer]:
        """The layers of the adapter's modules in float64, of any error."""
        return self.layers(exact=True)

    def layers(self, *, exact: bool) -> list[InspectedLayer]:
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

Figure = Callable[[ModelUnderTest], float]


@checked
def check_adapter(
    adapter: Adapter,
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
        raise InspectionError(
            f"check_adapter: {type(model).__name__} holds no module of the adapter's classes, "
            f"{', '.join(adapter.families) or 'none'}. A class path is "
            "f'{Class.__module__}.{Class.__qualname__}'."
        )
    subjects = [given, given.redrawn(seed)] if redraw else [given]
    owner = next(iter(given.families.values()))
    return tuple(
        judged((owner, name, sentence, figure), cases, method=METHOD, from_below=from_below)
        for name, sentence, figure, from_below, cases in _laws(subjects)
    )


def _laws(subjects: list[ModelUnderTest]) -> Iterator[tuple[str, str, float, bool, Iterator[Case]]]:
    exact, single = subjects[0].adapter.tolerance, TOLERANCE[torch.float32]
    cut = [part for subject in subjects for part in subject.lengths()]
    several = cut + [part for subject in subjects for part in subject.samples()]
    padded = [part for subject in subjects for part in subject.padded()]
    double = partial(_error, exact=True)
    yield "trace", "the model is unchanged by a run", 0.0, False, _cases(subjects, _trace)
    yield "axes", "every batch axis has a name", 0.0, False, _cases(subjects, _misnamed)
    yield "single precision", "a float32 model is rebuilt", single, False, _cases(cut, _error)
    yield "double precision", "a float64 model is rebuilt", exact, False, _cases(several, double)
    if MASK in subjects[0].named:
        yield "padding", "padding is rebuilt", exact, False, _cases(padded, double)
    yield "mixing", "the map mixes tokens", LEAST_MIXING, True, _cases(subjects[-1:], _off_diagonal)
    if subjects[0].adapter.enter is not None or subjects[0].adapter.whole is not None:
        yield "whole", "the whole layer is rebuilt", exact, False, _cases(cut + padded, _whole)


def _cases(subjects: list[ModelUnderTest], figure: Figure) -> Iterator[Case]:
    for subject in subjects:
        yield {"parameters": "as given", **subject.label}, partial(figure, subject)


def _error(subject: ModelUnderTest, *, exact: bool = False) -> float:
    return max(layer.error for layer in _read(subject, exact=exact))


def _read(subject: ModelUnderTest, *, exact: bool) -> list[InspectedLayer]:
    layers = subject.exact_layers if exact else subject.layers(exact=False)
    if not layers:
        raise InspectionError("the adapter gave no layer for its modules")
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
