"""``audit``: which layer, and which stage of it, made a run differ from the model in float64.

What a part of the model adds by itself (``own``), times what one unit of it moves the number, is
its share of the change (:mod:`dsf.attribution.two_runs`). The shares sum to the change.
"""

import copy
import json
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from dsf.attribution.stages import Place, Stages
from dsf.attribution.targets import (
    Positions,
    Target,
    first_two,
    functional_of,
    put_out,
    tokens_shown,
)
from dsf.attribution.two_runs import (
    Force,
    Inject,
    Node,
    Own,
    Recording,
    Walk,
    joined,
    scopes_of,
)
from dsf.inspection import Adapter, InspectionError
from dsf.inspection.capture.containers import lent
from dsf.inspection.capture.precision import dtype_of, expected_rounding, guarded, in_float64
from dsf.inspection.choice import Chosen, chosen_layers, each_chosen
from dsf.inspection.examine import Examination, examine, wide_copy
from dsf.inspection.model_input import IDS, MASK, model_input
from dsf.inspection.recorded_run import without_cache
from dsf.inspection.results.saving import save
from dsf.inspection.results.table import Table
from dsf.inspection.softmax.interface import plain_experts
from dsf.runtime.argument_checks import checked

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names under which a model takes its cache, and returns it."""
POSITIONS = "position_ids"
"""Passed to a model that decodes, as ``generate`` does: not every cache knows its length."""
POINTS = ((1, 5e-3), (2, 5e-3), (4, 1e-2), (8, 1e-2), (16, 0.0))
"""Numbers of points of the way, each with the relative residual that needs no further ones."""
MAX_RATIO = {torch.bfloat16: 2.0, torch.float16: 2.0}
"""Maximum ratio of an own to that of a healthy run in a half type, where results are rounded last;
in others, where sums are made in another order, ``OTHER_RATIO``."""
OTHER_RATIO = 8.0
MAX_ROUNDINGS = {torch.bfloat16: 0.5, torch.float16: 0.5}
"""Maximum own of a single operation, in units of the last place; in others ``OTHER_ROUNDINGS``."""
OTHER_ROUNDINGS = 4.0
FIRST_SHARE = 0.5
"""Share of an accusation's threshold from which a token counts as the first."""
FIRST_RATIO = 1.5
"""Maximum ratio of a token's own to the largest of a healthy run."""
FIRST_OF_LARGEST = 0.05
"""The same, as a share of the largest own of any token."""
NUMBERED = re.compile(r"(?:[^.]+\.)*?(\d+)(?![^.])")
"""The path of a block: up to its first part that is a number."""
MIN_CHANGE = 1e-11
"""Maximum own, relative, of two runs that are the same."""


@dataclass(frozen=True)
class LedgerRow:
    """One stage of one layer.

    Attributes:
        layer: the path of a module.
        stage: what happens there: ``projection``, ``convolution``, ``gates``, ``state``,
            ``read-out``, ``rotary``, ``norm``, ``output``, ``addition`` to the residual stream,
            ``feed-forward``, ``embedding``, ``head``.
        own: what it added by itself, relative to its result; the largest of its operations.
        expected: what number type and length, or a healthy run in the same type, explain of it.
        share: its part of the change of the number.
        cumulative: the sum of the shares up to here, in the order in which the stages ran.
        first: the first token whose own exceeds what is expected; None without one.
        accused: whether ``own`` exceeds what is expected.
        tokens: the share by the token at which it was added; one number where none is known.
    """

    layer: str
    stage: str
    own: float
    expected: float
    share: float
    cumulative: float
    first: int | None
    accused: bool
    tokens: tuple[float, ...] = field(repr=False, default=())

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


