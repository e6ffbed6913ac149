"""``audit``: which layer, and which stage of it, made a run differ from the model in float64.

What a part of the model adds by itself (``own``), times what one unit of it moves the number, is
its share of the change (:mod:`dsf.attribution.two_runs`). The shares sum to the change.
"""

import copy
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property, partial
from inspect import signature
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dsf.attribution import targets, two_runs
from dsf.attribution.stages import Place, Stages
from dsf.attribution.targets import Positions, Target
from dsf.attribution.trace import call_of
from dsf.attribution.two_runs import Node, Walk
from dsf.inspection import Adapter, InspectionError
from dsf.inspection.capture.containers import lent
from dsf.inspection.capture.isolation import restored
from dsf.inspection.capture.precision import dtype_of, expected_rounding, guarded, in_float64
from dsf.inspection.choice import Chosen
from dsf.inspection.examine import Examination, examine, wide_copy
from dsf.inspection.model_input import (
    IDS,
    MASK,
    ModelInput,
    explained,
    model_input,
    number_type,
    tokens_shown,
    without_cache,
)
from dsf.inspection.results.layers import InspectedLayer
from dsf.inspection.softmax.attention import plain_experts
from dsf.interventions.edits import RoundState, state_type
from dsf.interventions.intervention import live_model
from dsf.interventions.ledger import Ledger, LedgerRow, by_weight
from dsf.interventions.state_budget import is_recurrent
from dsf.loading.folder import opened_safetensors
from dsf.runtime.argument_checks import checked
from dsf.runtime.shapes import at_least

CACHES = ("cache", "past_key_values", "cache_params", "state")
"""Names under which a model takes its cache, and returns it."""
POSITIONS = "position_ids"
"""Passed to a model that decodes, as ``generate`` does: not every cache knows its length."""
POINTS = ((1, 5e-3), (2, 1e-2), (4, 1e-2), (8, 1e-2), (16, 0.0))
"""Numbers of points of the way, each with the relative residual that needs no further ones."""
MAX_OF_CANCELLED = 1e-3
"""The same, relative to what shares of this size and random signs sum to: their root sum of
squares. Where a change cancels itself to less than a tenth of it, more digits cost passes alone."""
MAX_OWN_OF_ONE_POINT = 1e-4
"""Maximum own, relative, for which one point of the way is tried first."""
HALF = (torch.bfloat16, torch.float16)
MAX_RATIO, MAX_RATIO_OF_HALF = 8.0, 2.0
"""Maximum ratio of an own to that of a healthy run: in a half type results are rounded last, in
others sums are made in another order."""
MAX_ROUNDINGS, MAX_ROUNDINGS_OF_HALF = 4.0, 0.5
"""Maximum own of a single operation, in units of the last place."""
MIN_GAIN = 1 / 128
"""Minimum systematic gain of an accusation, in units of the last place of a half type."""
MIN_SPREADS = 6.0
"""Minimum ratio of a systematic gain to the standard error of its mean over tokens."""
MIN_TOKENS = 16
"""Minimum number of tokens over which a gain is averaged."""
FIRST_SHARE = 0.5
"""Share of an accusation's threshold from which a token counts as the first."""
FIRST_RATIO = 1.5
"""Maximum ratio of a token's own to the largest of a healthy run."""
FIRST_OF_LARGEST = 0.05
"""The same, as a share of the largest own of any token."""
FIRST_OF_RATIO = 0.9
"""Minimum ratio of a gain to its standard error from the first token on, to the largest such."""
MIN_CHANGE = 1e-11
"""Maximum own, relative, of two runs that are the same."""
HEADED_AXES = 4
"""Axes of the values of a mixer with heads: ``sample head time channel``."""
HEADS_SHARE = 0.9
"""Share of the sum of all heads' magnitudes that the listed heads carry."""


