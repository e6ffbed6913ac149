"""Token mixers that no adapter names: tried by the parameters that they have, or probed.

What a family makes of the recorded input of a module with its parameters is compared with the
module itself in float64: what fits is read; of what does not fit it is said by how much it is off.
Modules that mix tokens and fit no family are probed with unit values, within a budget of passes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor, nn

from dsf.inspection.adapter import Adapter, Structure
from dsf.inspection.capture.calls import Call, Invocation, Through, bound
from dsf.inspection.capture.containers import are_numbers, tensors_in
from dsf.inspection.capture.modes import at_rest
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import in_float64
from dsf.inspection.causal import replay
from dsf.inspection.causal.coordinates import Coordinates
from dsf.inspection.causal.findings import ModuleFinding, part_reason, unread_reason
from dsf.inspection.causal.replay import Cell, Held, Moved, Repetition, UnclearError
from dsf.inspection.causal.replay import own as own_elements
from dsf.inspection.causal.roles import SLOT, TOKEN
from dsf.inspection.errors import InspectionError, ReconstructionError, UnreadableError, is_fault
from dsf.inspection.families.registry import Known
from dsf.inspection.probing.driven import Driven, Exchanges, Ports
from dsf.inspection.probing.port_choice import ROUNDINGS
from dsf.inspection.probing.probe import FAMILY, Budget, Probe, Prober, Program
from dsf.inspection.rebuild import Limits, rebuild
from dsf.inspection.recording import Exchanged, Recording, Value, instead, values_in
from dsf.inspection.results.layers import ALL, InspectedLayer

Candidates = Mapping[str, tuple[Structure, ...]]
EACH, TOGETHER, NUMBERS = 1024, 8192, 2**25
"""The passes that are made unasked: for the map of one module, for all; and the size of a map."""
MOST_INSIDE = 4
"""A module with more mixers inside that were read is a part of the model, and is not probed."""
LEAST = 0.5
"""A map that was not asked for is offered where it explains this share of what its module moves."""


@dataclass(eq=False)
class Further:
    """What became of modules that were tried or probed.

    Attributes:
        known: the adapter and family of every module that is read, by its path.
        calls: of these modules.
        layers: what was built of a call already, so that it need not be built again.
        shares: of a call that was probed, how much of what a token moves its map explains.
        failed: by the path of a module that is not read, what it was tried as, in words.
        on_probed: attentions that work on what a probed part of their module returns.
        probers: of the modules that are to be probed.
    """

    known: Known = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    layers: dict[Call, InspectedLayer] = field(default_factory=dict)
    shares: dict[Call, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    on_probed: set[Call] = field(default_factory=set)
    probers: dict[nn.Module, Prober] = field(default_factory=dict)

    def fail(self, path: str, words: str) -> None:
        self.failed[path] = f"{self.failed[path]}. {words}" if path in self.failed else words

    def reason(self, path: str, finding: ModuleFinding) -> str:
        """Why a module is listed in which tokens meet; empty if it is not."""
        shares = [share for call, share in self.shares.items() if call.module is finding.module]
        tried = self.failed.get(path)
        if path in self.known and not tried:
            least = min(shares, default=1.0)
            return "" if not least < ALL else part_reason(finding, least)
        if not finding.is_listed:
            return ""
        return f"{unread_reason(finding, is_tried=bool(tried))}{f'. {tried}' if tried else ''}"

    def replaces(self, call: Call) -> bool:
        """Whether another map of the forward pass in which a call ran takes its place."""
        if call.invocation is None or call in self.calls or call in self.on_probed:
            return False
        return any(call.invocation is one.invocation for one in self.calls)

    def covers(self, time: int) -> bool:
        """Whether what happened at a time happened inside of a module that was read."""
        spans = (call.invocation for call in self.calls)
        return any(one is not None and one.began <= time < one.ended for one in spans)


def tried(
    passes: Sequence[Invocation],
    model: nn.Module,
    probers: Mapping[str, Prober],
    possible: Candidates,
    limits: Limits,
) -> Further:
    """Take the modules that are to be probed, and try others as families that they may be of."""

    def calls_at(path: str) -> list[Call]:
        module = model.get_submodule(path)
        return [call_of(path, one) for one in passes if one.module is module and one.ended]

    found = Further()
    for path, prober in probers.items():
        if calls := calls_at(path):
            found.known[path] = prober.adapter, FAMILY
            found.probers[calls[0].module] = prober
            found.calls += calls
    of_class: dict[type, tuple[str, int]] = {}
    for path, structures in possible.items():
        calls = calls_at(path)
        if not calls or found.covers(calls[0].time - 1):
            continue
        kind = type(calls[0].module)
        fitting = _fitting(calls[0], structures, limits, of_class.get(kind))
        if isinstance(fitting, str):
            found.fail(path, f"It was {fitting}")
            continue
        adapter, family, layer, of_class[kind] = fitting
        found.known[path] = adapter, family
        found.calls += calls
        found.layers[calls[0]] = layer
    return found


def call_of(path: str, one: Invocation) -> Call:
    """A forward pass of a module as the call of a token mixer."""
    arguments = bound(one.module.forward, one.args, one.kwargs)
    call = Call(path, one.module, arguments, one.output, invocation=one, time=one.ended)
    call.seen = {"output": one.made[0]} if one.made else {}
    known = dict(zip(map(id, tensors_in((one.args, one.kwargs))), one.given, strict=False))
    call.made_of = {
        name: [known.get(id(tensor)) for tensor in tensors_in(part)]
        for name, part in arguments.items()
    }
    return call


def _fitting(
    call: Call, structures: Sequence[Structure], limits: Limits, first: tuple[str, int] | None
) -> tuple[Adapter, str, InspectedLayer, tuple[str, int]] | str:
    """The adapter that reproduces a call, with its place; or what the call was tried as."""
    readings = {
        (structure.title, k): (structure, adapter)
        for structure in structures
        for k, adapter in enumerate(structure.readings(call.module))
    }
    order = sorted(readings, key=lambda place: place != first)
    off: dict[str, float] = {}
    words: dict[str, str] = {}
    for place in order:
        structure, adapter = readings[place]
        try:
            (layer,) = (build() for _, build in rebuild(call, adapter, structure.family, limits))
        except ReconstructionError as error:
            before = off.get(structure.title, math.inf)
            off[structure.title] = min(before, error.formula) if error.formula >= 0 else before
            cause = error.__cause__ or error
            kind = f"{type(cause).__name__}: " if error.__cause__ else ""
            said = "its parts are others" if is_fault(cause) else f"{kind}{cause}"
            words.setdefault(structure.title, said.rstrip(". \n"))
        except InspectionError as error:
            words.setdefault(structure.title, str(error).rstrip("."))
        else:
            return adapter, structure.family, layer, place
    return "; ".join(
        f"tried as {title}, off by {off[title]:.1g}"
        if math.isfinite(off.get(title, math.inf))
        else f"tried as {title}, which fails: {reason}"
        for title, reason in words.items()
    )


def probe_all(
    findings: Sequence[ModuleFinding],
    where: ModuleStack,
    limits: Limits,
    found: Further,
    *,
    instead_of: Sequence[Call] = (),
    is_known: bool = False,
) -> None:
    """Probe the modules that mix tokens and were not read, or only in part, within the budget.

    Where maps of a module were read that are not all of it, one that is probed takes their place if
    it is.

    Args:
        is_known: whether a family of the model is known, whose layers no map of a part joins.
    """
    budget = Budget(each=EACH, together=TOGETHER, numbers=NUMBERS)
    ports: dict[Program, Ports] = {}
    nowhere: dict[Program, list[str]] = {}
    for one in findings:
        if not _is_probed(one, instead_of):
            continue
        path = where.name_of(one.module)
        inside = max(len(held.calls) for _, held in one.runs)
        if inside > (MOST_INSIDE if path else 0) and not one.is_read:
            found.fail(
                path,
                f"It was not probed unasked, since {inside} token mixers that were read run in it; "
                "pass probe=(path,) to probe it",
            )
            continue
        made, failed = list[_Probed](), ""
        for invocation, held in one.runs:
            worth = partial(share_of_probed, invocation, held, most=FIRST_DRAWS)
            prober = Prober(Probe(), budget, ports, nowhere, worth=worth)
            # No part of what has mixers inside that were read, such as a model of the library.
            least = ALL if one.is_read or is_known or inside else LEAST
            try:
                made.append(_probe(call_of(path, invocation), held, prober, limits, least=least))
                if one.is_read and not one.mixes and prober.driven.ports.factors:
                    raise UnreadableError("an attention in it was read, which says more")
            except InspectionError as error:
                failed = f"It was probed, but {str(error).rstrip('.')}"
        if one.is_read and failed:
            continue
        for call, adapter, layer, share, behind in made:
            found.known[call.name] = adapter, FAMILY
            found.calls.append(call)
            found.layers[call] = layer
            found.on_probed |= behind
            found.shares |= {call: share, **dict.fromkeys(behind, 1.0)}
        if failed:
            found.fail(path, failed)


_Probed = tuple[Call, Adapter, InspectedLayer, float, set[Call]]
"""A call, how it was read, its layer and share, and the attentions that work on its response."""


def _is_probed(one: ModuleFinding, instead_of: Sequence[Call]) -> bool:
    if isinstance(one.module, torch.jit.ScriptModule) or one.is_of_latents:
        return False
    if instead_of:
        return any(run is call.invocation for run, _ in one.runs for call in instead_of)
    free = (call.through for _, held in one.runs for call in held.free)
    # Heads of the library's attention stay heads.
    return one.is_listed and one.mixes is not None and Through.INTERFACE not in free


def _probe(call: Call, held: Held, prober: Prober, limits: Limits, *, least: float) -> _Probed:
    adapter, run = prober.adapter, call.invocation
    assert run is not None  # noqa: S101  # of ``call_of``
    with run.as_it_began():
        (layer,) = (build() for _, build in rebuild(call, adapter, FAMILY, limits))
    driven = prober.driven
    share = share_of_probed(run, held, driven)
    if math.isnan(share):
        raise UnreadableError("it is not known which share of a token's effect its map explains")
    if share < least:
        value, response = driven.ports.names
        raise UnreadableError(
            f"the map from {value} to {response} explains only {share:.0%} of what a token moves"
        )
    if share >= ALL:
        call.explained, call.further = _explained(run, held, driven), list(run.made[1:])
    call.counted = {*driven.value.token_axes}, {*driven.value.sample_axes}
    layer, behind = labelled(layer, driven), _behind(run, held, driven)
    is_of_tokens = not (driven.has_own_rows or bool((layer.row_tokens < 0).any()))
    for one in () if is_of_tokens else behind:  # its keys are rows of the map
        one.maps = one.maps and replace(one.maps, columns=SLOT, column_tokens=None)
    return call, adapter, layer, share, behind


def labelled(layer: InspectedLayer, driven: Driven) -> InspectedLayer:
    """A layer that was probed, with the tokens of its rows and columns."""
    if not driven.value.token_axes:  # it was asked for with a view of its own
        return layer
    layer = replace(layer, columns=SLOT if driven.has_slots else TOKEN)
    rows, columns = driven.tokens()
    batch = layer.system.batch
    is_in_order = torch.equal(columns, torch.arange(len(columns)))
    if not (driven.has_own_rows and is_in_order):
        layer = replace(layer, row_order=rows.expand(*batch, -1))
    if not is_in_order:
        layer = replace(layer, column_order=columns.expand(*batch, -1))
    return layer


def _explained(invocation: Invocation, held: Held, driven: Driven) -> int:
    """How many of its outputs a module makes of the response alone, from the first."""
    recording, besides = driven.recording, driven.ports.besides
    further = outputs_of(recording, invocation)[1:]
    kept = {one for one in further if one is not None}
    if not kept:
        return 1
    _, response, _ = driven.original()
    try:
        for draw in replay.draws(invocation):
            cells = replay.cells_drawn(invocation, draw)
            new = replaced(recording, invocation, held, cells, draw)
            now = recording.replay([*new, driven.with_response(lambda _: response)], kept)
            kept = {
                one
                for one in kept
                if one in besides or torch.equal(now[one], recording.tensor(one))
            }
    except (UnclearError, UnreadableError):
        return 1
    return 1 + [*(one in kept for one in further), False].index(False)


def _behind(invocation: Invocation, held: Held, driven: Driven) -> set[Call]:
    """The attentions of a forward pass that work on the response of a map that is probed."""
    recording, rng = driven.recording, torch.Generator().manual_seed(0)

    def other(now: Tensor) -> Tensor:
        return now + now.square().mean().sqrt() * torch.randn(now.shape, generator=rng).to(now)

    try:
        values = {call: value_of(recording, call.arguments["value"]) for call in held.free}
        holding = kept_in(recording, invocation, replace(held, free=frozenset()), ())
        found = recording.replay([*holding, driven.with_response(other)], values.values())
    except (UnclearError, UnreadableError):
        return set()
    return {
        call
        for call, value in values.items()
        if not torch.allclose(found[value], recording.tensor(value))
    }


FIRST_DRAWS = 4
"""How often many tokens are replaced where it is only chosen what is probed, as in ``draws``."""


def share_of_probed(
    invocation: Invocation, held: Held, driven: Driven, *, most: int | None = None
) -> float:
    """How much of what a token moves a map that is probed explains; nan if that is unclear."""
    # What the program makes of numbers that leave torch is held in a replay, as is what it takes
    # from elsewhere.
    moved = None if driven.recording.is_all else replay.moved
    held = _beside(invocation, held, driven)

    def of_draw(draw: int) -> float:
        try:
            of_tokens = draw != 0  # what a single token moves beyond them counts
            real = moved and moved(invocation, held, draw=draw, of_tokens=of_tokens)
            with at_rest():
                return _share_in_replays(invocation, held, driven, draw, real)
        except (UnclearError, UnreadableError):
            return math.nan

    share = of_draw(0)
    for draw in replay.draws(invocation)[:most]:  # of many tokens, which may meet elsewhere
        if not share < ALL and not math.isnan(of_many := of_draw(draw)):
            share = of_many if math.isnan(share) else min(share, of_many)
    return share


def _share_in_replays(
    invocation: Invocation, held: Held, driven: Driven, draw: int, real: Moved | None
) -> float:
    recording = driven.recording
    cells = replay.cells_drawn(invocation, draw)
    outputs = outputs_of(recording, invocation)
    there = [one for one in outputs if one is not None]
    recorded = [None if one is None else recording.tensor(one) for one in outputs]

    def moved_with(exchanged: Exchanges) -> Moved:
        now = recording.replay(exchanged, there)
        after = Repetition(outputs=[None if one is None else now[one] for one in outputs])
        return replay.moved_between(invocation, cells, recorded, after, of_tokens=draw != 0)

    new = replaced(recording, invocation, held, cells, draw)
    every = moved_with(new)
    if real is not None:
        first = next(filter(are_numbers, invocation.outputs))
        changed = real.difference.to(every.difference)
        if not (gap := (changed - every.difference).norm()) <= _rounding(first) * changed.norm():
            return 0.0 if draw and gap.isfinite() else math.nan
    values, response, _ = driven.original()
    rest = driven.response_to([], torch.zeros_like)
    other_rest = driven.response_to(new, torch.zeros_like)
    spilled = _elsewhere(values, driven.values_in(new), driven.value.own(cells))
    own = driven.response.own(cells).unsqueeze(-1)
    if not replay.puts_out_tokens(invocation, cells):
        moved = driven(driven.values_in(new))
        of_tokens = {*driven.value.token_axes} & {*driven.response.token_axes}
        if draw == 0 and of_tokens and not _elsewhere(response, moved, own.squeeze(-1)):
            return 0.0  # a map of each token to itself, behind which they meet
        spilled = max(spilled, _behind_response(invocation, held, driven))
        own = torch.zeros_like(own)

    def kept(now: Tensor) -> Tensor:
        """The response of the recorded values, with what other tokens add past them."""
        return torch.where(own.to(now.device), now, response + other_rest - rest)

    left = moved_with([*new, driven.with_response(kept), *driven.besides(new)])
    if draw and not every.mixes:  # all that they move is themselves
        return math.nan
    return min(replay.share_of(every, left), 1 - spilled)


def _beside(invocation: Invocation, held: Held, driven: Driven) -> Held:
    """What is held but for unread modules between values and response, which are in the map."""
    recording, ports = driven.recording, driven.ports
    way = recording.made_of([ports.value]) & recording.making(ports.response)
    on_it = {
        call.name
        for call in recording.calls
        if any(value.memory in way for value in values_in(call.output))
    }
    paths = {module: path for path, module in invocation.module.named_modules()}
    others = [one for one in held.invocations if paths.get(one.module) not in on_it]
    return replace(held, invocations=others)


def _behind_response(invocation: Invocation, held: Held, driven: Driven) -> float:
    """How much of what a row of the response moves lies in other rows of the output, 0 to 1."""
    # New tokens, as of patches, may meet behind a map that makes them of those of the input.
    recording, rows = driven.recording, driven.put_out
    if rows is None or not set(rows.token_axes) & set(driven.response.token_axes):
        return 0.0
    _, response, before = driven.original()
    row, kept = response.shape[1] // 2, kept_in(recording, invocation, held, ())
    new = response.clone()
    new[:, row] += response.square().mean().sqrt()
    output = recording.first_output
    after = recording.replay([*kept, driven.with_response(lambda _: new)], [output])[output]
    own = rows.rows_of(row, driven.response).expand(rows.sizes[:2])
    return _elsewhere(rows.arranged(before), rows.arranged(after), own)


LEAST_ALIKE = 1e-2
"""How far a replay may be from the module itself, whose numbers are rounded to its number type."""


def _rounding(numbers: Tensor) -> float:
    """The same for numbers of the run."""
    return min(ROUNDINGS * torch.finfo(numbers.dtype).eps, LEAST_ALIKE)


def replaced(
    recording: Recording, invocation: Invocation, held: Held, cells: Sequence[Cell], draw: int
) -> Exchanges:
    """What replaces tokens of what a module was given, while held mixers return what they did."""
    rng = torch.Generator().manual_seed(replay.SEED + 1 + abs(draw))
    found: list[Exchanged] = []
    for value in dict.fromkeys(recording.given):
        given, how = recording.tensor(value), replay.replacing(draw)
        new = replay.with_other_tokens(given, recording.seen[value], cells, rng, how)
        if new is not None:
            found.append(instead(value, new))
    if not found:
        raise UnclearError("none of its tokens could be replaced")
    return [*found, *kept_in(recording, invocation, held, cells)]


def outputs_of(recording: Recording, invocation: Invocation) -> list[Value | None]:
    """The values in the places of ``invocation.outputs``; None for each that there is not."""
    count = len(tensors_in(invocation.output))
    put_out = [*values_in(recording.output), *[None] * count][:count]
    attributes = (recording.attributes.get(name) for name in invocation.attributes)
    written = (recording.left[k] if k < len(recording.left) else None for k in invocation.written)
    return [*put_out, *attributes, *written]


def kept_in(
    recording: Recording, invocation: Invocation, held: Held, cells: Sequence[Cell]
) -> Exchanges:
    """What keeps the outputs of held mixers as they were, but for the replaced tokens."""
    paths = {module: path for path, module in invocation.module.named_modules()}
    found: list[Exchanged] = []
    for module, several in replay.outputs_held(held, invocation).items():
        calls = [call for call in recording.calls if call.name == paths.get(module)]
        for call, (_, made, _) in zip(calls, several, strict=False):
            for value, seen in zip(values_in(call.output), made, strict=False):
                found.append(_keeping(recording, value, seen, cells))
    for one in held.calls:
        if one.through is not Through.MODULE and one not in held.free:
            value = value_of(recording, one.first_output)
            found.append(_keeping(recording, value, one.seen.get("output"), cells))
    return found


def _keeping(
    recording: Recording, value: Value, seen: Coordinates | None, cells: Sequence[Cell]
) -> Exchanged:
    inside = own_elements(seen, cells)
    if inside is None or inside.numel() != value.shape.numel():
        return instead(value, recording.tensor(value))
    is_own = inside.reshape(value.shape)
    return Exchanged(
        value, lambda now: torch.where(is_own.to(now.device), now, recording.tensor(value))
    )


def value_of(recording: Recording, numbers: Tensor) -> Value:
    """The first value of a recording that holds some numbers of the run, up to rounding."""
    wanted = in_float64(numbers).flatten()
    limit = _rounding(numbers) * wanted.abs().max()
    for value in recording.seen:
        if value.dtype.is_floating_point and value.shape.numel() == wanted.numel():
            found = recording.tensor(value).flatten().to(wanted)
            if bool((found - wanted).abs().max() <= limit):
                return value
    raise UnclearError("an attention in it was not found again where its call was recorded")


def _elsewhere(before: Tensor, after: Tensor, own: Tensor) -> float:
    """How much of a change lies at other tokens, 0 to 1; what is rounding counts for nothing."""
    change = after.double() - before.double()
    far = change.masked_fill(own.unsqueeze(-1).to(change.device), 0)
    limit = replay.ROUNDING * torch.finfo(after.dtype).eps * before.abs().max()
    return (far.norm() / change.norm()).item() if bool(far.abs().max() > limit) else 0.0