@dataclass(frozen=True, repr=False)
class Ledger:
    """The change of one number between two runs of a model, shared among layers and stages.

    Attributes:
        rows: accused stages first, then all others, each by their share.
        total: the sum of all shares.
        actual: the number in the run under suspicion, minus that of the reference.
        reference, suspect: the number in each of the two.
        points: how many points of the way between both runs were averaged.
        passes: how many runs of the model were made, a backward pass counted as two.
        about: what was compared.
    """

    rows: tuple[LedgerRow, ...]
    total: float
    actual: float
    reference: float
    suspect: float
    points: int
    passes: int
    about: str

    @property
    def residual(self) -> float:
        """What the shares do not explain of the change."""
        return self.actual - self.total

    @property
    def accused(self) -> tuple[LedgerRow, ...]:
        """The stages that did more than is expected of them."""
        return tuple(row for row in self.rows if row.accused)

    def of_layers(self, layers: Chosen) -> "Ledger":
        """Return the ledger with the rows of all other layers as one, so that the sum is the same.

        Args:
            layers: names of modules that hold the stages, patterns, or numbers of blocks.

        Raises:
            InspectionError: if there is no such layer.
        """
        names = list(dict.fromkeys(row.layer for row in self.rows))
        numbered = {m[0]: int(m[1]) for name in names if (m := NUMBERED.match(name))}
        blocks, chosen = sorted(numbered, key=numbered.__getitem__), set[str]()
        for each in each_chosen(layers):
            paths = chosen_layers(names if isinstance(each, str) else blocks, each)
            inside = tuple(f"{path}." for path in paths)
            chosen |= {name for name in names if f"{name}.".startswith(inside)}
        kept = [row for row in self.rows if row.layer in chosen]
        rest = [row for row in self.rows if row.layer not in chosen]
        if rest:
            share = math.fsum(row.share for row in rest)
            worst = max(rest, key=lambda row: (row.accused, row.own))
            kept.append(replace(worst, layer="other layers", stage="all", share=share, tokens=()))
        return replace(self, rows=tuple(sorted(kept, key=_by_weight)))

    @property
    def is_healthy(self) -> bool:
        """Whether no stage is accused."""
        return not self.accused

    @property
    def sentence(self) -> str:
        """The stage that explains most of what is not expected, or that there is none."""
        if not self.rows:
            return "the two runs are the same in every number"
        if self.is_healthy:
            most = self.rows[0]
            return (
                "no layer is accused: number type and length explain the change of the logit "
                f"({self.actual:.3g}); the largest share, {most.share:.3g}, is of "
                f"{_in_words(most.layer)}, {most.stage}"
            )
        row = self.accused[0]
        part = f"{row.share:.3g} of {self.actual:.3g}"
        percent = f"{100 * row.share / self.actual:.0f} % of " if self.actual else ""
        since = "" if row.first is None else f", from token {row.first} on"
        return (
            f"{_in_words(row.layer)}, {row.stage}: explains {percent}the change of the logit "
            f"({part}){since}"
        )

    def __str__(self) -> str:
        lines = [self.sentence, "", self.about]
        head = ("layer", "stage", "own", "expected", "share", "cumulative", "first")
        cells = [
            (
                row.layer,
                row.stage + (" !" if row.accused else ""),
                f"{row.own:.1e}",
                f"{row.expected:.1e}",
                f"{row.share:+.3g}",
                f"{row.cumulative:+.3g}",
                "" if row.first is None else str(row.first),
            )
            for row in self.rows[:MAX_SHOWN]
        ]
        widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
        lines += [
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in (head, *cells)
        ]
        if len(self.rows) > MAX_SHOWN:
            lines.append(f"and {len(self.rows) - MAX_SHOWN} more stages")
        lines.append(
            f"sum of the shares {self.total:+.4g}, change {self.actual:+.4g}, residual "
            f"{self.residual:+.1e} ({self.points} points)"
        )
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"Ledger({self.sentence})"

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data."""
        return {
            "sentence": self.sentence,
            "healthy": self.is_healthy,
            "about": self.about,
            "reference": self.reference,
            "suspect": self.suspect,
            "actual": self.actual,
            "total": self.total,
            "residual": self.residual,
            "points": self.points,
            "passes": self.passes,
            "rows": [asdict(row) | {"tokens": list(row.tokens)} for row in self.rows],
        }

    def to_pandas(self) -> Any:
        """Return the rows as a data frame, without the shares by token."""
        names = [each.name for each in fields(LedgerRow) if each.name != "tokens"]
        return Table(tuple({name: row[name] for name in names} for row in self.rows)).to_pandas()

    def to_junit(self) -> str:
        """Return the stages as test cases of JUnit's XML: an accused one has failed."""
        cases = []
        for row in self.rows:
            name = f"<testcase classname={quoteattr(row.layer)} name={quoteattr(row.stage)}"
            if row.accused:
                why = f"own {row.own:.1e}, expected {row.expected:.1e}; share {row.share:+.3g}"
                cases.append(f"{name}><failure message={quoteattr(why)}/></testcase>")
            else:
                cases.append(f"{name}/>")
        body = "\n".join(cases)
        return (
            f'<testsuite name="dsf audit" tests="{len(self.rows)}" '
            f'failures="{len(self.accused)}">\n{body}\n</testsuite>\n'
        )

    def save(self, path: str | Path) -> Path:
        """Write the ledger, by the ending: ``.json``, ``.xml`` (JUnit), ``.txt``, or a figure.

        Without an ending it is written into a folder, from which ``dsf.load`` reads it.
        """
        path = Path(path)
        if not path.suffix or path.is_dir():
            return save(self, path)
        if path.suffix in (".png", ".svg", ".pdf"):
            self.figure().savefig(path)
            return path
        texts: dict[str, Callable[[], str]] = {
            ".json": lambda: json.dumps(self.to_json(), indent=1),
            ".xml": self.to_junit,
            ".txt": lambda: f"{self}\n",
        }
        if path.suffix not in texts:
            raise ValueError(
                f"Ledger.save: 'path' expected an ending of {', '.join(texts)}, got {path.name!r}."
            )
        path.write_text(texts[path.suffix](), encoding="utf-8")
        return path

    def figure(self) -> Any:
        """Return a figure of matplotlib: shares over depth, and over tokens."""
        from matplotlib.figure import Figure

        picture = Figure(figsize=(9, 6), layout="constrained")
        depth, tokens = picture.subplots(2, 1)
        strongest = sorted(self.rows, key=lambda row: -abs(row.share))[:MAX_DRAWN]
        names = [f"{_in_words(row.layer)}, {row.stage}" for row in strongest]
        depth.barh(names[::-1], [row.share for row in strongest[::-1]])
        depth.set_xlabel("share of the change")
        for row, name in zip(strongest[:MAX_LINES], names, strict=False):
            if len(row.tokens) > 1:
                tokens.plot(torch.tensor(row.tokens).cumsum(0).tolist(), label=name)
        tokens.set_xlabel("token")
        tokens.set_ylabel("share, cumulative")
        if tokens.lines:
            tokens.legend(fontsize="small")
        return picture