@checked
@torch.inference_mode(False)
def audit(  # noqa: PLR0913 (one for each kind of run)
    model: nn.Module | str | Path,
    *inputs: Any,
    suspect: nn.Module | str | None = None,
    decode: int | None = None,
    dtype: torch.dtype | str | None = None,
    state_dtype: torch.dtype | str | None = None,
    chunk: int | None = None,
    recorded: str | Path | None = None,
    target: Target | None = None,
    against: Target | None = None,
    position: Positions = -1,
    layers: Chosen = None,
    heads: Chosen = None,
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
        dtype: what a checkpoint holds in another number type, as loading in that type does.
        state_dtype: recurrent states rounded to another number type after every token, and nothing
            else: a floating type, or ``"int8"``, ``"int4"`` with one scale for each head.
        chunk: another number of tokens in a chunk, for mixers that compute in chunks.
        recorded: a folder with ``*.safetensors`` files, or one file, of another engine's outputs
            by the names of the modules, such as ``model.layers.0``, and its ``logits``.
        target, against, position: the number whose change is explained, as for ``dsf.attribute``:
            by default the logit of the predicted token minus that of its runner-up.
        layers: whose rows are listed: numbers of blocks, names of modules, patterns, or several of
            these; the others become one row. All by default.
        heads: of these mixers, whose shares are listed: numbers or slices; the others become one
            row. All by default.
        adapters: how to read modules of your own, as for ``dsf.inspect``.

    Raises:
        InspectionError: if a run fails, or the two have nothing in common.
        LoadError: if a file of ``recorded`` cannot be read.
        ValueError: if the options exclude each other.

    Example:
        >>> import dsf
        >>> from dsf.models import folder
        >>> ledger = dsf.audit(folder("text_mamba2"), "And all our yesterdays", dtype="bfloat16")
        >>> ledger.is_healthy, abs(ledger.residual) < 0.01 * abs(ledger.actual)
        (True, True)
    """
    given = model_input(model, inputs, named, where="audit")
    if isinstance(suspect, str):
        if suspect != "decode":
            raise ValueError(f"audit: 'suspect' expected a module or 'decode', got {suspect!r}.")
        suspect, decode = None, 1 if decode is None else decode
    about = "the model as it is loaded" if suspect is None else f"another {type(suspect).__name__}"
    module = given.model if suspect is None else suspect
    kind_of_weights = number_type(dtype, "audit")
    if kind_of_weights is not None:
        about += f", {kind_of_weights}".replace("torch.", "")
        module = _in_types(module, dict.fromkeys(module.state_dict(), kind_of_weights))
    if chunk is not None:
        module = copy.deepcopy(module) if kind_of_weights is None else module
        _set_chunks(module, at_least(1, "audit", "chunk", chunk))
        about += f", chunks of {chunk} tokens"
    if decode is not None:
        at_least(1, "audit", "decode", decode)
        about += f", the last {decode} token{'s' * (decode > 1)} one at a time"
    is_other = (suspect, decode, chunk) != (None,) * 3
    kind = _Kind(about, module, decode or 0, is_other=is_other)
    if recorded is not None:
        if (suspect, decode, dtype, state_dtype, chunk) != (None,) * 5:
            raise ValueError("audit: 'recorded' expected no other suspect. Leave the others out.")
        kind = _Kind(f"recorded outputs {recorded}", given.model, recorded=Path(recorded))
    if state_dtype is not None:
        if decode is not None:
            raise ValueError(
                "audit: 'state_dtype' expected no 'decode', since states are rounded after every "
                "token in both. Leave one out."
            )
        stored = state_type("audit", "state_dtype", str(state_dtype).removeprefix("torch."))
        about = f"{kind.about}, states in {stored}" + " bits" * isinstance(stored, int)
        kind = replace(kind, about=about, state=stored, is_other=True)
    found = _Audit(given, adapters, kind).ledger(target, against, position)
    found = found if layers is None else found.of_layers(layers)
    return found if heads is None else found.of_heads(heads)


@dataclass(frozen=True, eq=False)
class _Kind:
    """What the run under suspicion is.

    ``state`` is to what states are rounded. With ``is_other`` a run of the model itself in the
    suspect's number type says what is expected, else the law of number types.
    """

    about: str
    module: nn.Module
    decode: int = 0
    recorded: Path | None = None
    state: int | str | None = None
    is_other: bool = False


def _in_types(model: nn.Module, kinds: Mapping[str, torch.dtype]) -> nn.Module:
    """Return a copy with weights and buffers in the number types of their names.

    What a checkpoint does not hold has no name there and stays as it is: ``model.to`` would round
    the frequencies of rotary positions too, which a model that is loaded in bfloat16 does not.
    """
    found = copy.deepcopy(model)
    for name, part in (*found.named_parameters(), *found.named_buffers()):
        if part.is_floating_point() and name in kinds:
            part.data = part.data.to(kinds[name])
    return found


def _set_chunks(module: nn.Module, chunk: int) -> None:
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


def _between(name: str, part: Any, start: int, stop: int, steps: int) -> Any:
    """The tokens of an input of one call; a mask covers all tokens up to there."""
    if not isinstance(part, Tensor) or part.ndim < 2 or part.shape[1] != steps:
        return part
    return part[:, :stop] if name == MASK else part[:, start:stop]


def _run(model: nn.Module, inputs: Any, named: dict[str, Any], walk: Walk) -> Any:
    with (
        torch.random.fork_rng(),
        plain_experts(model),
        guarded(model),
        walk.watching(),
        explained(model, inputs, named),
    ):
        return model(*lent(inputs), **lent(named))


class _Audit:
    """A reference in float64, and the run under suspicion; ``passes`` counts runs of a model."""

    def __init__(self, given: ModelInput, adapters: Sequence[Adapter], kind: _Kind) -> None:
        self._given, self._adapters, self._kind = given, adapters, kind
        self._model = wide_copy(given.model, adapters).eval().requires_grad_(False)
        self._scopes = two_runs.scopes_of(self._model)
        inputs, named = in_float64((given.inputs, given.named))
        question = Examination(inputs=inputs, named=named, adapters=adapters, checks="none")
        self._layers: Sequence[InspectedLayer] = ()
        with suppress(InspectionError):  # without coefficients a mixer is one stage
            self._layers = examine(self._model, question).layers
        self._widths = {  # of every mixer the number of heads, and the channels of each
            call_of(each)[0]: (value.shape[1], value.shape[-1])
            for each in self._layers
            if isinstance(value := getattr(each.mixer, "value", None), Tensor)
            and value.ndim == HEADED_AXES
        }
        self._clean = Walk(self._model, self._scopes, lambda *_: None)
        self._stages = Stages(self._model, self._clean, self._layers)
        self._clean.meet = self._stages.meet
        self._stages.note_weights()
        with torch.no_grad():
            output = targets.put_out(self._called(self._model, self._clean))
        if output is None:
            raise InspectionError("audit: the model returns no tensor.")
        self._output, self.passes = output, 2
        if kind.recorded is None:
            self._recording = self._recorded(kind.module, kind.decode, kind.state)
        else:
            self._recording = _read(kind.recorded, self._clean)
        found = self._recording.output
        if found is None or found.shape != output.shape:
            got = "none" if found is None else f"the sizes {tuple(found.shape)}"
            raise InspectionError(
                "audit: the run under suspicion expected logits of the sizes "
                f"{tuple(output.shape)}, as the reference has, got {got}."
            )
        self._forced = self._force(self._recording)
        self._check_finite(found)
        if not self._forced.met:
            raise InspectionError(
                f"audit: the two runs of {type(given.model).__name__} have no module in common. "
                "Are the names of the parts the same?"
            )

    def _check_finite(self, output: Tensor) -> None:
        """Raise an error that names where a run begins to have numbers that are not finite."""
        if bool((output.isfinite() | ~self._output.isfinite()).all()):
            return
        where = "its logits"
        if self._forced.overflow is not None:
            node, tokens = self._forced.overflow
            since = _first(tokens, 0.0)
            where = ", ".join(self._stages.place(node)) + f", token {since}" * (since is not None)
        raise InspectionError(
            f"audit: the run under suspicion is not finite from {where} on, where the reference "
            "is, so that its change has no shares. Use a number type of a wider range, such as "
            "bfloat16."
        )

    @property
    def _sizes(self) -> two_runs.Sizes:
        parts = (self._given.named.get(IDS), *self._given.inputs, *self._given.named.values())
        sizes = (part.shape[:2] for part in parts if isinstance(part, Tensor) and part.ndim > 1)
        samples, tokens = next(sizes, (1, 1))
        return samples, tokens

    @property
    def _tokens(self) -> int:
        return self._sizes[1]

    def _called(self, model: nn.Module, walk: Walk) -> Any:
        inputs, named = self._like(model)
        walk.start(self._tokens)
        return _run(model, inputs, without_cache(model, named), walk)

    def _decoded(self, model: nn.Module, last: int, walk: Walk, keep: Callable[[], None]) -> Any:
        """Run a model on all but the last tokens, and then on these, one at a time."""
        samples, steps = self._sizes
        if not 0 < last < steps:
            raise ValueError(
                f"audit: 'decode' expected 1 to {steps - 1} of the {steps} tokens, got {last}."
            )
        if getattr(getattr(model, "config", None), "is_encoder_decoder", False):
            raise InspectionError(
                f"audit: 'decode' expected a model of one sequence, got {type(model).__name__}, "
                "which has an encoder and a decoder. Leave it out."
            )
        known = signature(model.forward).parameters
        takes = next((name for name in CACHES if name in known), None)
        inputs, named = self._like(model)
        if inputs:
            named = {IDS: inputs[0], **named}
        outputs: list[Any] = []
        cache: dict[str, Any] = {}
        if POSITIONS in known:
            device = next(model.parameters()).device
            positions = torch.arange(steps, device=device).expand(samples, -1)
            named = {POSITIONS: positions, **named}
        for start, stop in pairwise([0, *range(steps - last, steps + 1)]):
            part = {name: _between(name, each, start, stop, steps) for name, each in named.items()}
            walk.start(stop - start)
            out = (
                {} if takes is None else _run(model, (), {**part, **cache, "use_cache": True}, walk)
            )
            found = [out[name] for name in CACHES if isinstance(out, dict) and name in out]
            if takes is None or not found:
                raise InspectionError(
                    "audit: 'decode' expected a model that returns a cache, got "
                    f"{type(model).__name__}, which returns none of {', '.join(CACHES)}."
                )
            keep()
            outputs.append(targets.put_out(out))
            cache = {takes: found[0]}
        full = outputs[0]
        if full is None or full.ndim < 3:
            return full
        return two_runs.joined(outputs, torch.Size((full.shape[0], steps, *full.shape[2:])))

    def _like(self, model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kind, device = dtype_of(model), next((p.device for p in model.parameters()), None)

        def fit(part: Tensor) -> Tensor:
            return part.to(device, kind if part.is_floating_point() else part.dtype)

        inputs, named = tree_map_only(Tensor, fit, (self._given.inputs, self._given.named))
        return inputs, named

    def ledger(self, target: Target | None, against: Target | None, position: Positions) -> Ledger:
        given, output, owns = self._given, self._output, self._forced.owns
        shown = tokens_shown(given.inputs, given.named)
        target, against = targets.or_predicted(target, against, output, position, shown)
        of = targets.functional_of(target, against, position, output, given.tokenizer, shown)
        before = float(of.pair(output).sum())
        after = float(of.pair(self._recording.output.to(output)).sum())
        points, moved = 0, two_runs.Moved()
        largest = max((own.relative for own in owns.values()), default=0.0)
        for points, enough in POINTS[largest > MAX_OWN_OF_ONE_POINT :] if owns else ():
            moved = self._moved(of, points)
            shares = [float(part.sum()) for (by, _), part in moved.items() if by == "tokens"]
            most = max(enough * abs(after - before), MAX_OF_CANCELLED * math.hypot(*shares))
            if abs(after - before - math.fsum(shares)) <= most:
                break
        rows = self._rows(moved)
        return Ledger(
            rows=rows,
            total=math.fsum(row.share for row in rows),
            actual=after - before,
            reference=before,
            suspect=after,
            points=points,
            passes=self.passes,
            about=f"{type(given.model).__name__}, {self._tokens} tokens: {self._kind.about}, "
            "against float64",
        )

    def _recorded(
        self, model: nn.Module, decode: int = 0, state: int | str | None = None
    ) -> two_runs.Recording:
        found = two_runs.Recording()
        values: dict[Node, Tensor] = {}
        edited: list[str] = []

        def meet(node: Node, value: Tensor) -> None:
            # What a mixer computes inside before its states are rounded is not of this run.
            is_inside = node.path in edited and node.port.startswith("op")
            if not is_inside and not any(node.path.startswith(f"{path}.") for path in edited):
                values[node] = value.detach().clone()

        walk = Walk(model, self._scopes, meet)

        def keep() -> None:
            self.passes += 1
            found.add(dict(values), walk.operations, self._clean)
            values.clear()

        with restored(model), torch.no_grad():
            model.eval()
            if decode:
                found.output = self._decoded(model, decode, walk, keep)
                self.passes -= decode  # together they are one run
                return found
            if state is None:
                found.output = targets.put_out(self._called(model, walk))
            else:
                edited += [
                    call_of(each)[0] for each in self._layers if is_recurrent(each.mixer.system())
                ]
                if not edited:
                    raise InspectionError(
                        "audit: 'state_dtype' expected a model with recurrent states, got "
                        f"{type(self._model).__name__}, which has none. Use 'dtype'."
                    )
                edits = [RoundState(name, bits=state) for name in edited]
                inputs, named = self._like(model)
                given = model, inputs, without_cache(model, named)
                with live_model(*given, self._adapters) as live:
                    (plan,) = live.plans([edits], {})
                    walk.start(self._tokens)
                    with walk.watching():
                        found.output = live.changed(plan)
            keep()
        return found

    def _force(
        self, recording: two_runs.Recording, only: Collection[Node] | None = None
    ) -> two_runs.Force:
        """Run the reference with the values of another run."""
        force = two_runs.Force(recording, self._sizes, only)
        with torch.no_grad():
            self._called(self._model, Walk(self._model, self._scopes, force))
        self.passes += 1
        return force

    @cached_property
    def _coarse(self) -> two_runs.Force:
        """The suspect, forced at the modules around and outside of mixers alone."""
        around = [node for node in self._forced.met if self._stages.is_around(node)]
        return self._force(self._recording, around)

    @cached_property
    def _healthy(self) -> two_runs.Force:
        """A run of the model itself in the suspect's number type, forced at the same nodes.

        Without nodes where the law of number types says what is expected.
        """
        kind, twin = dtype_of(self._kind.module), self._given.model
        if not self._kind.is_other or kind is torch.float64:
            return two_runs.Force(two_runs.Recording(), self._sizes)
        computed = {
            name: part.dtype
            for name, part in self._kind.module.named_buffers()
            if part.is_floating_point()
        }
        kinds = computed | dict.fromkeys(twin.state_dict(), kind)
        return self._force(self._recorded(_in_types(twin, kinds)), self._forced.met)

    def _moved(self, of: Any, points: int) -> two_runs.Moved:
        """What every own moves, averaged over points of the way between the runs."""
        found = two_runs.Moved()
        places, weights = np.polynomial.legendre.leggauss(points)
        for at, weight in zip((1 + places) / 2, weights / 2, strict=True):
            with torch.enable_grad():
                factor = torch.tensor(float(at), dtype=torch.float64, requires_grad=True)
                heads_of = lambda node: self._widths.get(self._stages.layer_of(node))  # noqa: E731
                inject = two_runs.Inject(self._forced.owns, self._sizes, factor, heads_of)
                walk = Walk(self._model, self._scopes, inject)
                out: Any = targets.put_out(self._called(self._model, walk))
                of.pair(out).sum().backward()
            for key, part in inject.moved.items():
                found[key] = found.get(key, torch.zeros_like(part)) + float(weight) * part
            self.passes += 2
        return found

    def _limit(self, node: Node) -> float:
        """The own that number type and length, or a healthy run in the same type, explain."""
        if not self._kind.is_other:
            return expected_rounding(dtype_of(self._kind.module), self._tokens)
        if node not in self._healthy.met:
            return MIN_CHANGE
        own, kind = self._healthy.owns.get(node), self._healthy.met[node]
        if self._forced.met[node] is dtype_of(self._kind.module):  # it may round there, too
            kind = self._forced.met[node]
        ratio = MAX_RATIO_OF_HALF if kind in HALF else MAX_RATIO
        roundings = MAX_ROUNDINGS_OF_HALF if kind in HALF else MAX_ROUNDINGS
        healthy = 0.0 if own is None else own.relative
        return max(ratio * healthy, roundings * torch.finfo(kind).eps, MIN_CHANGE)

    def _compared(self, node: Node) -> tuple[float, float, int | None]:
        """The own of a node, what is expected of it, and the first token that exceeds that.

        Where that explains it, the own before a cast, or the systematic gain, if it exceeds: how
        much larger than in a healthy run a node of half type is, since rounding goes both ways.
        """
        own, limit = self._forced.owns[node], self._limit(node)
        well, wide = self._healthy.owns.get(node), own.before_cast
        if own.relative > limit:
            most = 0.0 if well is None else FIRST_RATIO * float(well.tokens.max())
            return own.relative, limit, _first(own.tokens, max(most, FIRST_SHARE * limit))
        if wide is not None:
            healthy = None if well is None else well.before_cast
            most = 0.0 if healthy is None else MAX_RATIO_OF_HALF * healthy.relative
            most = max(most, expected_rounding(wide.kind, self._tokens))
            if wide.relative > most:
                return wide.relative, most, _first(wide.tokens, FIRST_SHARE * most)
        is_half = self._forced.met[node] in HALF and node in self._healthy.met
        if is_half and len(own.gains) >= MIN_TOKENS:
            gains = own.gains if well is None else own.gains - well.gains
            spread = float(gains.std()) / len(gains) ** 0.5
            floor = MIN_GAIN * torch.finfo(self._forced.met[node]).eps
            gain, most = abs(float(gains.mean())), max(floor, MIN_SPREADS * spread)
            if gain > most:
                return gain, most, _begin_of_gain(gains)
        return own.relative, limit, None

    def _rows(self, moved: two_runs.Moved) -> tuple[LedgerRow, ...]:
        places: dict[Place, list[Node]] = {}
        for node in self._forced.owns:  # in the order in which they ran
            places.setdefault(_place(self._stages, self._forced, node), []).append(node)
        rows, cumulative = [], 0.0
        for (layer, stage), nodes in places.items():
            found = [self._compared(node) for node in nodes]
            worst, expected, _ = max(found, key=lambda one: one[0] / one[1])
            tokens, heads = (
                [moved[by, node] for node in nodes if (by, node) in moved]
                for by in ("tokens", "heads")
            )
            share, by_head = math.fsum(float(part.sum()) for part in tokens), _summed(heads)
            cumulative += share
            sizes, order = by_head.abs().sort(descending=True)
            strongest = order[sizes.cumsum(0) - sizes < HEADS_SHARE * sizes.sum()]
            first, blamed = None, [token for own, limit, token in found if own > limit]
            if accused := self._kind.is_other and bool(blamed):
                known = [token for token in blamed if token is not None]
                first = min(known) if known else self._first_of(layer)
            row = LedgerRow(
                layer=layer,
                stage=stage,
                own=worst,
                expected=expected,
                share=share,
                cumulative=cumulative,
                first=first,
                accused=accused,
                tokens=tuple(_summed(tokens).tolist()),
                heads=tuple(strongest.tolist()),
                by_head=tuple(by_head.tolist()),
            )
            rows.append(row)
        for layer, own in self._beyond().items():
            of_layer = [at for at, row in enumerate(rows) if row.layer == layer]
            if of_layer:
                at = max(of_layer, key=lambda at: abs(rows[at].share))
                first = self._first_of(layer)
                rows[at] = replace(rows[at], own=own.relative, accused=True, first=first)
        return tuple(sorted(rows, key=by_weight))

    def _beyond(self) -> dict[str, two_runs.Own]:
        """Without a healthy run, what layers as a whole added if it is more than is explained."""
        found: dict[str, two_runs.Own] = {}
        if self._kind.is_other:
            return found
        rounding = expected_rounding(dtype_of(self._kind.module), self._tokens)
        for node, own in sorted(self._coarse.owns.items(), key=lambda pair: pair[1].relative):
            if own.relative > rounding:
                found[self._stages.layer_of(node)] = own
        return found

    def _first_of(self, layer: str) -> int | None:
        """The first token at which a layer as a whole adds what it adds at most at any."""
        owns = [
            own
            for node, own in self._coarse.owns.items()
            if self._stages.layer_of(node) == layer and len(own.tokens) > 1
        ]
        if not owns:
            return None
        own = max(owns, key=lambda own: own.relative)
        return _first(own.tokens, FIRST_OF_LARGEST * float(own.tokens.max()))


def _first(tokens: Tensor, limit: float) -> int | None:
    """The first token above a limit; None where tokens are not apart."""
    if len(tokens) < 2:
        return None
    beyond = (tokens > limit).nonzero().flatten()
    return int(beyond[0]) if len(beyond) else None


def _begin_of_gain(gains: Tensor) -> int:
    """The first token from which on the mean is as far from zero as from any later one."""
    left = torch.arange(len(gains), 0, -1, dtype=gains.dtype, device=gains.device)
    sums, squares = (part.flip(0).cumsum(0).flip(0) / left for part in (gains, gains.square()))
    spreads = ((squares - sums.square()).clamp_min(0) / left).sqrt()
    ratios = (sums.abs() / spreads)[: len(gains) - MIN_TOKENS + 1]
    return int((ratios >= FIRST_OF_RATIO * ratios.max()).nonzero()[0])


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """The sum of those parts that have the most entries."""
    longest = max((len(part) for part in parts), default=0)
    whole = [part for part in parts if len(part) == longest]
    return torch.stack(whole).sum(0) if whole else torch.zeros(0)


def _place(stages: Stages, forced: two_runs.Force, node: Node) -> Place:
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
    order = sorted(work, key=lambda each: (each.path, int(each.port.partition(" ")[2])))
    places = [stages.place(each) for each in order]
    # Another algorithm has other operations throughout: what it computes is the state.
    states = [place for place in places if place[1] == "state"]
    return (*states, *places, stages.place(node))[0]


def _read(folder: Path, reference: Walk) -> two_runs.Recording:
    """Outputs that another engine wrote, by the names of its modules."""
    files = sorted(folder.glob("*.safetensors")) if folder.is_dir() else [folder]
    if not files or not all(file.is_file() for file in files):
        raise InspectionError(
            f"audit: 'recorded' expected a folder with *.safetensors files, got {str(folder)!r}."
        )
    values: dict[Node, Tensor] = {}
    for file in files:
        with opened_safetensors(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (it has no other way)
                part = opened.get_tensor(name)
                values |= dict.fromkeys((Node(name, 0, "out "), Node(name, 0, "out [0]")), part)
    logits = values.get(Node("logits", 0, "out "))
    if logits is None:
        raise InspectionError("audit: 'recorded' expected a tensor 'logits', got none.")
    values[Node("", 0, "out ['logits']")] = logits
    recording = two_runs.Recording(output=logits)
    recording.add(values, {}, reference)
    return recording
