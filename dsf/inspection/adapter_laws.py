"""The laws that every adapter keeps, for adapters that are written elsewhere."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dsf.certificates import Certificate
from dsf.certificates.laws import Case, Law
from dsf.inspection.adapter import Adapter
from dsf.inspection.adapter_probing import by_channel, probing
from dsf.inspection.adapter_subject import MASK, Subject
from dsf.inspection.errors import InspectionError
from dsf.inspection.ports import Port
from dsf.inspection.precision import TOLERANCE
from dsf.inspection.probing import Probe
from dsf.inspection.rebuild import whole_and_error
from dsf.inspection.result import InspectedLayer

LIVELY = 0.1
METHOD = "measured on the model as given and with its parameters drawn anew"

Figure = Callable[[Subject], float]


def check_adapter(
    adapter: Adapter,
    model: nn.Module,
    *inputs: Any,
    value: str | Port | None = None,
    response: str | Port | None = None,
    time: int = 1,
    redraw: bool = True,
    seed: int = 0,
    **named: Any,
) -> tuple[Certificate, ...]:
    """Measure the laws that every adapter of ``dsf`` keeps on one of your own.

    Nothing is raised for a law that is broken: its certificate is REFUTED and the witness names the
    case. UNKNOWN says what was missing to measure one, such as ports to drive the values at.

    Args:
        adapter: how to read modules of your classes.
        model: one of your modules, or a model that holds some; left as it was found.
        inputs, named: what the model is called with: at least two samples of some ten tokens.
            With an ``attention_mask`` padding is tried as well.
        value, response: ports to drive the values at (see ``dsf.probe``).
        time: the axis of the inputs that counts tokens; the other of the first two counts samples.
        redraw: also measure with parameters that are drawn anew, since fresh ones hardly mix.
        seed: of what is drawn.

    Raises:
        InspectionError: if the model holds no module of the adapter's classes.
    """
    given = Subject(adapter, model, inputs, named, time)
    if not given.paths:
        raise InspectionError(
            f"check_adapter: {type(model).__name__} holds no module of the adapter's classes, "
            f"{', '.join(adapter.families) or 'none'}. A class path is "
            "f'{Class.__module__}.{Class.__qualname__}'."
        )
    subjects = [given, given.redrawn(seed)] if redraw else [given]
    owner = given.family
    found = [
        Law(owner, name, sentence, figure, from_below).judged(cases, method=METHOD)
        for name, sentence, figure, from_below, cases in _laws(subjects)
    ]
    return (*found, probing(owner, subjects[-1], Probe(value=value, response=response)))


def _laws(subjects: list[Subject]) -> Iterator[tuple[str, str, float, bool, Iterator[Case]]]:
    exact, single = subjects[0].adapter.tolerance, TOLERANCE[torch.float32]
    cut = [part for subject in subjects for part in subject.lengths()]
    alone = [part for subject in subjects for part in subject.samples()]
    padded = [part for subject in subjects for part in subject.padded()]
    double = partial(_error, exact=True)
    yield "trace", "the model is left as found", 0.0, False, _cases(subjects, _trace)
    yield "axes", "they name what the batch counts", 0.0, False, _cases(subjects, _misnamed)
    yield "single precision", "a float32 model is rebuilt", single, False, _cases(cut, _error)
    yield (
        "double precision",
        "a float64 model is rebuilt",
        exact,
        False,
        _cases(cut + alone, double),
    )
    if MASK in subjects[0].named:
        yield "padding", "padding is followed", exact, False, _cases(padded, double)
    yield "liveliness", "the map mixes tokens", LIVELY, True, _cases(subjects[-1:], _off_diagonal)
    if subjects[0].adapter.enter is not None or subjects[0].adapter.whole is not None:
        yield "whole", "the layer as a whole is rebuilt", exact, False, _cases(cut + padded, _whole)


def _cases(subjects: list[Subject], figure: Figure) -> Iterator[Case]:
    for subject in subjects:
        yield {"parameters": "as given", **subject.label}, partial(figure, subject)


def _error(subject: Subject, *, exact: bool = False) -> float:
    return max(layer.error for layer in _read(subject, exact=exact))


def _read(subject: Subject, *, exact: bool) -> list[InspectedLayer]:
    layers = subject.exact_layers() if exact else subject.layers(exact=False)
    if not layers:
        raise InspectionError("the adapter gave no layer for its modules")
    return layers


def _misnamed(subject: Subject) -> float:
    return float(sum(len(x.axes) != len(x.system.batch) for x in _read(subject, exact=True)))


def _off_diagonal(subject: Subject) -> float:
    """The part of the least lively map's Frobenius norm that is not on its diagonal."""
    shares = []
    for layer in _read(subject, exact=True):
        map = by_channel(layer)
        own = torch.diagonal(map, dim1=-2, dim2=-1).square().sum()
        shares.append(float((1 - own / map.square().sum()).clamp(min=0).sqrt()))
    return min(shares)


def _whole(subject: Subject) -> float:
    shells = [layer.shell for layer in _read(subject, exact=True)]
    known = [shell.args[:3] for shell in shells if isinstance(shell, partial)]
    return max(whole_and_error(*parts)[1] for parts in known)


def _trace(subject: Subject) -> float:
    """How many parts of the model an inspection changes."""
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