MAX_SHOWN, MAX_DRAWN, MAX_LINES = 20, 16, 5
"""Numbers of rows in a text, bars in a figure, and lines in a figure."""


def _in_words(layer: str) -> str:
    """``layer 7 linear_attn`` for ``model.layers.7.linear_attn``."""
    parts = layer.split(".")
    numbers = [at for at, part in enumerate(parts) if part.isdecimal()]
    if not numbers:
        return layer or "the model"
    at = numbers[0]
    return " ".join(("layer", parts[at], ".".join(parts[at + 1 :]))).strip()


@checked
def audit(  # noqa: PLR0913 (one for each kind of run)
    model: nn.Module | str | Path,
    *inputs: Any,
    suspect: nn.Module | str | None = None,
    decode: int | None = None,
    dtype: torch.dtype | str | None = None,
    chunk: int | None = None,
    recorded: str | Path | None = None,
    target: Target | None = None,
    against: Target | None = None,
    position: Positions = -1,
    layers: Chosen = None,
    adapters: Sequence[Adapter] = (),
    **named: Any,
) -> Ledger:
    """Find the layer, the stage and the token that made a run differ from the model in float64.

    The reference is a copy of ``model`` in float64, on the whole input at once. The run under
    suspicion is ``model`` as it is loaded, unless something else is asked for.

    Args:
        model: a module, the folder of a checkpoint, or a hub id.
        inputs, named: a text, or what the model is called with, as for ``dsf.inspect``.
        suspect: another module with the same parts (a fork, a quantised copy, other kernels), or
            ``"decode"``, which is ``decode=1``.
        decode: the last so many tokens one at a time, continuing the model's own cache.
        dtype: the weights in another number type.
        chunk: another number of tokens in a chunk, for mixers that compute in chunks.
        recorded: a folder with ``*.safetensors`` files, or one file, of another engine's outputs
            by the names of the modules, such as ``model.layers.0``, and its ``logits``.
        target, against, position: the number whose change is explained, as for ``dsf.attribute``:
            by default the logit of the predicted token minus that of its runner-up.
        layers: whose rows are listed: numbers of blocks, names of modules, patterns, or several of
            these; the others become one row. All by default.
        adapters: how to read modules of your own, as for ``dsf.inspect``.

    Raises:
        InspectionError: if a run fails, or the two have nothing in common.
        ValueError: if the options exclude each other.

    Example:
        >>> import dsf
        >>> from dsf.models import folder
        >>> ledger = dsf.audit(folder("text_mamba2"), "And all our yesterdays", dtype="bfloat16")
        >>> ledger.is_healthy, abs(ledger.residual) < 0.01 * abs(ledger.actual)
        (True, True)
    """
    given = model_input(model, inputs, named, where="audit")
    subject = _Subject(given.model, given.inputs, dict(given.named), tuple(adapters))
    kind = _kind(suspect, decode, dtype, chunk, recorded)
    found = _audited(subject, kind, (target, against, position), given.tokenizer)
    return found if layers is None else found.of_layers(layers)


