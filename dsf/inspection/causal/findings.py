"""Judges after a run which modules mix tokens, and whether the maps read there are all of it."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import combinations, pairwise
from math import prod
from typing import Any

import torch
from torch import nn

from dsf.inspection.capture.calls import Call, Invocation, Through, storage_of, time_axis
from dsf.inspection.capture.containers import memory_key, tensors_in
from dsf.inspection.capture.modes import Heard, at_rest
from dsf.inspection.causal import replay
from dsf.inspection.causal.coordinates import (
    Coordinates,
    InputAxis,
    Source,
    all_before,
    compact,
    is_place,
    small,
    varies,
)
from dsf.inspection.causal.replay import (
    Held,
    NoNumbersError,
    NotFollowedError,
    UnclearError,
    moved,
)
from dsf.inspection.causal.roles import SLOT, NoTokensError, has_maps_of, maps_of
from dsf.inspection.causal.rules import Meeting, Way, has_unknown_places
from dsf.inspection.causal.tracker import Kept, TokenMixing, Tracker
from dsf.inspection.errors import UnreadableError
from dsf.inspection.results.table import Table

FEW_DRAWS = 4
"""Further draws where whole numbers leave torch: many models only look whether a mask is full."""
_WHOLE: dict[str, Any] = {"mixes": False, "share": 1.0, "attentions": 1}
UNDECIDED = "nothing shows which axis holds features: pass tokens=... for that of tokens"
SILENT = "no token moves another in the whole model while the mixers that were read are held"
NOT_FINITE = "its output is not finite (NaN)"
APART = 4
"""Of more attentions in one forward pass than this, shares are not measured one by one."""


@dataclass(frozen=True, eq=False)
class ModuleFinding:
    """One module in which tokens meet.

    Attributes:
        mixes: whether a replaced token moves others while the mixers that were read are held; None
            where that is not known.
        share: how much of what a token moves the maps that were read explain, 0 to 1; nan where
            that is not known.
        elsewhere: how far other tokens moved, relative to the largest number of the output.
        has_slots: whether columns of its maps are not tokens but made of several.
        is_of_latents: whether only what learnt queries make of tokens moves others of it.
        runs: its forward passes in which tokens met, each with what other mixers in it returned.
    """

    module: nn.Module
    name: str
    mixes: bool | None
    how: tuple[str, ...]
    share: float = math.nan
    elsewhere: float = math.nan
    note: str = ""
    is_read: bool = False
    attentions: int = 0
    has_slots: bool = False
    is_of_latents: bool = False
    runs: tuple[tuple[Invocation, Held], ...] = ()
    is_finite: bool = True
    is_lost: bool = False

    @property
    def is_listed(self) -> bool:
        if self.is_read:
            return self.mixes is not False or self.attentions > 1 or self.has_slots
        return self.mixes is True or (self.mixes is None and bool(self.how))

    @property
    def result(self) -> str:
        if self.mixes is None:
            return "not clear"
        if self.is_read:
            return "a part" if self.mixes else "all of it"
        return "mixes tokens" if self.mixes else "keeps tokens apart"


@dataclass(eq=False)
class Findings:
    """All findings of a run.

    Attributes:
        refused: by the call of an attention why it is no token mixer.
        shares: by the call of one of several attentions what it explains of what they move.
        front: names of modules in which tokens meet that are made into fewer ones before any mixer
            is read.
        is_silent: whether no token moves another while all mixers that were read are held.
        unknown: numbers of the run of which it is not known what they were made of.
        all_of_it: calls while which are held no token moves another in the model; None if unknown.
        mixed: the axes along which tokens meet.
    """

    modules: list[ModuleFinding] = field(default_factory=list)
    refused: dict[Call, str] = field(default_factory=dict)
    shares: dict[Call, float] = field(default_factory=dict)
    asked: bool = False
    is_silent: bool = False
    channels: dict[str, int] = field(default_factory=dict)
    front: tuple[str, ...] = ()
    unknown: Sequence[Kept] = ()
    all_of_it: frozenset[Call] | None = None
    mixed: set[InputAxis] = field(default_factory=set)

    def rest_of(
        self, run: Invocation, calls: Sequence[Call], listed: Sequence[ModuleFinding]
    ) -> ModuleFinding | None:
        """What the model does to tokens besides all that was read or is listed; None if nothing."""
        modules = [one.module for one in calls] + [one.module for one in listed]
        if any(module is run.module for module in modules) or (self.is_silent and not listed):
            return None
        if storage_of(run.module) != run.weights:  # one more run would write into them once more
            is_whole = all(call.through is Through.MODULE for call in calls)
            words = "it writes into its own weights while it runs"
            return None if is_whole else _of_model(run, note=words)
        if not listed and self.all_of_it == frozenset(calls):
            return None
        held = Held(calls, [invocation for one in listed for invocation, _ in one.runs])
        found = _while_held(run, held, self.unknown)
        return None if found.mixes is False else found

    @property
    def table(self) -> Table:
        return Table(tuple(_record(one) for one in self.modules))

    def records(self, call: Call, name: str) -> Table:
        """What was asked about one layer: whether its map is all, and what its axes count."""
        records = [_record(one) for one in self.modules if one.module is call.module]
        if call.maps is not None:
            sizes = zip(call.maps.sizes, call.maps.axes, strict=True)
            counted = ", ".join(f"{size} {axis}" for size, axis in sizes)
            what = {"module": name, "question": "what do the axes count?", "answer": counted}
            records.append({**what, "note": f"columns: {call.maps.columns}"})
        return Table(tuple(records))

    def share_of(self, call: Call) -> float:
        if call in self.shares:
            return self.shares[call]
        if call.through is Through.MODULE:  # whose whole output the adapter makes
            return 1.0
        found = (one for one in self.modules if one.module is call.module)
        finding = next(found, None)
        return math.nan if finding is None or finding.mixes is None else finding.share


def _record(one: ModuleFinding) -> dict[str, Any]:
    asked = "is the map all of it?" if one.is_read else "does it mix tokens?"
    return {
        "module": one.name,
        "question": asked,
        "answer": one.result,
        "share": one.share,
        "moved": one.elsewhere,
        "note": one.note or "; ".join(one.how),
    }


def judged(
    tracker: Tracker, calls: Sequence[Call], is_read_at: Callable[[int], bool] = lambda _: False
) -> Findings:
    """Judge a run that ``tracker`` followed; the model is still in evaluation mode."""
    found, where = Findings(asked=True, unknown=tracker.unknown), tracker.where
    given = tracker.run.given if tracker.run is not None else []
    sources = dict.fromkeys(axis.source for one in given if one for axis in one.planes)
    found.channels = {one.name: one.channels.number for one in sources if one.channels}
    seen = [one for one in tracker.mixings if not is_read_at(one.time)]
    mixings = _relevant(seen, calls, tracker.run)
    kept = {*mixings}
    before = [one.module for one in seen if one not in kept and is_place(one.meeting.axis)]
    found.front = tuple(dict.fromkeys(where.name_of(one) or type(one).__name__ for one in before))
    certain = (one.meeting for one in mixings if one.meeting.is_known and not one.meeting.chooses)
    found.mixed = {meeting.axis for meeting in certain}.union(*(counted(one)[0] for one in calls))
    _arrange(calls, found.mixed, found)
    calls = [call for call in calls if call not in found.refused]
    own: dict[Invocation, list[Meeting]] = {}
    for one in mixings:
        if one.invocation is not None:
            own.setdefault(one.invocation, []).append(one.meeting)
    attentions = list(filter(_is_attention, calls))
    reading = {call.invocation for call in attentions if call.invocation is not None}
    only = {call.weights_by for call in attentions if _is_leaf(call.weights_by)}
    order = [
        one
        for one in where.invocations
        if one in reading or (one in own and one.module not in only)
    ]  # a module that is only the softmax of an attention makes its weights, and no more
    plain = [
        one
        for one in order
        if one in reading
        and sum(map(_is_attention, one.calls)) == 1
        and not _may_be_more(own.get(one, ()), one.calls)
    ]
    is_followed = (
        tracker.is_sure
        and not tracker.gives_many
        and not _has_several_sequences(tracker.run)
        and plain == order
        # A map explains the output of the module that it was read in, not all that this one leaves.
        and not any(is_read_at(one.time) for one in tracker.mixings)
        and all(_is_one_attention(own.get(one, ())) for one in plain)
        and not (found.front or found.refused or any(one.invocation is None for one in mixings))
    )
    found.is_silent = _are_silent(
        found, tracker.run, calls, plain, None if is_followed else tracker.unknown
    )
    results: dict[Invocation, ModuleFinding] = {}
    apart: set[Invocation] = set()  # of these what they pass on is not held: it is of single tokens
    for invocation in sorted(order, key=lambda one: one.ended or math.inf):  # inner ones first
        name = where.name_of(invocation.module) or type(invocation.module).__name__
        inside = [c for c in calls if invocation.began < c.time < (invocation.ended or math.inf)]
        others = [
            one
            for one in own
            if one is not invocation
            and one.module not in only
            and one not in apart
            and invocation.began < one.began
            and one.ended < invocation.ended
        ]
        is_read, mine = invocation in reading, own.get(invocation, ())
        how = tuple(dict.fromkeys(one.how for one in mine))
        asked = ModuleFinding(invocation.module, name, None, how, is_read=is_read)
        if found.is_silent and invocation in plain:
            runs = ((invocation, Held(inside, ())),)
            slots = any(map(_reads_slots, invocation.calls))
            results[invocation] = replace(asked, runs=runs, has_slots=slots, note=SILENT, **_WHOLE)
            continue
        ask = partial(_judged, asked, invocation, inside, found=found, met=mine)
        results[invocation], in_place = _with_sorting(ask, others, own)
        results |= {one: replace(results[one], mixes=False, note=SORTED) for one in in_place}
        apart.update(in_place)
        if results[invocation].mixes is False and not is_read:
            apart.add(invocation)
    by_module = _by_module(_with_constants(results, tracker.run, calls))
    began = {one.module: one.began for one in reversed(order)}
    found.modules = sorted(by_module.values(), key=lambda one: began[one.module])
    is_nothing = not (calls or found.refused or found.front)
    is_nothing &= not any(one.is_listed for one in found.modules)
    if is_nothing and (run := tracker.run) is not None and run.module not in by_module:
        found.modules += _of_unseen(run)
    return found


def _has_several_sequences(run: Invocation | None) -> bool:
    """Whether tokens of one input may reach those of another, as a pooled text every patch."""
    try:
        cells = [] if run is None else replay.cells_drawn(run, 0, of_model=True)
    except UnclearError:
        return False
    outputs = [] if run is None else [made for made in run.made if made is not None]

    def are_alike(mine: InputAxis, theirs: InputAxis) -> bool:
        """Whether outputs are of the same places along both axes, as of ids and their types."""
        nothing = torch.zeros(0)
        pairs = ((made.planes.get(each, nothing) for each in (mine, theirs)) for made in outputs)
        return mine.size == theirs.size and all(torch.equal(*pair) for pair in pairs)

    return any(
        len(one) != len(cells[0]) or not all(map(are_alike, cells[0], one)) for one in cells[1:]
    )


_OF_SLOTS = {Way.FIXED, Way.RETURNS, Way.SPREADS, Way.REMAKES}
"""How tokens meet in what other mixers are given, or get what these return of many tokens."""
SORTED = "it sorts tokens, and a module around it returns each in its place"


def _with_sorting(
    ask: Callable[[Sequence[Invocation]], ModuleFinding],
    others: Sequence[Invocation],
    own: Mapping[Invocation, Sequence[Meeting]],
) -> tuple[ModuleFinding, list[Invocation]]:
    """What is found of a module, and passes in it that sort tokens which it returns in place.

    Args:
        ask: finds it, while other passes in it keep their output.
    """
    # What a router returned of a token stands elsewhere where it sorts others, so that it is not
    # kept at first.
    sorting = [one for one in others if _only_sorts(own[one])]
    found = ask([one for one in others if one not in sorting])
    if found.mixes is False or not sorting:
        return found, sorting
    return ask(others), []


def _only_sorts(meetings: Sequence[Meeting]) -> bool:
    """Whether tokens only choose one another, as where a router sorts them by their expert."""
    is_choice = any(one.chooses for one in meetings)
    return is_choice and all(one.chooses or not one.is_known for one in meetings)


def _of_unseen(run: Invocation) -> list[ModuleFinding]:
    """The model itself, if a replaced token moves others although none was seen to move another."""
    name, how = type(run.module).__name__, ("in an operation that was not followed",)
    whole = _judged(ModuleFinding(run.module, name, None, how), run, (), (), Findings())
    if whole.mixes is None and whole.how:
        whole = replace(whole, how=("perhaps, in code that was not followed",))
    return [whole] if whole.is_listed else []


CONSTANT = "nothing in it changes when tokens of the model are replaced"


def _with_constants(
    results: dict[Invocation, ModuleFinding], run: Invocation | None, calls: Sequence[Call]
) -> dict[Invocation, ModuleFinding]:
    """The findings, also of attentions over learnt queries, where no token reaches their values."""
    lost = [one for one, found in results.items() if found.is_lost and found.is_read]
    lost = [x for x in lost if not (results[x].how or any(x.made)) and len(x.calls) == 1]
    if run is None or not lost or storage_of(run.module) != run.weights:
        return results
    watched = Held(calls, (), free=frozenset(calls))
    changed: set[Call] = set()
    try:
        for draw in (1, 2):  # every token is replaced in one of both
            cells = replay.cells_drawn(run, draw, of_model=True)
            changed.update(replay.repetition(run, cells, watched, draw=draw).changed)
    except UnclearError:
        return results
    constant = [one for one in lost if changed.isdisjoint(one.calls)]
    return results | {one: replace(results[one], note=CONSTANT, **_WHOLE) for one in constant}


def _by_module(
    results: Mapping[Invocation, ModuleFinding],
) -> dict[nn.Module, ModuleFinding]:
    """One finding for every module, with all of its forward passes that were asked."""
    seen: dict[nn.Module, ModuleFinding] = {}
    for invocation, finding in results.items():
        ((_, held),), before = finding.runs, seen.get(invocation.module)
        unheld = replace(held, free=frozenset(c for c in held.calls if c.invocation is invocation))
        runs = (*(before.runs if before else ()), (invocation, unheld))
        if before is None or (before.mixes is not True and finding.mixes is not False):
            before = finding
        seen[invocation.module] = replace(before, runs=runs)
    return seen


def _may_be_more(meetings: Sequence[Meeting], calls: Sequence[Call]) -> bool:
    """Whether more than some attentions was seen to mix tokens, in which one may move no other."""
    sums = sum(one.way is Way.SUMS for one in meetings)  # one in every attention that is not fused
    softmaxes = [one.axis for one in meetings if one.way is Way.SOFTMAX]
    if sums > len(calls) or len(softmaxes) > sums:
        return True
    # That of scores is over keys alone: none of the tokens that the queries are of meet in it.
    queries = [call.seen.get("query") for call in calls]
    own = [set[InputAxis]() if query is None else {*query.planes} for query in queries]
    if any(axis in set.intersection(*own) for axis in softmaxes):
        return True
    of_attention = {Way.SUMS, Way.SOFTMAX, Way.ATTENTION}
    return any(one.way not in of_attention for one in meetings)


def _is_leaf(module: nn.Module | None) -> bool:
    """Whether a module has neither children nor weights, as ``torch.nn.Softmax``."""
    if module is None:
        return False
    parts = (module.children(), module.parameters(), module.buffers())
    return all(next(part, None) is None for part in parts)


def _is_attention(call: Call) -> bool:
    return call.through is not Through.MODULE


def _is_one_attention(meetings: Sequence[Meeting]) -> bool:
    """Whether all that was seen in a pass are the operations of a single attention."""
    ways = sorted(one.way.name for one in meetings)
    return ways in ([Way.ATTENTION.name], [Way.SOFTMAX.name, Way.SUMS.name])


def _are_silent(
    found: Findings,
    run: Invocation | None,
    calls: Sequence[Call],
    plain: Sequence[Invocation],
    unknown: Sequence[Kept] | None,
) -> bool:
    """Whether no token moves another in the model, nor in the output of a ``plain`` pass in it.

    Args:
        found: receives these calls, if they are all that moves tokens.
        unknown: None where it is known where everything in the run came from, and that tokens met
            nowhere else. If not, the model runs again with other tokens.
    """
    if run is None or any(call.module is run.module for call in calls):
        return False
    if not (plain or (calls and unknown is None)):
        return False
    if storage_of(run.module) != run.weights:
        return False
    if unknown is not None:
        whole = _while_held(run, Held(calls, (), watched=plain), unknown)
        if whole.mixes is not False:
            return False
        found.all_of_it = frozenset(calls)
    return replay.are_seen(plain, run)


def _while_held(run: Invocation, held: Held, unknown: Sequence[Kept]) -> ModuleFinding:
    """What a model does to tokens while mixers put out what they did in its run."""
    # Whatever then moves at other tokens went by a way that nobody saw. Every token is replaced in
    # one of the first two draws: numbers of unknown origin that stay the same are constants.
    if unknown and (axis := replay.lost_axis(run)) is not None:
        words = f"it is not known which tokens of {axis.source.name} its output is of"
        return _of_model(run, note=words, is_lost=True)
    sizes, draws, read = list[float](), [1, 2], set[int]()

    def note(_func: Any, args: Any, kwargs: Any, _out: Any) -> None:
        read.update(map(memory_key, tensors_in((args, kwargs))))

    try:
        while draws:
            draw = draws.pop(0)
            with Heard(note) if unknown else nullcontext():
                rest = moved(run, held, draw=draw, of_model=True)
            sizes.append(max(rest.elsewhere, rest.spilled))
            if rest.mixes:
                return _of_model(run, mixes=True, elsewhere=sizes[-1])
            lost = [one for one in unknown if not one.is_constant(read)] if draw == 2 else []
            if lost:
                count = replay.separating(run)
                most = FEW_DRAWS if all(one.is_whole for one in lost) else count
                draws = [*range(3, 3 + min(count, most))]
    except UnclearError as error:
        return _of_model(run, note=str(error), is_lost=isinstance(error, NotFollowedError))
    if any(map(math.isnan, sizes)):
        return _of_model(run, note=NOT_FINITE)
    return _of_model(run, mixes=False, elsewhere=max(sizes))


def _of_model(run: Invocation, *, mixes: bool | None = None, **known: Any) -> ModuleFinding:
    name, how = type(run.module).__name__, ("in a place that was not seen",)
    return ModuleFinding(run.module, name, mixes, how, runs=((run, Held((), ())),), **known)


def _judged(
    asked: ModuleFinding,
    invocation: Invocation,
    inside: Sequence[Call],
    others: Sequence[Invocation],
    found: Findings,
    met: Sequence[Meeting] = (),
) -> ModuleFinding:
    """A forward pass that is repeated with other tokens, to see which others move.

    Args:
        asked: what is known of its module.
        inside: the mixers in it that are read, which keep their output meanwhile.
        others: other passes in it in which tokens met, which keep their output if need be.
        found: receives what each of several attentions moves.
        met: what met in it. Weights of its own may sum over tokens, which then meet in what other
            mixers in it are given, though these keep what they return.
    """
    held = Held(inside, () if asked.is_read else others)
    makes_slots = any(one.way in _OF_SLOTS or has_unknown_places(one.axis) for one in met)
    makes_slots &= not any(map(_reads_slots, invocation.calls))
    # Positions that are made of others, as patches of pixels, are replaced with these.
    ask = partial(moved, invocation, with_made=any(one.axis.windows for one in met))
    asked = replace(asked, runs=((invocation, held),))
    is_read, share, draw = asked.is_read, 1.0, 0
    is_open = not is_read or _may_be_more(met, invocation.calls)
    try:
        rest = ask(held)
        draws = replay.draws(invocation) if is_open else []
        # One token may decide nothing, or be sent nowhere.
        while draws and not rest.mixes and not (makes_slots and rest.in_slots):
            draw = draws.pop(0)
            with suppress(UnclearError) if draw < 0 else nullcontext():  # refused for their size
                rest = ask(held, draw=draw)
        in_slots = rest.in_slots if makes_slots else 0.0
        if math.isnan(rest.elsewhere) and not rest.mixes:
            return replace(asked, note=NOT_FINITE, is_finite=False)
        for slots in replay.slots_held(invocation, held) if is_open and not rest.mixes else ():
            again = moved(invocation, held, slots=slots, of_model=True)
            if again.mixes:
                return replace(
                    asked,
                    mixes=True,
                    elsewhere=max(again.elsewhere, again.spilled),
                    is_of_latents=_are_learnt(invocation.calls),
                )
        if is_read and others and rest.spilled:
            # perhaps by another mixer, reported separately
            again = ask(Held(held.calls, others), draw=draw)
            rest = replace(rest, spilled=again.spilled)
        if rest.mixes and is_read:
            every = ask(None, draw=draw)
            share = min(replay.share_of(every, rest), 1 - rest.spilled)
            share = share if draw >= 0 else math.nan  # of much larger tokens it says nothing
        parts = list(filter(_is_attention, invocation.calls))
        parts = [] if not rest.mixes and _have_own_tokens(parts) else parts
        if 1 < len(parts) <= APART and not rest.mixes:
            parts = parts if not _in_series(invocation, parts, held) else []
        if len(parts) > 1:
            _apart(invocation, parts, held, share, found)
    except NoNumbersError as error:
        return replace(asked, how=(), note=str(error))
    except UnclearError as error:
        is_lost = isinstance(error, NotFollowedError)
        return replace(asked, note=str(error), is_lost=is_lost)
    given = {axis.source for made in invocation.given if made for axis in made.planes}
    if not is_read and any(source.is_undecided for source in given):
        asked = replace(asked, how=(*asked.how, UNDECIDED))
    return replace(
        asked,
        mixes=rest.mixes or in_slots > 0,
        share=share if is_read else math.nan,
        elsewhere=max(rest.elsewhere, rest.spilled, in_slots),
        attentions=len(parts),
        has_slots=any(map(_reads_slots, invocation.calls)),
    )


def _reads_slots(call: Call) -> bool:
    if call.maps is None:  # learnt ones, or nobody knows of which tokens
        return call.through is not Through.MODULE and call.seen.get("value") is None
    return bool(call.maps.columns == SLOT)


def _are_learnt(calls: Sequence[Call]) -> bool:
    """Whether the queries of an attention are of no places, as learnt ones."""
    queries = (call.seen.get("query") for call in calls)
    return not all(one and any(varies(one.planes[x], -2) for x in one.positions) for one in queries)


def _have_own_tokens(parts: Sequence[Call]) -> bool:
    """Whether each of several attentions returns tokens of its own, as of one image each."""
    outputs = [call.seen.get("output") for call in parts]
    return len(parts) > 1 and all(
        one is not None and other is not None and _are_apart(one, other)
        for one, other in combinations(outputs, 2)
    )


def _are_apart(one: Coordinates, other: Coordinates) -> bool:
    shared = (axis for axis in one.positions if axis in other.planes)
    pairs = ((small(one.planes[axis]), small(other.planes[axis])) for axis in shared)
    return any(
        bool((mine >= 0).all() & (theirs >= 0).all() & ~torch.isin(mine, theirs).any())
        for mine, theirs in pairs
    )


def _in_series(invocation: Invocation, parts: Sequence[Call], held: Held) -> bool:
    others = [call for call in held.calls if call not in parts]
    for before, after in pairwise(parts):
        calls, replaced = [*others, *parts], frozenset({before})
        one = Held(calls, held.invocations, free=frozenset(parts), replaced=replaced)
        again = replay.repetition(invocation, (), one)
        if after not in again.changed:
            return False
    return True


def settle_slots(found: Findings, run: Invocation | None, calls: Sequence[Call]) -> None:
    """Tell the slots apart that only mixers which are read make of tokens."""
    # Where these keep their outputs, and a token of the model's input is replaced, the values of an
    # attention over such slots do not change, but for those of that token beside them: then its map
    # is all that its module does.
    reading = [call for call in calls if _reads_slots(call)]
    if run is None or not any(one.has_slots for one in found.modules):
        return
    try:
        runs = [
            replay.repetition(run, replay.cells_drawn(run, draw), Held(calls, ()))
            for draw in (0, 1, 2)  # every token is replaced in one of the last two
        ]
    except UnclearError:
        return
    moves = any(one.spills or one.in_slots > 0 or one.is_lost for one in runs)
    changed = [call for call in reading if any(call in one.changed for one in runs)]
    open_ones = {call.module for call in changed if moves or not _are_beside_tokens(call)}
    found.modules = [
        replace(one, has_slots=one.has_slots and one.module in open_ones) for one in found.modules
    ]


def _are_beside_tokens(call: Call) -> bool:
    """Whether the slots that an attention reads have places of their own beside those of tokens."""
    value = call.seen.get("value")
    axes = [] if value is None else [x for x in value.positions if varies(value.planes[x], -2)]
    return any(axis.source.before for axis in axes) and not all(axis.source.before for axis in axes)


def _apart(
    invocation: Invocation, parts: Sequence[Call], held: Held, share: float, found: Findings
) -> None:
    """What each of several attentions of one forward pass moves, of what they move together."""
    if len(parts) > APART:
        found.shares |= dict.fromkeys(parts, share / len(parts))
        return
    sizes = {}
    rest = moved(invocation, held).difference
    for part in parts:
        others = Held(held.calls, held.invocations, free=frozenset({part}))
        sizes[part] = (moved(invocation, others).difference - rest).norm().item()
    total = sum(sizes.values())
    found.shares |= {part: share * size / total if total else share for part, size in sizes.items()}


def _slots_of(calls: Sequence[Call]) -> tuple[set[Source], set[Source]]:
    """What makes the positions that attentions read besides tokens of which they are made.

    And what makes the positions that ask for the tokens of which they are made.
    """
    slots, asking = set[Source](), set[Source]()
    for call in calls:
        query, value = call.seen.get("query"), call.seen.get("value")
        if query is None or value is None:
            continue
        own, read = set(query.positions), set(value.positions)
        slots |= {axis.source for axis in read - own if all_before(axis) & own}
        asking |= {axis.source for axis in own - read if all_before(axis) & read}
    return slots, asking


def _made_again(
    seen: Sequence[Coordinates], put_out: Sequence[Coordinates], read: Collection[InputAxis]
) -> set[InputAxis]:
    """The axes of which a tensor has at least as many new positions as there are along them.

    Args:
        put_out: where the features of one position may lie in several places, as the pixels of a
            patch do: of what no mixer reads these count once.
    """
    found: set[InputAxis] = set()
    for one in dict.fromkeys((*seen, *put_out)):
        for source in {axis.source for axis in one.positions if axis.source.before}:
            own = [axis for axis in one.positions if axis.source is source]
            before = all_before(own[0])
            others = [axis for axis in one.positions if axis not in before.union(own)]
            planes = [small(compact(one.planes[axis])) for axis in (*own, *others)]
            planes.append(torch.zeros(1, dtype=torch.int32))  # if no other, one
            lines = torch.stack(torch.broadcast_tensors(*planes)).flatten(1)
            lines = lines[:, (lines[: len(own)] >= 0).all(dim=0)]
            lines = lines if one in seen or not before.isdisjoint(read) else lines.unique(dim=1)
            places = lines.shape[1] / max(lines[len(own) :].unique(dim=1).shape[1], 1)
            for each in {axis.source for axis in before}:
                axes = {axis for axis in before if axis.source is each and is_place(axis)}
                found |= axes if places >= prod(axis.size for axis in axes) else set()
    return found


def _relevant(
    mixings: Sequence[TokenMixing],
    calls: Sequence[Call],
    run: Invocation | None,
) -> list[TokenMixing]:
    """Without those of channels, and without the front end that makes tokens of finer ones."""

    # A front end are the first convolution over an input, and norms over what becomes one token, up
    # to what makes its first tokens, where the places of the input do not come back in what the
    # model returns. What else mixes these places before tokens are made of them, such as a norm, a
    # recurrence or an attention, does so for all tokens; and so does what mixes tokens of which
    # coarser ones are made.
    def along(way: Way) -> set[InputAxis]:
        return {one.meeting.axis for one in mixings if one.meeting.way is way}

    remade, returned, spread = along(Way.REMAKES), along(Way.RETURNS), along(Way.SPREADS)
    put_out = [made for made in (run.made if run is not None else ()) if made is not None]
    leaving = {x for made in put_out for x in made.positions if bool((made.planes[x] >= 0).any())}
    given = [seen for call in calls for seen in call.seen.values() if seen is not None]
    read = {axis for seen in given for axis in seen.planes}
    front = remade - read - {axis for made in put_out for axis in made.planes}
    # Where tokens are as many again, groups of them come back to them, or are read there, to
    # make groups was to mix them; so it was where groups ask for tokens that the model returns.
    # The pass in which they come back says so if it also made them, and so does one in which what
    # is made of all tokens does.
    again = remade & (returned | _made_again(given, put_out, read))
    slots, asking = _slots_of(calls)
    for axis in remade:
        for made in axis.source.coarser.get(axis, ()):
            if axis in again | spread or made.source in slots:
                made.windows.clear()

    def is_told(made: TokenMixing) -> bool:
        return any(
            one.invocation and one.invocation.began < made.time < (one.invocation.ended or math.inf)
            for one in mixings
            if one.meeting.way is Way.RETURNS and one.meeting.axis is made.meeting.axis
        )

    makes = [one for one in mixings if one.meeting.way is Way.REMAKES]
    untold = {one.meeting.axis for one in makes if not is_told(one)}
    again -= (returned | spread) - (untold & returned)
    entries: dict[Source, nn.Module] = {}
    for one in mixings:
        if one.meeting.way is Way.NEIGHBOURS and one.meeting.axis in front:
            entries.setdefault(one.meeting.axis.source, one.module)

    def sources_of(parts: Sequence[Coordinates | None]) -> set[Source]:
        return {axis.source for part in parts if part is not None for axis in part.planes}

    def is_front(one: TokenMixing) -> bool:
        if one.meeting.axis in again:
            return False
        if one.meeting.way is Way.REMAKES:
            run = one.invocation
            new = set() if run is None else sources_of(run.made) - sources_of(run.given)
            return not new & (slots | asking if one.meeting.axis in leaving else slots)
        is_first = one.meeting.axis in front and one.meeting.axis.source.kind != "made"
        is_entry = entries.get(one.meeting.axis.source) is one.module
        return is_first and (one.meeting.way is Way.GROUPS or is_entry)

    def kept() -> list[TokenMixing]:
        return [one for one in mixings if is_place(one.meeting.axis) and not is_front(one)]

    # Tokens along which more mixes were tokens from the start.
    mixed = {one.meeting.axis.source for one in kept() if one.meeting.is_known}
    front = {axis for axis in front if axis.source not in mixed}
    return kept()


def counted(call: Call) -> tuple[set[InputAxis], set[InputAxis]]:
    """The axes that the tokens of a module lie along, and those that tell its samples apart."""
    given = (made for each in call.made_of.values() for made in each if made is not None)
    made = next(given, None)
    if call.counted is not None or made is None or len(made.shape) < 3:
        return call.counted or (set(), set())
    time, found = time_axis(call.module, len(made.shape)), (set[InputAxis](), set[InputAxis]())
    for axis in filter(is_place, made.planes):
        for dim in range(len(made.shape) - 1):
            if varies(made.planes[axis], dim):
                found[dim != time].add(axis)
    return found


@at_rest()
def _arrange(calls: Sequence[Call], mixed_axes: set[InputAxis], found: Findings) -> None:
    arranged = cache(partial(maps_of, mixed_axes=mixed_axes))  # the same in equal layers
    for call in calls:
        query, value, output = (call.seen.get(name) for name in ("query", "value", "output"))
        if call.through is Through.MODULE or value is None or query is None:
            continue
        batch = query.shape[:-2]
        if call.through is Through.FOLLOWED and output is not None:
            batch = output.shape[:-2]
        # The scores may have had further axes, which were merged since.
        if len(query.shape) - 2 > len(batch) or not has_maps_of(query, batch):
            query = None
        try:
            call.maps = arranged(query, value, batch)
        except NoTokensError as error:
            found.refused[call] = str(error)
        except UnreadableError as error:  # which is probed instead
            call.refused = str(error)


def _worded(share: float) -> str:
    """A share that is not all; what would be rounded up to it is not."""
    return f"{min(share, 0.99):.0%}" if not math.isnan(share) else "a part"


def part_reason(finding: ModuleFinding, share: float) -> str:
    how = f" ({'; '.join(finding.how)})" if finding.how else ""
    return (
        f"the map that was probed is only a part of what it does to tokens{how}: it explains "
        f"{_worded(share)} of what a replaced token moves"
    )


def silent_reason(finding: ModuleFinding) -> str:
    if finding.mixes is None:
        return (
            "it could not be followed what it does to tokens besides the mixers that were read: "
            f"{finding.note}"
        )
    return (
        "tokens also meet in a place that was not seen: while every mixer that was read or listed "
        f"keeps its output, a replaced token still moves others by {finding.elsewhere:.0e}"
    )


def _open_reason(finding: ModuleFinding, how: str) -> str:
    if finding.mixes is None:
        return (
            "it is not known whether the maps that were read in it are all that it does to tokens"
            f"{how}: {finding.note}"
        )
    if finding.has_slots:
        return (
            f"the columns of its maps are not tokens: each is made of several{how}, and that is in "
            "no map. The maps have an axis of slots instead of one of tokens"
        )
    return (
        f"its output is made of {finding.attentions} attentions together, so that the map of "
        "each, which was read, is a part; how they are combined is in no map"
    )


def unread_reason(finding: ModuleFinding, *, is_tried: bool = False) -> str:
    how = f" ({'; '.join(finding.how)})" if finding.how else ""
    if finding.is_read and not finding.is_finite:
        return (
            "its output is not finite (NaN or infinite), though its maps are, so that it is "
            "not known whether they are all of it. Look for an overflow of the number type"
        )
    if finding.is_read and finding.mixes is not True:
        return _open_reason(finding, how)
    if finding.is_read:
        return (
            f"the maps that were read in it are only a part of what it does to tokens{how}: with "
            f"them held, a replaced token still moves others by {finding.elsewhere:.0e}; they "
            f"explain {_worded(finding.share)} of what it moves in all"
        )
    if finding.mixes is None:
        return (
            f"tokens meet in it{how}, and no adapter reads it; {finding.note}, so that the "
            "size of the effect is unknown"
        )
    advice = "" if is_tried else ". If it is linear in its values, pass probe=... to read it"
    return (
        f"it mixes tokens{how}: a replaced token moves others by {finding.elsewhere:.0e} of its "
        f"largest output, and no adapter reads it{advice}"
    )
