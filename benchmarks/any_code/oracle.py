"""Judges an inspection by replacing single numbers in the run of the model, without dsf.

Two questions are put to the model. *Are the maps right?* The value of one token in one head is
replaced in the very operation that is given the values, and what that changes in the response is
compared with the column of the map. *Is a mixer missing?* All responses of maps that were called
exact, and the outputs of all modules that were listed, are held as they were; then two tokens that
are replaced in turn must never move the same number anywhere in the model.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._pytree import tree_flatten, tree_unflatten

from benchmarks.any_code.models.entry import Model
from benchmarks.any_code.tape import NORMS, Operation, Places, Tape, places

COLUMNS = 3
"""Columns of every map that are compared."""
USES = 6
"""Of so many uses of the values, the last ones, two or three are also replaced together."""
VIEWS = {"view", "transpose", "permute", "expand", "unsqueeze", "squeeze", "_unsafe_view", "t"}
VIEWS |= {"clone", "alias", "detach", "_reshape_alias", "unbind", "select", "copy_"}
OFF = 2e-3
"""How far a column may be from what moved, relative to the largest change."""
STEP = 0.05
"""By how much a token is changed, relative to the size of all: routers keep their choice."""
MOVED = 1e-5
"""A number has moved where it changes by more than this share of the largest beside it."""


@dataclass(frozen=True, eq=False)
class Claim:
    """What dsf says of one mixer: its values, its map and the place of both.

    Attributes:
        path: of the module that holds the mixer.
        values: ``*axes read channel``.
        map: ``*axes time read``.
        axes: what the axes count.
        is_exact: whether the map is said to be all of the module's mixing of tokens.
        has_tokens: whether its columns are said to be tokens of the module's input, rather than
            those behind a short convolution of the module itself.
    """

    name: str
    path: str
    values: Tensor
    map: Tensor
    axes: tuple[str, ...]
    is_exact: bool
    has_tokens: bool


@dataclass(frozen=True, eq=False)
class Located:
    """Where in the run a claim's values are, and the operation that puts out its response.

    Attributes:
        site: the number of an operation and the place of the values in what it is given.
        is_made: whether they are what it puts out instead, so that every use of them is reached.
        beside: further uses that are replaced together with this one.
    """

    claim: Claim
    site: tuple[int, int]
    is_made: bool
    raw: Tensor
    values: Places
    end: tuple[int, int]
    response: Places
    beside: tuple["Located", ...] = ()

    def values_in(self, operation: Operation) -> Tensor:
        """The values, where their operation ran again."""
        parts = operation.output if self.is_made else operation.given
        return parts[self.site[1]]


@dataclass(eq=False)
class Judgement:
    """What was found.

    Attributes:
        right: names of the maps of which columns were compared and agree.
        unseen: names of the maps whose values or response are no tensor of the run.
        wrong: by name what is wrong with a map that was called exact.
        missed: modules in which tokens meet that dsf neither read nor listed.
    """

    right: list[str] = field(default_factory=list)
    unseen: list[str] = field(default_factory=list)
    wrong: dict[str, str] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


class Subject:
    """A model with its inputs, of which tokens can be replaced at its source."""

    def __init__(self, entry: Model, model: nn.Module, args: Any, kwargs: Any):
        self.entry, self.model, self.args, self.kwargs = entry, model, args, kwargs
        self.shift: Callable[[Tensor], Tensor] | None = None

    def run(self, tape: Tape | None = None) -> Any:
        """One forward pass; with ``shift`` set, of replaced tokens."""
        args, kwargs = self.args, self.kwargs
        if self.entry.source is None:
            args, kwargs = self._replaced(args, kwargs)
        with ExitStack() as stack:
            if self.entry.source is not None:
                source = self.model.get_submodule(self.entry.source)
                stack.callback(source.register_forward_hook(self._at_source).remove)
            stack.enter_context(torch.no_grad())
            torch.manual_seed(0)
            if tape is not None:
                stack.enter_context(tape)
            return self.model(*args, **kwargs)

    def _replaced(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        leaves, tree = tree_flatten((args, kwargs))
        which = [k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
        place = which[self.entry.argument]
        leaves = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        if self.shift is not None:
            leaves[place] = self.shift(leaves[place])
        found: tuple[Any, Any] = tree_unflatten(leaves, tree)
        return found

    def _at_source(self, _module: nn.Module, _given: Any, output: Any) -> Any:
        leaves, tree = tree_flatten(output)
        place = next(k for k, leaf in enumerate(leaves) if isinstance(leaf, Tensor))
        with torch.utils._python_dispatch._disable_current_modes():
            new = leaves[place].clone()
            leaves[place] = new if self.shift is None else self.shift(new)
        return tree_unflatten(leaves, tree)

    def replaces(self, token: int) -> Callable[[Tensor], Tensor]:
        """A function that changes a token of the first sample; an id becomes another one."""
        axes, sample = self.entry.axes, self.entry.sample

        def shift(part: Tensor) -> Tensor:
            rng = torch.Generator().manual_seed(100 + token)
            index: list[Any] = [slice(None)] * part.ndim
            rest = token
            for axis in reversed(axes):
                index[axis], rest = rest % part.shape[axis], rest // part.shape[axis]
            if sample is not None:
                index[sample] = 0
            new = part.clone()
            there = new[tuple(index)]
            if part.is_floating_point():
                drawn = torch.randn(there.shape, generator=rng, dtype=torch.float64)
                new[tuple(index)] = there + (drawn * STEP * part.std()).to(part.dtype)
            else:
                new[tuple(index)] = torch.where(there > 1, there - 1, there + 1)
            return new

        return shift

    def count(self) -> int:
        """The number of tokens at the source."""
        seen: list[int] = []

        def note(part: Tensor) -> Tensor:
            seen.append(torch.Size([part.shape[axis] for axis in self.entry.axes]).numel())
            return part

        self.shift = note
        self.run()
        self.shift = None
        return seen[0]


def judged(subject: Subject, claims: Sequence[Claim], listed: Sequence[str]) -> Judgement:
    """Compare what dsf claims with what replaced numbers move.

    Args:
        listed: paths of modules that dsf names as ones that mix tokens and were not read in full.
    """
    found = Judgement()
    subject.run()  # what a model computes once and keeps is there from now on
    located = list(_located(subject, claims, found))
    for entry in subject.entry.stages():
        stage = Subject(entry, subject.model, subject.args, subject.kwargs)
        _look_for_missed(stage, claims, located, listed, found)
    found.right = [one.claim.name for one in located if one.claim.name not in found.wrong]
    return found


# --- are the maps right?


def _located(subject: Subject, claims: Sequence[Claim], found: Judgement) -> Iterator[Located]:
    sizes: set[int] = set()
    for claim in claims:
        sizes |= {claim.values.numel() // k for k in range(1, 9)}
        sizes.add(claim.map.shape[:-1].numel() * claim.values.shape[-1])
        if "input" in claim.axes:
            sizes.add(claim.values.numel() // claim.values.shape[claim.axes.index("output")])
    tape = Tape(sizes=sizes)
    with _frames(subject.model, tape) as frames:
        subject.run(tape)
    for claim in claims:
        axes = zip(claim.map.shape[:-2], claim.values.shape[:-2], strict=False)
        if any(a != b and 1 not in (a, b) for a, b in axes):  # channels that mix are no heads
            found.unseen.append(claim.name)
            continue
        inside = [
            operation
            for operation in tape.operations
            if any(a <= operation.number < b for a, b in frames.get(claim.path, ()))
        ]
        here = _candidates(claim, inside)
        one = next((one for one in here if not _off(subject, one, columns=COLUMNS)), None)
        if one is not None:
            yield one
        elif here:
            found.wrong[claim.name] = _off(subject, here[0], columns=COLUMNS)
        else:
            found.unseen.append(claim.name)


def _candidates(claim: Claim, operations: Sequence[Operation]) -> list[Located]:
    """Where a claim's values are, with the first response behind each: uses, the last one first.

    Then the operations that put them out.
    """
    response = claim.map.to(claim.values.dtype) @ claim.values
    fits = {}
    views = {one.number for one in operations if one.name.partition("::")[2] in VIEWS}
    for operation in operations:
        for place, part in operation.output.items():
            if part.numel() == response.numel() and (there := places(response, part)):
                fits[operation.number, place] = there
    found = []
    if all(one.name in NORMS for one in operations if one.number not in views):
        found += [one for each in operations if (one := _of_norm(claim, each)) is not None]
    for is_made in (False, True):
        for operation in reversed(operations):
            parts = operation.output if is_made else operation.given
            for place, part in parts.items():
                later = [key for key in fits if key[0] >= operation.number + is_made]
                if not later or not (there := places(claim.values, part)):
                    continue
                end = min(later)
                site = (operation.number, place)
                found.append(Located(claim, site, is_made, part, there, end, fits[end]))
    uses = [one for one in found if not one.is_made and one.site[0] not in views][:USES]
    for count in (2, 3):
        found += [replace(one, beside=tuple(others)) for one, *others in combinations(uses, count)]
    return found


def _of_norm(claim: Claim, operation: Operation) -> Located | None:
    """A fused norm that is all of a module: its response lies where its values do."""
    # It has a constant besides, and is given other values with the deviation that it had.
    raw = operation.given.get(0)
    if raw is None or operation.name not in NORMS or not (there := places(claim.values, raw)):
        return None
    response = there
    if "input" in claim.axes:  # of every output what all inputs move
        axis, shape = claim.axes.index("output"), claim.values.shape
        response = Places(
            *(part.view(shape).select(axis, 0).flatten() for part in (there.index, there.sure))
        )
    key = operation.number, 0
    return Located(claim, key, False, raw, there, key, response)


def _off(subject: Subject, one: Located, *, columns: int) -> str:
    """Why columns of a map are not what the values move; empty where they are."""
    claim, rng = one.claim, torch.Generator().manual_seed(0)
    entries, reads = claim.values.shape[:-2].numel(), claim.values.shape[-2]
    clean = _number_at(subject, one.end, {})
    for _ in range(columns):
        entry, token = (int(torch.randint(n, (1,), generator=rng)) for n in (entries, reads))
        chosen = torch.zeros(claim.values.shape[:-1], dtype=torch.bool)
        chosen.view(entries, reads)[entry, token] = True
        chosen = chosen[..., None].expand(claim.values.shape).flatten() & one.values.sure
        size = claim.values.double().std()
        raw = torch.zeros(one.raw.numel(), dtype=torch.float64)
        drawn = torch.randn(raw.shape, generator=rng, dtype=torch.float64) * size
        at = one.values.index[chosen]
        raw[at] = drawn[at]
        change = torch.where(one.values.sure, raw[one.values.index], 0.0).view(claim.values.shape)
        expected = claim.map.double() @ change.to(claim.map.double().dtype)
        if one.response.index.numel() < expected.numel():
            expected = expected.sum(dim=claim.axes.index("input"))
        expected = expected.flatten()
        given = (one.raw.flatten().double() + raw).to(one.raw.dtype)
        new = {one.site: given.view(one.raw.shape)}
        for other in one.beside:
            raw = other.raw.flatten().double()
            raw[other.values.index[other.values.sure]] += change.flatten()[other.values.sure]
            new[other.site] = raw.to(other.raw.dtype).view(other.raw.shape)
        after = _number_at(subject, one.end, new, one.is_made)
        if after.shape != clean.shape:
            return "its operations change when a value is replaced"
        seen = (after.double() - clean.double()).flatten()[one.response.index]
        off = torch.where(one.response.sure, (seen - expected).abs(), 0.0).max().item()
        largest = max(expected.abs().max().item(), size.item() * 1e-2)
        if off > OFF * largest:
            return f"column {token} of map {entry} is off by {off / largest:.1e}"
    return ""


def _number_at(
    subject: Subject,
    end: tuple[int, int],
    new: dict[tuple[int, int], Tensor],
    is_made: bool = False,
) -> Tensor:
    held = {number: {place: part} for (number, place), part in new.items()} if is_made else {}
    tape = Tape(watched={end[0]}, replaced={} if is_made else new, held=held)
    subject.run(tape)
    return tape.operations[-1].output[end[1]]


# --- is a mixer missing?


@dataclass(eq=False)
class Watch:
    """Notes what every module of a run is given and puts out, and holds some outputs.

    Attributes:
        hidden: paths of modules of which only the output is looked at.
        held: of these the outputs of all their calls, to put out again.
        ends: patterns of paths; from the first call of one of these on nothing is looked at.
        source: the path of the module that makes the tokens, before which there are no ends.
        events: the path, what it is, and the tensors, in running order.
        outputs: of every hidden module the outputs of its calls.
        ended_at: the number of the operation that was next when the looking ended.
    """

    tape: Tape
    hidden: set[str]
    ends: Sequence[str] = ()
    source: str | None = None
    held: dict[str, list[Any]] = field(default_factory=dict)
    events: list[tuple[str, str, list[Tensor]]] = field(default_factory=list)
    outputs: dict[str, list[Any]] = field(default_factory=dict)
    depth: int = 0
    ended_at: int | None = None

    def enter(self, path: str, given: Any) -> None:
        is_end = self.source is None and any(fnmatch(path, pattern) for pattern in self.ends)
        if is_end and self.ended_at is None:
            self.ended_at = self.tape.count
        self._note(path, "before", given)
        self.depth += path in self.hidden

    def leave(self, path: str, output: Any) -> Any:
        self.depth -= path in self.hidden
        if path in self.hidden:
            self.outputs.setdefault(path, []).append(_copied(output))
        if self.held.get(path):
            kept = self.held[path].pop(0)
            # A gradient that is taken through an output needs the output itself.
            parts = [one for one in tree_flatten(output)[0] if isinstance(one, Tensor)]
            wrapped = map(is_functorch_wrapped_tensor, parts)
            output = output if any(wrapped) else _copied(kept)
        first = [one for one in tree_flatten(output)[0] if isinstance(one, Tensor)][:1]
        # Beside its output an attention may put out its weights, where all tokens meet.
        is_around = any(_holds(path, other) for other in self.hidden)
        self._note(path, "in", first if is_around else output)
        if path == self.source:
            self.source = None
        return output

    def _note(self, path: str, what: str, part: Any) -> None:
        if self.depth == 0 and self.ended_at is None:
            tensors = [one for one in tree_flatten(part)[0] if isinstance(one, Tensor)]
            # What a vectorising transform holds is nothing outside of it.
            tensors = [one for one in tensors if not is_functorch_wrapped_tensor(one)]
            numbers = [one.detach().clone() for one in tensors if one.is_floating_point()]
            self.events.append((path, what, numbers))


def _copied(part: Any) -> Any:
    leaves, tree = tree_flatten(part)
    return tree_unflatten(
        [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in leaves], tree
    )


@contextmanager
def _watching(model: nn.Module, watch: Watch) -> Iterator[None]:
    paths = {module: path for path, module in model.named_modules()}

    def enter(module: nn.Module, given: Any) -> None:
        if module in paths:
            with torch.utils._python_dispatch._disable_current_modes():
                watch.enter(paths[module], given)

    def leave(module: nn.Module, _given: Any, output: Any) -> Any:
        if module not in paths:
            return None
        with torch.utils._python_dispatch._disable_current_modes():
            return watch.leave(paths[module], output)

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _frames(model: nn.Module, tape: Tape) -> Iterator[dict[str, list[tuple[int, int]]]]:
    """By path of a module the operations that ran in each of its calls, as ranges of numbers."""
    paths = {module: path for path, module in model.named_modules()}
    found: dict[str, list[tuple[int, int]]] = {}
    began: list[int] = []

    def enter(_module: nn.Module, _given: Any) -> None:
        began.append(tape.count)

    def leave(module: nn.Module, _given: Any, _output: Any) -> None:
        start = began.pop()
        if module in paths:
            found.setdefault(paths[module], []).append((start, tape.count))

    handles = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _look_for_missed(
    subject: Subject,
    claims: Sequence[Claim],
    located: Sequence[Located],
    listed: Sequence[str],
    found: Judgement,
) -> None:
    whole = [one for one in located if one.claim.is_exact]
    alone = {claim.path for claim in claims} - {one.claim.path for one in whole}
    frozen = {*listed, *alone}
    paths = [path for path, _ in subject.model.named_modules()]
    sorts = {path for path in paths if any(fnmatch(path, one) for one in subject.entry.sorts)}
    hidden = frozen | sorts | {claim.path for claim in claims}
    numbers = {number for one in located for number in (one.site[0], one.end[0])}
    tape = Tape(watched=numbers)
    clean = Watch(tape, hidden, subject.entry.ends, subject.entry.source)
    with _watching(subject.model, clean):
        subject.run(tape)
    at = {operation.number: operation for operation in tape.operations}
    held = {one.end[0]: {one.end[1]: at[one.end[0]].output[one.end[1]]} for one in whole}
    masks: list[list[list[Tensor]]] = []
    columns: dict[Located, list[Tensor]] = {}
    for token in _tokens(subject):
        again = Tape(watched={one.site[0] for one in located}, held=held)
        watch = Watch(again, hidden, subject.entry.ends, subject.entry.source)
        watch.held = {path: list(clean.outputs.get(path, ())) for path in frozen}
        subject.shift = subject.replaces(token)
        try:
            with _watching(subject.model, watch):
                subject.run(again)
        finally:
            subject.shift = None
        masks.append([_moved(a[2], b[2]) for a, b in zip(clean.events, watch.events, strict=True)])
        for one in located:
            if clean.ended_at is None or one.site[0] < clean.ended_at:
                now = next(o for o in again.operations if o.number == one.site[0])
                change = one.values_in(now).double() - one.values_in(at[one.site[0]])
                columns.setdefault(one, []).append(change.flatten())
    found.missed += _overlaps(clean.events, masks)
    for one in located:
        if any(_holds(path, one.claim.path) for path in listed):  # tokens may meet before it there
            continue
        wrong = _not_tokens(one, columns.get(one, []))
        if wrong:
            found.wrong[one.claim.name] = wrong


def _holds(path: str, other: str) -> bool:
    """Whether a module is another one, or holds it."""
    return not path or other == path or other.startswith(f"{path}.")


def _moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    return [
        (b.double() - a.double()).abs() > MOVED * a.abs().max()
        if a.shape == b.shape and a.numel()
        else torch.zeros(a.shape, dtype=torch.bool)
        for a, b in zip(before, after, strict=False)
    ]


def _overlaps(events: Sequence[Any], masks: Sequence[Sequence[list[Tensor]]]) -> list[str]:
    """The first place at which two tokens that were replaced in turn moved the same number."""
    for k, (path, what, _) in enumerate(events):
        for several in zip(*(run[k] for run in masks), strict=False):
            if torch.stack(several).sum(dim=0).gt(1).any():
                return [f"{what} {path or 'the model itself'}"]
    return []


def _not_tokens(one: Located, changes: Sequence[Tensor]) -> str:
    """Why the columns of a map are not single tokens of one sample; empty where they are."""
    claim = one.claim
    if not claim.is_exact:
        return ""
    moved = []
    for change in changes:
        far = change.abs() > MOVED * one.raw.abs().max()
        each = (far[one.values.index] & one.values.sure).view(claim.values.shape).any(dim=-1)
        if claim.axes[:1] == ("sample",) and each.flatten(1).any(dim=1).sum() > 1:
            return "one token moves columns of several samples"
        moved.append(each.flatten())
    if claim.has_tokens and moved and torch.stack(moved).sum(dim=0).gt(1).any():
        return "two tokens are in one column"
    return ""


def _tokens(subject: Subject) -> list[int]:
    """A token in the middle, the next one, and one far away."""
    count = subject.count()
    middle = count // 2
    return sorted({middle, min(middle + 1, count - 1), 0})