@dataclass(frozen=True, eq=False)
class _Kind:
    """What the run under suspicion is.

    Attributes:
        make: the module that runs, from the one that was loaded.
        decode: how many tokens it gets one at a time.
        recorded: where its outputs are, if it is not run here.
        healthy: whether a run of the model itself in the suspect's number type says what is
            expected; otherwise the law of number types does.
    """

    about: str
    make: Callable[[nn.Module], nn.Module]
    decode: int = 0
    recorded: Path | None = None
    healthy: bool = False


def _kind(
    suspect: nn.Module | str | None,
    decode: int | None,
    dtype: torch.dtype | str | None,
    chunk: int | None,
    recorded: str | Path | None,
) -> _Kind:
    if isinstance(suspect, str) and suspect != "decode":
        raise ValueError(f"audit: 'suspect' expected a module or 'decode', got {suspect!r}.")
    if suspect == "decode":
        suspect, decode = None, 1 if decode is None else decode
    if recorded is not None and (suspect, decode, dtype, chunk) != (None, None, None, None):
        raise ValueError("audit: 'recorded' expected no other suspect. Leave the others out.")
    if decode is not None and decode < 1:
        raise ValueError(f"audit: 'decode' expected a number of tokens above zero, got {decode}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"audit: 'chunk' expected a number of tokens above zero, got {chunk}.")
    kind = getattr(torch, dtype, None) if isinstance(dtype, str) else dtype
    if dtype is not None and not (isinstance(kind, torch.dtype) and kind.is_floating_point):
        raise ValueError(f"audit: 'dtype' expected a number type such as bfloat16, got {dtype!r}.")
    if recorded is not None:
        return _Kind(f"recorded outputs {recorded}", lambda module: module, 0, Path(recorded))
    words = [
        "the model as it is loaded" if suspect is None else f"another {type(suspect).__name__}"
    ]
    if kind is not None:
        words.append(str(kind).removeprefix("torch."))
    if chunk is not None:
        words.append(f"chunks of {chunk} tokens")
    if decode:
        words.append(f"the last {decode} token{'s' * (decode > 1)} one at a time")

    def make(module: nn.Module) -> nn.Module:
        made = suspect if isinstance(suspect, nn.Module) else module
        if kind is not None or chunk is not None:
            made = copy.deepcopy(made)
        if kind is not None:
            made = made.to(kind)
        if chunk is not None:
            _set_chunks(made, chunk)
        return made

    is_other = isinstance(suspect, nn.Module) or bool(decode) or chunk is not None
    return _Kind(", ".join(words), make, decode or 0, None, is_other)


def _set_chunks(module: nn.Module, chunk: int) -> None:
    """Let every mixer that computes in chunks take ``chunk`` tokens at a time."""
    found = 0
    for part in module.modules():
        if isinstance(getattr(part, "chunk_size", None), int):
            part.chunk_size = chunk  # type: ignore[assignment]
            found += 1
        for name, rule in list(vars(part).items()):
            if callable(rule) and not isinstance(rule, nn.Module):
                with suppress(TypeError, ValueError):
                    if "chunk_size" in signature(rule).parameters:
                        setattr(part, name, partial(rule, chunk_size=chunk))
                        found += 1
    if not found:
        raise InspectionError(
            "audit: 'chunk' expected a model with mixers that compute in chunks, got "
            f"{type(module).__name__}, which has none with a chunk_size. Leave it out."
        )


@dataclass(frozen=True, eq=False)
class _Subject:
    """A model and what it is called with."""

    model: nn.Module
    inputs: tuple[Any, ...]
    named: dict[str, Any]
    adapters: tuple[Adapter, ...]

    @property
    def tokens(self) -> int:
        ids = self.named.get(IDS, self.inputs[0] if self.inputs else None)
        if not isinstance(ids, Tensor) or ids.ndim < 2:
            shapes = [
                part.shape[1]
                for part in (*self.inputs, *self.named.values())
                if isinstance(part, Tensor) and part.ndim > 1
            ]
            return shapes[0] if shapes else 1
        return int(ids.shape[1])

    def called(self, model: nn.Module, walk: Walk | None = None, *, exact: bool = False) -> Any:
        """Run a model on the whole input at once."""
        inputs, named = self._like(model, exact)
        if walk is not None:
            walk.start(self.tokens)
        return _run(model, inputs, without_cache(model, named), walk)

    def decoded(self, model: nn.Module, last: int, walk: Walk, keep: Callable[[], None]) -> Any:
        """Run a model on all but the last tokens, and then on these, one at a time."""
        steps = self.tokens
        if not 0 < last < steps:
            raise ValueError(
                f"audit: 'decode' expected 1 to {steps - 1} of the {steps} tokens, got {last}."
            )
        inputs, named = self._like(model, False)
        if inputs:
            named = {IDS: inputs[0], **named}
        outputs: list[Any] = []
        cache: dict[str, Any] = {}
        bounds = [0, *range(steps - last, steps + 1)]
        if POSITIONS in signature(model.forward).parameters and POSITIONS not in named:
            ids = named[IDS]
            named = {POSITIONS: torch.arange(steps, device=ids.device).expand_as(ids), **named}
        for start, stop in pairwise(bounds):
            part = {name: _between(name, each, start, stop, steps) for name, each in named.items()}
            walk.start(stop - start)
            out = _run(model, (), {**part, **cache, "use_cache": True}, walk)
            keep()
            outputs.append(put_out(out))
            taken = [name for name in CACHES if name in signature(model.forward).parameters]
            found = [out[name] for name in CACHES if isinstance(out, dict) and name in out]
            if taken and found:
                cache = {taken[0]: found[0]}
            else:
                raise InspectionError(
                    "audit: 'decode' expected a model that returns a cache, got "
                    f"{type(model).__name__}, which returns none of {', '.join(CACHES)}."
                )
        full = outputs[0]
        if full is None or full.ndim < 3:
            return full
        shape = torch.Size((full.shape[0], steps, *full.shape[2:]))
        return joined(outputs, shape)

    def _like(self, model: nn.Module, exact: bool) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if exact:
            return in_float64(self.inputs), in_float64(self.named)
        kind, device = dtype_of(model), next((p.device for p in model.parameters()), None)

        def fit(part: Any) -> Any:
            if not isinstance(part, Tensor):
                return part
            part = part if device is None else part.to(device)
            return part.to(kind) if part.is_floating_point() else part

        return tuple(map(fit, self.inputs)), {name: fit(part) for name, part in self.named.items()}


def _between(name: str, part: Any, start: int, stop: int, steps: int) -> Any:
    """The tokens of an input of one call; a mask covers all tokens up to there."""
    if not isinstance(part, Tensor) or part.ndim < 2 or part.shape[1] != steps:
        return part
    return part[:, :stop] if name == MASK else part[:, start:stop]


def _run(model: nn.Module, inputs: Any, named: dict[str, Any], walk: Walk | None) -> Any:
    @contextmanager
    def watched() -> Iterator[None]:
        if walk is None:
            yield
        else:
            with walk.watching():
                yield

    with (
        torch.random.fork_rng(),
        torch.random.fork_rng(devices=[]),
        plain_experts(model),
        guarded(model),
        watched(),
    ):
        return model(*lent(inputs), **lent(named))


def _recorded(subject: _Subject, model: nn.Module, decode: int, scopes: set[str]) -> Recording:
    found = Recording()
    values: dict[Node, Tensor] = {}
    walk = Walk(model, scopes, lambda node, value: values.update({node: value.detach().clone()}))

    def keep() -> None:
        found.calls.append(dict(values))
        found.operations.append(walk.operations)
        values.clear()

    training = model.training
    try:
        with torch.no_grad():
            if decode:
                found.output = subject.decoded(model.eval(), decode, walk, keep)
            else:
                found.output = put_out(subject.called(model.eval(), walk))
                keep()
    finally:
        model.train(training)
    return found


@torch.inference_mode(False)
def _audited(
    subject: _Subject, kind: _Kind, number: tuple[Any, Any, Any], tokenizer: Any
) -> Ledger:
    target, against, position = number
    reference = wide_copy(subject.model, subject.adapters).eval().requires_grad_(False)
    scopes, steps = scopes_of(reference), subject.tokens
    stages, clean, output = _clean(subject, reference, scopes)
    passes = 2

    if kind.recorded is None:
        module = kind.make(subject.model)
        recording = _recorded(subject, module, kind.decode, scopes)
        passes += 1
    else:
        module = subject.model
        recording = _read(kind.recorded, output)
    forced = _forced(subject, reference, scopes, recording, clean)
    passes += 1
    if not forced.met:
        raise InspectionError(
            f"audit: the two runs of {type(subject.model).__name__} have no module in common. Are "
            "the names of the parts the same?"
        )
    healthy = None
    if kind.healthy and dtype_of(module) is not torch.float64:
        twin = subject.model
        if dtype_of(twin) is not dtype_of(module):
            twin = copy.deepcopy(twin).to(dtype_of(module))
        well = _recorded(subject, twin, 0, scopes)
        healthy = _forced(subject, reference, scopes, well, clean, forced.met)
        passes += 2

    shown = tokens_shown(subject.inputs, subject.named)
    if target is None:
        target, against = first_two(output, position, shown)
    of = functional_of(target, against, position, output, tokenizer, shown)
    before = float(of.pair(output).sum())
    after = float(of.pair(recording.output.to(output)).sum())
    actual = after - before

    points, shares = 0, {}
    if forced.owns:
        for points, enough in POINTS:
            shares = _shares(subject, reference, scopes, forced.owns, of, points)
            passes += 3 * points
            total = sum(float(share.sum()) for share in shares.values())
            if abs(actual - total) <= enough * abs(actual):
                break
    rounding = expected_rounding(dtype_of(module), steps)
    around = [node for node in forced.met if stages.is_around(node)]
    coarse = _forced(subject, reference, scopes, recording, clean, around)
    passes += 1
    law = _Law(
        rounding, healthy, coarse, None if kind.healthy else _beyond(stages, coarse, rounding)
    )
    rows = _rows(stages, forced, shares, law)
    return Ledger(
        rows=rows,
        total=math.fsum(row.share for row in rows),
        actual=actual,
        reference=before,
        suspect=after,
        points=points,
        passes=passes,
        about=f"{type(subject.model).__name__}, {steps} tokens: {kind.about}, against float64",
    )


def _clean(
    subject: _Subject, reference: nn.Module, scopes: set[str]
) -> tuple[Stages, Walk, Tensor]:
    """Run the reference as it is, and find the stages of its nodes."""
    question = Examination(
        inputs=in_float64(subject.inputs),
        named=in_float64(subject.named),
        adapters=subject.adapters,
        checks="none",
    )
    layers: Sequence[Any] = ()
    with suppress(InspectionError):  # without coefficients a mixer is one stage
        layers = examine(reference, question).layers
    walk = Walk(reference, scopes, lambda *_: None)
    stages = Stages(reference, walk, layers)
    walk.meet = stages.meet
    stages.note_weights()
    with torch.no_grad():
        output = put_out(subject.called(reference, walk, exact=True))
    if output is None:
        raise InspectionError("audit: the model returns no tensor.")
    return stages, walk, output


def _forced(
    subject: _Subject,
    reference: nn.Module,
    scopes: set[str],
    recording: Recording,
    clean: Walk,
    only: Collection[Node] | None = None,
) -> Force:
    force = Force(
        recording,
        recording.aligned_with(clean.operations, {path for path, _ in clean.unordered}),
        subject.tokens,
        only,
    )
    with torch.no_grad():
        subject.called(reference, Walk(reference, scopes, force), exact=True)
    return force


def _shares(
    subject: _Subject,
    reference: nn.Module,
    scopes: set[str],
    owns: Mapping[Node, Own],
    of: Any,
    points: int,
) -> dict[Node, Float[Tensor, " token"]]:
    """The share of every own, by token, averaged over points of the way between the runs."""
    found: dict[Node, Tensor] = {}
    places, weights = np.polynomial.legendre.leggauss(points)
    for at, weight in zip((1 + places) / 2, weights / 2, strict=True):
        with torch.enable_grad():
            factor = torch.tensor(float(at), dtype=torch.float64, requires_grad=True)
            inject = Inject(owns, subject.tokens, factor)
            out: Any = put_out(
                subject.called(reference, Walk(reference, scopes, inject), exact=True)
            )
            of.pair(out).sum().backward()
        for node, share in inject.shares.items():
            found[node] = found.get(node, 0) + float(weight) * share
    return found


@dataclass(frozen=True, eq=False)
class _Law:
    """What is expected of a node.

    Attributes:
        rounding: what the number type and the length explain of a layer.
        healthy: a healthy run in the same number type, forced at the same nodes.
        coarse: the suspect, forced at the modules around and outside of mixers alone.
        beyond: without a healthy run, what each layer as a whole added beyond what is explained.
    """

    rounding: float
    healthy: Force | None
    coarse: Force
    beyond: Mapping[str, Own] | None

    def limit(self, node: Node) -> float:
        if self.beyond is not None:
            return self.rounding
        if self.healthy is None or node not in self.healthy.met:
            return MIN_CHANGE
        own, kind = self.healthy.owns.get(node), self.healthy.met[node]
        roundings = MAX_ROUNDINGS.get(kind, OTHER_ROUNDINGS) * torch.finfo(kind).eps
        ratio = MAX_RATIO.get(kind, OTHER_RATIO)
        return max(ratio * (0.0 if own is None else own.relative), roundings, MIN_CHANGE)

    def first_limit(self, node: Node) -> float:
        """What the own of a single token is expected to be at most."""
        well = None if self.healthy is None else self.healthy.owns.get(node)
        most = 0.0 if well is None else FIRST_RATIO * float(well.tokens.max())
        return max(most, FIRST_SHARE * self.limit(node))


def _beyond(stages: Stages, coarse: Force, rounding: float) -> dict[str, Own]:
    """The layers that as a whole added more than ``rounding``, and what they added."""
    found: dict[str, Own] = {}
    for node, own in coarse.owns.items():
        layer = stages.layer_of(node)
        if own.relative > max(rounding, found[layer].relative if layer in found else 0.0):
            found[layer] = own
    return found


def _rows(
    stages: Stages, forced: Force, shares: Mapping[Node, Tensor], law: _Law
) -> tuple[LedgerRow, ...]:
    places: dict[Place, list[Node]] = {}
    for node in forced.owns:  # in the order in which they ran
        places.setdefault(_place(stages, forced, node), []).append(node)
    rows, cumulative = [], 0.0
    for (layer, stage), nodes in places.items():
        share = math.fsum(float(shares[node].sum()) for node in nodes if node in shares)
        cumulative += share
        limits = {node: law.limit(node) for node in nodes}
        worst = max(nodes, key=lambda node: forced.owns[node].relative / limits[node])
        own, limit = forced.owns[worst], limits[worst]
        blamed = [node for node in nodes if forced.owns[node].relative > limits[node]]
        accused = law.beyond is None and bool(blamed)
        firsts = [_first(forced.owns[node], law.first_limit(node)) for node in blamed]
        known = [first for first in firsts if first is not None]
        rows.append(
            LedgerRow(
                layer=layer,
                stage=stage,
                own=own.relative,
                expected=limit,
                share=share,
                cumulative=cumulative,
                first=(min(known) if known else _first_of_layer(stages, law, layer))
                if accused
                else None,
                accused=accused,
                tokens=_by_token([shares[node] for node in nodes if node in shares]),
            )
        )
    for layer, own in (law.beyond or {}).items():
        of_layer = [at for at, row in enumerate(rows) if row.layer == layer]
        if of_layer:
            at = max(of_layer, key=lambda at: abs(rows[at].share))
            first = _first_of_layer(stages, law, layer)
            rows[at] = replace(rows[at], own=own.relative, accused=True, first=first)
    return tuple(sorted(rows, key=_by_weight))


def _by_weight(row: LedgerRow) -> tuple[bool, float]:
    return not row.accused, -abs(row.share)


def _first(own: Own, limit: float) -> int | None:
    if len(own.tokens) < 2:
        return None
    beyond = (own.tokens > limit).nonzero().flatten()
    return int(beyond[0]) if len(beyond) else None


def _first_of_layer(stages: Stages, law: _Law, layer: str) -> int | None:
    """The first token at which a layer as a whole adds what it adds at most at any."""
    owns = [own for node, own in law.coarse.owns.items() if stages.layer_of(node) == layer]
    owns = [own for own in owns if len(own.tokens) > 1]
    if not owns:
        return None
    own = max(owns, key=lambda each: each.relative)
    return _first(own, FIRST_OF_LARGEST * float(own.tokens.max()))


def _by_token(parts: Sequence[Tensor]) -> tuple[float, ...]:
    longest = max((len(part) for part in parts), default=0)
    whole = [part for part in parts if len(part) == longest]
    return tuple(torch.stack(whole).sum(0).tolist()) if whole else ()


def _place(stages: Stages, forced: Force, node: Node) -> Place:
    """The layer and stage of a node, or of the operations before it that have no partner."""
    missing: list[Node] = []
    waiting, seen = [*stages.sources(node)], set()
    while waiting:
        source = waiting.pop()
        if source in seen or source in forced.met or source.port.startswith("weight"):
            continue
        seen.add(source)
        if source.port.startswith("op"):
            missing.append(source)
        waiting += stages.sources(source)
    work = [each for each in missing if not stages.is_cast(each)] or missing
    places = [stages.place(each) for each in sorted(work, key=_order)]
    # Another algorithm has other operations throughout: what it computes is the state.
    states = [place for place in places if place[1] == "state"]
    return (*states, *places, stages.place(node))[0]


def _order(node: Node) -> tuple[str, int]:
    return node.path, int(node.port.partition(" ")[2])


def _read(folder: Path, output: Tensor) -> Recording:
    """Outputs that another engine wrote, by the names of its modules."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise InspectionError(
            f"audit: 'recorded' expected a folder with *.safetensors files, got {str(folder)!r}."
        )
    values: dict[Node, Tensor] = {}
    logits = None
    for file in files:
        try:
            loaded = load_file(file)
        except SafetensorError as error:
            raise InspectionError(
                f"audit: 'recorded' {file.name} cannot be read: {error}"
            ) from None
        for name, part in loaded.items():
            if name == "logits":
                logits = part
            for port in ("out ", "out [0]"):
                values[Node(name, 0, port)] = part
    if logits is None or logits.shape != output.shape:
        found = "none" if logits is None else f"the sizes {tuple(logits.shape)}"
        raise InspectionError(
            f"audit: 'recorded' expected a tensor 'logits' of the sizes {tuple(output.shape)}, got "
            f"{found}."
        )
    values[Node("", 0, "out ['logits']")] = logits
    return Recording(calls=[values], operations=[{}], output=logits)
