"""Repeats one forward pass of a module with one token replaced, and says what moved.

The token mixers that were read keep their outputs, but for the replaced token itself. If
another token of the module's output moves, the module has a second path by which tokens mix.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from dsf.evaluate.memory_plan import free_memory, is_out_of_memory
from dsf.inspection.capture import containers
from dsf.inspection.capture.calls import Call, Invocation, Through
from dsf.inspection.capture.isolation import replaced as exchanged_in
from dsf.inspection.capture.isolation import same_numbers
from dsf.inspection.capture.modes import unheard
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.capture.precision import in_double, in_float64
from dsf.inspection.capture.weights import packed_modules
from dsf.inspection.causal.coordinates import (
    NONE,
    Coordinates,
    InputAxis,
    Source,
    all_before,
    counts_samples,
    small,
    telling,
    varies,
)
from dsf.inspection.errors import in_words
from dsf.inspection.softmax.attention import plain_experts, recording_attention
from dsf.inspection.softmax.follower import recording_softmax
from dsf.runtime.number_types import has_double

Cell = Mapping[InputAxis, int | Tensor]
"""A token: its index along every axis; or several, by all their indices along each."""
Replacement = Callable[[Tensor, Tensor, torch.Generator], Tensor]
SEED, DRAWS, ROUNDING = 0, 16, 16
LARGE, LARGE_DRAWS = 1e8, 4
"""How many times larger than the tokens at most are what replaces them where a number may be too
small to decide anything, as in ``if x.max() > limit``; less in types whose fourth powers overflow.
In as many draws, each with larger ones than the last."""


class UnclearError(Exception):
    """It is unknown what moves: the module cannot be repeated, or its tokens are not known."""


class NotFollowedError(UnclearError):
    """It could not be followed which tokens a module is given, or which it puts out."""


class NoNumbersError(UnclearError):
    """A module returns whole numbers or truth values only."""


@dataclass(frozen=True, eq=False)
class Held:
    """What keeps its recorded output while a module is repeated.

    Attributes:
        invocations: forward passes of modules in it that mix tokens and were not read.
        free: of the calls those that are computed anew.
        replaced: of the calls those that return random numbers instead.
        watched: forward passes in it that run, and in whose output no other token may move.
    """

    calls: Sequence[Call]
    invocations: Sequence[Invocation]
    free: frozenset[Call] = frozenset()
    replaced: frozenset[Call] = frozenset()
    watched: Sequence[Invocation] = ()


@dataclass(frozen=True)
class Moved:
    """What a replaced token moved.

    Attributes:
        elsewhere: largest change at other tokens, relative to the scale of what changed.
        limit: what of it is rounding.
        difference: the change of all outputs at other tokens, in one row; zero at the replaced.
        spilled: how much of what moves in the values and inputs of the mixers that are held lies at
            other tokens, 0 to 1: tokens met before they came there.
        has_hidden: as in ``Repetition``.
        in_slots: how far what is made of several tokens moved where held mixers are given it.
    """

    elsewhere: float
    limit: float
    difference: Tensor
    spilled: float = 0.0
    largest_spill: float = 0.0
    has_hidden: bool = False
    in_slots: float = 0.0

    @property
    def mixes(self) -> bool:
        return self.elsewhere > self.limit or self.spilled > 0


@dataclass(eq=False)
class Repetition:
    """One more forward pass of a module.

    Attributes:
        cells: the tokens that are replaced.
        rng: draws what replaces them.
        like: an earlier one without replaced tokens, in whose place the run is; None for the run.
        of_slots: whether the cells are of what held mixers return, and none of its input.
        outputs: what it returned, left in attributes and wrote into what it was given, in the
            places of those of the run; None for each that it does not return now.
        spills: changes at other tokens than the replaced ones: each the largest, relative to the
            largest number there, and its share of all that changed, 0 to 1.
        given: what held mixers were given, where no token was replaced.
        has_hidden: whether groups moved there that are made of tokens of one of several sequences,
            or tokens that several share, so that it is not seen what moves them.
        is_lost: whether numbers moved there of which it is not known which tokens they are of.
        in_slots: the largest change in the slots that held mixers are given.
    """

    cells: Sequence[Cell] = ()
    rng: torch.Generator = field(default_factory=torch.Generator)
    like: "Repetition | None" = None
    of_slots: bool = False
    outputs: list[Tensor | None] = field(default_factory=list)
    spills: list[tuple[float, float]] = field(default_factory=list)
    has_hidden: bool = False
    is_lost: bool = False
    in_slots: float = 0.0
    changed: list[Call] = field(default_factory=list)
    given: dict[Any, Any] = field(default_factory=dict)
    has_drawn: bool = False

    def compare(self, one: Any, before: Any, after: Any, seen: Coordinates | None) -> None:
        """Note how much of a tensor that ``one`` is given moves at other tokens."""
        if not self.cells:
            self.given[one] = after
            return
        before = before if self.like is None else self.like.given.get(one, before)
        if not (isinstance(before, Tensor) and isinstance(after, Tensor)):
            return
        if not before.is_floating_point() or before.shape != after.shape or not before.numel():
            return
        limit = ENTRY_ROUNDING * torch.finfo(torch.promote_types(after.dtype, torch.float32)).eps

        def largest(where: Tensor) -> float:
            """The largest change there, if it is more than rounding."""
            if not bool(where.any()):
                return 0.0
            size = sizes_moved(before, after).reshape(where.shape)[where].max().item()
            return size if size > limit else 0.0

        differs = after != before
        if seen is None:
            self.is_lost |= largest(differs) > 0
            return
        if before.numel() != seen.shape.numel():
            return
        differs = differs.reshape(seen.shape)
        made_of = frozenset[InputAxis]().union(*map(all_before, seen.positions))
        owned = own(seen, self.cells)
        if owned is None and not _has_tokens(seen, self.cells):
            # slots and groups, whose making is asked about by itself
            if any(not made_of.isdisjoint(cell) for cell in self.cells):
                self.in_slots = max(self.in_slots, largest(differs))
            return
        inside, is_hidden = _with_groups(differs, seen, self.cells)
        self.has_hidden |= is_hidden
        if made_of and owned is not None:
            self.in_slots = max(self.in_slots, largest(differs & inside & ~owned))
        if size := largest(differs & ~inside):
            change = (after.double() - before.double()).abs().reshape(seen.shape)
            far = change.masked_fill(inside, 0)
            self.spills.append((size, (far.norm() / change.norm()).item()))


def moved(
    invocation: Invocation,
    held: Held | None,
    *,
    draw: int = 0,
    slots: Sequence[Cell] = (),
    with_made: bool = False,
    of_tokens: bool = False,
    of_model: bool = False,
) -> Moved:
    """Repeat a forward pass with one token replaced.

    Args:
        slots: cells of new positions that held mixers return, see ``slots_held``, which are
            replaced instead of tokens.
        with_made: whether new positions that are made of replaced tokens count as these.
        of_tokens: leave out what belongs to no token, as beyond the end of a sequence, where
            something does.
        of_model: replace tokens of sequences alone, and leave out outputs without tokens.
        draw: which tokens are replaced, and by what. That of draw 0 is a single one, that of others
            one half of them all, see ``cells_drawn``; negative ones are the same halves, but with
            numbers that are much larger.
    """

    def asked(one: Invocation, *, from_a_pass: bool = False) -> Moved:
        """The answer in one number type, relative to the run or to a pass with all tokens."""
        cells = slots or cells_drawn(one, draw, of_model=of_model)
        plain = cache(partial(repetition, one, (), held, draw=draw))

        def compared(chosen: Sequence[Cell]) -> Moved:
            replaced = [*chosen, *made_of(chosen)] if with_made else chosen
            ask = partial(repetition, one, replaced, held, draw=draw)
            like = plain() if from_a_pass else None
            after = ask(like=like)
            if after.has_drawn and like is None:  # the run drew other ones
                like = plain()
                after = ask(like=like)
            before = one.outputs if like is None else like.outputs
            found = moved_between(
                one, replaced, before, after, of_tokens=of_tokens, of_model=of_model
            )
            if after.is_lost and not found.mixes:
                raise NotFollowedError("it is not known which tokens a mixer in it is given")
            return found

        found, sequences = compared(cells), dict.fromkeys(map(frozenset, cells))
        # What moved groups, or what several sequences share, is seen of one sequence alone.
        is_open = of_model if found.mixes else found.has_hidden
        for axes in sequences if is_open and len(sequences) > 1 else ():
            found = compared([cell for cell in cells if cell.keys() == axes])
            if found.mixes:
                break
        return found

    try:
        found = asked(invocation)
    except UnclearError:
        raise
    except Exception as error:  # nested tensors have no places, those of torch.vmap no numbers
        if is_out_of_memory(error):
            raise
        raise UnclearError(f"its tensors cannot be compared ({in_words(error)})") from error
    # Where it moved, or hardly anything did, the number type has no part in the answer. NaN is
    # clear as well: what is not finite in one type is not asked about in another.
    is_clear = found.mixes or not max(found.elsewhere, found.largest_spill) > 0
    if is_clear or not can_be_widened(invocation.module):
        return found
    with widened(invocation.module):
        try:
            args, kwargs = in_float64((invocation.args, invocation.kwargs))
            return asked(replace(invocation, args=args, kwargs=kwargs), from_a_pass=True)
        except UnclearError:  # its code runs in its own number type alone
            return found


MAX_WIDENED = 0.5
"""The share of the free memory that the weights in float64 may take."""


def can_be_widened(module: nn.Module) -> bool:
    """Whether all weights of a module are plain numbers, and fit into memory in float64."""
    parts = _narrow(module)
    if not all(has_double(part.device) and not part.is_meta for part in parts):
        return False
    wide = sum(part.numel() for part in parts) * torch.float64.itemsize
    there = free_memory(parts[0].device) if parts else None
    return not packed_modules(module) and (there is None or wide <= MAX_WIDENED * there)


@contextmanager
def widened(module: nn.Module) -> Iterator[None]:
    """Inside, ``module`` computes in float64, whatever it asks for."""
    before = [(part, part.data) for part in _narrow(module)]
    try:
        for part, data in before:
            part.data = in_float64(data)
        with in_double(), plain_experts(module):
            yield
    finally:
        for part, data in before:
            part.data = data


def _narrow(module: nn.Module) -> list[Tensor]:
    parts = (*module.parameters(), *module.buffers())
    narrow = (part for part in parts if part.is_floating_point())
    return [part for part in narrow if part.dtype is not torch.float64]


def moved_between(
    invocation: Invocation,
    cells: Sequence[Cell],
    before: Sequence[Tensor | None],
    after: Repetition,
    *,
    of_tokens: bool = False,
    of_model: bool = False,
) -> Moved:
    # Of the first output that holds numbers, and of all others that hold tokens, the change at
    # other tokens than the replaced ones: the largest, relative to the scale of its entry, and all.
    sizes, differences, dtypes = list[Tensor](), list[Tensor](), list[torch.dtype]()
    has_hidden, listed = after.has_hidden, _of_one_place_each(invocation.made)
    with torch._C.DisableTorchFunction():  # what listens takes calls for the model's
        for old, new, made in zip(before, after.outputs, invocation.made, strict=False):
            is_first = not of_model and not sizes
            is_map = made is not None and bool(made.columns)
            if is_map or not containers.are_numbers(old):
                continue
            if not is_first and not of_model and made is not None and _is_of_pairs(made):
                continue  # the weights of a cross attention, between tokens of two inputs
            if not containers.are_numbers(new) or old.shape != new.shape:
                if is_first or (containers.are_numbers(new) and own(made, cells) is not None):
                    raise UnclearError("its output has another size when a token is replaced")
                continue
            size, inside = sizes_moved(old, new), own(made, cells)
            if made is None and bool(size.any()):
                raise NotFollowedError("it is not known where the tokens are in its output")
            kept = torch.zeros_like(old, dtype=torch.bool) if inside is None else inside
            if of_model and made is not None:
                kept, is_hidden = _with_groups(size != 0, made, cells)
                has_hidden |= is_hidden
            has_others = of_model and _has_tokens(made, cells)
            if not (is_first or bool(kept.any()) or has_others or made in listed):
                continue  # of all tokens together, such as a state, or what slots are added to
            if of_tokens and made is not None:
                kept = kept | _of_none(made).to(kept.device)
            exact = torch.promote_types(old.dtype, torch.float64)
            change = torch.where(size == 0, 0, new.to(exact) - old.to(exact)).masked_fill(kept, 0)
            sizes.append(size.masked_fill(kept, 0).flatten())
            differences.append(change.flatten())
            dtypes.append(old.dtype)
    if not sizes and of_model:  # no output has tokens
        sizes, differences, dtypes = [torch.zeros(1)], [torch.zeros(0)], [torch.float32]
    if not sizes:
        raise NoNumbersError("it returns no numbers, so that tokens only choose what others see")
    limit = ENTRY_ROUNDING * max(torch.finfo(dtype).eps for dtype in dtypes)
    known = [size[~size.isnan()] for size in sizes]
    elsewhere = max((size.max().item() for size in known if size.numel()), default=0.0)
    if elsewhere <= limit and any(bool(size.isnan().any()) for size in sizes):
        elsewhere = math.nan  # of what is not finite it is not known whether it moved
    return Moved(
        elsewhere,
        limit,
        difference=torch.cat(differences),
        spilled=max((share for size, share in after.spills if size > limit), default=0.0),
        largest_spill=max((size for size, _ in after.spills), default=0.0),
        has_hidden=has_hidden,
        in_slots=after.in_slots,
    )


def _has_tokens(made: Coordinates | None, cells: Sequence[Cell]) -> bool:
    """Whether samples of a tensor have several tokens of sequences of which none was replaced."""
    if made is None or not made.positions or not made.shape.numel():
        return False
    replaced = {axis for cell in cells for axis in cell}
    before = set[InputAxis]().union(*map(all_before, replaced))
    sources = {axis.source for axis in replaced | before}
    planes = torch.broadcast_tensors(*(small(made.planes[axis]) for axis in made.positions))
    lines = torch.stack(planes).reshape(len(planes), -1)
    are_tokens = [
        not counts_samples(axis)
        and axis.source not in sources
        and all_before(axis).isdisjoint(replaced)
        for axis in made.positions
    ]
    others = lines.masked_fill(torch.tensor(are_tokens, device=lines.device)[:, None], 0)
    return bool(_numbered(lines).max() > _numbered(others).max())


def _of_one_place_each(made: Sequence[Coordinates | None]) -> set[Coordinates]:
    """Those of outputs of which every place along an axis has one of its own: a list of tokens."""
    found: dict[InputAxis, dict[float, Coordinates]] = {}
    for one in filter(None, made):
        for axis in one.positions:
            if len(place := small(one.planes[axis]).unique()) == 1:
                found.setdefault(axis, {})[float(place)] = one
    lists = (places for axis, places in found.items() if len(places) == axis.size > 1)
    return {one for places in lists for one in places.values()}


def _is_of_pairs(made: Coordinates) -> bool:
    """Whether the last axis counts tokens of one input, and another one those of another input."""
    if not made.shape:
        return False
    last = {axis.source for axis in made.positions if varies(made.planes[axis], -1)}
    others = {axis.source for axis in made.positions if not varies(made.planes[axis], -1)}
    return bool(last) and bool(others - last)


ENTRY_ROUNDING = 64
"""Most rounding of a number, in steps of its type, relative to ordinary numbers of its tensor."""
LEAST_QUANTILE, OUTLIERS, MAX_SAMPLED = 0.01, 1e6, 2**12
"""A number larger than so many times what nearly all others exceed says nothing about these."""


def sizes_moved(before: Tensor, after: Tensor) -> Tensor:
    """By how much every number of a tensor changed, relative to its own scale; nan stays nan."""
    # The scale of a number is its size, or that of ordinary numbers in the tensor if that is more:
    # a mask of -1e9, an infinity or a time stamp in it hides nothing of the others.
    exact = torch.promote_types(before.dtype, torch.float64)
    old, new = before.to(exact), after.to(exact)
    if not old.numel() or torch.equal(old, new):
        nothing = torch.zeros(old.shape, dtype=torch.float64, device=old.device)
        return nothing.masked_fill(old.isnan(), math.nan)
    large = old.abs()
    numbers = large[large.isfinite() & (large > 0)]
    numbers = numbers[:: max(1, numbers.numel() // MAX_SAMPLED)]
    ordinary = 0.0
    if numbers.numel():
        least = numbers.kthvalue(1 + int(LEAST_QUANTILE * (numbers.numel() - 1))).values
        among = numbers[numbers <= OUTLIERS * least]
        ordinary = among.square().mean().sqrt().item()
    scale = torch.maximum(large, new.abs()).clamp(min=ordinary or 1.0)
    change = (new - old).abs() / scale
    change = torch.where(old.isfinite() == new.isfinite(), change, 1.0)  # infinite over infinite
    return torch.where(old == new, 0.0, change)


def _cells_in(invocation: Invocation) -> list[tuple[dict[InputAxis, int], Coordinates]]:
    """A token of every sequence that a module is given, with the coordinates of a tensor of it."""
    rng = torch.Generator().manual_seed(SEED)
    found: dict[frozenset[InputAxis], tuple[dict[InputAxis, int], Coordinates]] = {}
    pairs = list(zip(_tensors(invocation), invocation.given, strict=True))
    for tensor, given in _with_tokens(pairs):
        if given is None or not tensor.numel():
            continue
        axes = frozenset(given.positions)
        if axes and axes not in found:
            cell = _drawn(given, rng)
            if cell:
                found[frozenset(cell)] = cell, given
    whole = [axes for axes in found if not any(axes < other for other in found)]
    if not whole:
        raise NotFollowedError("nothing that it is given comes from single tokens of the input")
    return [found[axes] for axes in whole]


def _with_tokens(
    pairs: Sequence[tuple[Tensor, Coordinates | None]],
) -> Sequence[tuple[Tensor, Coordinates | None]]:
    """The tensors in which tokens are replaced: numbers, and whole numbers that are their ids."""
    known = [(tensor, given) for tensor, given in pairs if given is not None]
    numbers = [one for one in known if one[0].is_floating_point()]
    firsts = {tensor.shape[:1] for tensor, _ in numbers}
    # Besides features of each sample alone are ids of its tokens; edges have other first axes.
    are_features = len(firsts) == 1 and all(len(given.positions) < 2 for _, given in numbers)

    def are_ids(tensor: Tensor, given: Coordinates) -> bool:
        is_beside = are_features and tensor.ndim > 1 and tensor.shape[:1] in firsts
        return is_beside or _are_embedded(given.planes)

    if not numbers:  # whole numbers are ids where nothing else is given
        return pairs
    return [one for one in known if one[0].is_floating_point() or are_ids(*one)]


def _are_embedded(axes: Collection[InputAxis]) -> bool:
    """Whether all places along some axes, if any, are ids that were looked up."""
    return bool(axes) and all(axis.source.is_embedded for axis in axes)


def cells_drawn(invocation: Invocation, draw: int, *, of_model: bool = False) -> Sequence[Cell]:
    """The tokens that are replaced in a draw: a single one of every sequence in draw 0.

    Of each draw it is one half of the tokens, by one binary digit of their places along one axis:
    of any two some draw up to ``separating`` replaces one without the other. ``of_model``, draws 1
    and 2, which come before these, replace one half of all sequences each.
    """
    cells = _cells_in(invocation)
    if of_model:
        embedded = [one for one in cells if _are_embedded(one[0])]
        pairs = zip(_tensors(invocation), invocation.given, strict=True)
        has_numbers = any(one.is_floating_point() and made is not None for one, made in pairs)
        cells = cells if has_numbers or not embedded else embedded
        several = {axis for cell, _ in cells for axis in cell if axis.number > 0 and axis.size > 1}
        cells = [one for one in cells if len(one[0]) > 1 and several & one[0].keys()] or cells
    if not draw:
        return [cell for cell, _ in cells]
    number, is_second = divmod(abs(draw) - 1, 2)
    if of_model and not number:
        return [each for one in cells for each in _squares(*one, is_second)]
    return [_half(*one, number - of_model, is_second) for one in cells]


def _tensors(invocation: Invocation) -> list[Tensor]:
    return containers.tensors_in((invocation.args, invocation.kwargs))


def _drawn(given: Coordinates, rng: torch.Generator) -> dict[InputAxis, int]:
    """A token of a tensor, by chance, and not at an end of its sequence where that can be."""
    axes = given.positions
    best: dict[InputAxis, int] = {}
    for _ in range(DRAWS):
        place = tuple(int(torch.randint(size, (1,), generator=rng)) for size in given.shape)
        cell = {axis: int(given.planes[axis][place]) for axis in axes}
        cell = {axis: index for axis, index in cell.items() if index >= 0}
        inside = all(0 < index < axis.size - 1 or axis.size < 3 for axis, index in cell.items())
        if len(cell) > len(best) or (inside and len(cell) == len(best)):
            best = cell
            if inside and len(cell) == len(axes):
                break
    if best or not axes:
        return {axis: best[axis] for axis in telling(given.planes, [*best])}
    # In a window that is mostly padding none may have been drawn.
    planes = {axis: small(given.planes[axis]) for axis in axes}
    places = torch.stack(torch.broadcast_tensors(*(p >= 0 for p in planes.values()))).sum(dim=0)
    likely = places.flatten().argmax()
    found = {a: int(p.expand(places.shape).flatten()[likely]) for a, p in planes.items()}
    return {axis: index for axis, index in found.items() if index >= 0}


def _half(cell: Cell, given: Coordinates, number: int, side: int) -> dict[InputAxis, Tensor]:
    """One half of the places along an axis, and all others; the same in ids and their mask."""
    # Only places that the tensor has, together with those along the axes before, as a sequence of
    # every second token has every second place.
    digits = _digits(cell) or [((-1, 0), 0)]
    turned, digit = digits[number % len(digits)]
    there = _places(given, list(cell))
    found: dict[InputAxis, Tensor] = {}
    for k, axis in enumerate(cell):
        present = there[k].unique()
        is_turned = (axis.number, axis.size) == turned
        half = present[(present.long() >> digit) & 1 == side]
        found[axis] = half if is_turned and len(half) else present
        there = there[:, torch.isin(there[k], found[axis])]
    return found


def _places(given: Coordinates, axes: Sequence[InputAxis]) -> Tensor:
    """The places along some axes of all elements that have one along each, ``axis place``."""
    planes = torch.broadcast_tensors(*(small(given.planes[axis]) for axis in axes))
    lines = torch.stack(planes).reshape(len(planes), -1)
    return lines[:, (lines >= 0).all(dim=0)]


def _squares(cell: Cell, given: Coordinates, is_second: int) -> list[dict[InputAxis, Tensor]]:
    """The squares of one colour, where the places along every axis are halved by chance."""
    # Whatever moves from sample to sample, or within one alone, is between two colours as well.
    rng = torch.Generator().manual_seed(SEED + 1)
    there, halves = _places(given, list(cell)), []
    for line in there:
        present = line.unique()
        order = present[torch.randperm(len(present), generator=rng).to(present.device)]
        half = (len(order) + 1) // 2
        halves.append((order[:half], order[half:]))
    colours = (sides for sides in product((0, 1), repeat=len(cell)) if sum(sides) % 2 == is_second)
    found = [
        dict(zip(cell, (pair[side] for pair, side in zip(halves, sides, strict=True)), strict=True))
        for sides in colours
    ]
    return [one for one in found if all(map(len, one.values()))] or [
        dict(zip(cell, (line.unique() for line in there), strict=True))
    ]


def separating(invocation: Invocation) -> int:
    """How many draws replace of any two tokens of a sequence one without the other."""
    return 2 * max(len(_digits(cell)) for cell, _ in _cells_in(invocation))


def draws(invocation: Invocation) -> list[int]:
    """The draws by which it is asked whether any token moves another."""
    return [*range(1, 1 + separating(invocation)), *range(-1, -1 - LARGE_DRAWS, -1)]


def _digits(cell: Cell) -> list[tuple[tuple[int, int], int]]:
    """The binary digits of the places along every axis; two tokens differ in one of them.

    Axes with the same number and size, as of ids and their mask, share them; that with most places
    comes first.
    """
    sizes = dict.fromkeys((axis.number, axis.size) for axis in cell)
    return [
        (each, digit)
        for each in sorted(sizes, key=lambda each: -each[1])
        for digit in range((each[1] - 1).bit_length())
    ]


def made_of(cells: Sequence[Cell]) -> list[Cell]:
    """The cells of new positions that are made of those of cells, where it is known which are."""
    found, waiting = list[Cell](), list(cells)
    seen: set[frozenset[InputAxis]] = set()
    while waiting:
        cell = waiting.pop()
        sources: dict[Source, dict[InputAxis, int | Tensor]] = {}
        for axis in cell:
            for made in axis.source.coarser.get(axis, ()):
                if (index := made.index_in(cell)) is not None:
                    sources.setdefault(made.source, {})[made] = index
        for several in sources.values():
            inside = set[InputAxis]().union(*(axis.windows for axis in several))
            new = {axis: index for axis, index in cell.items() if axis not in inside} | several
            if frozenset(new) not in seen:  # by several ways
                seen.add(frozenset(new))
                found.append(new)
                waiting.append(new)
    return found


def own(made: Coordinates | None, cells: Sequence[Cell]) -> Tensor | None:
    """Which elements of a tensor belong to a replaced token; None if it has none."""
    if made is None:
        return None
    found = None
    for cell in cells:
        if not all(axis in made.planes for axis in cell):
            continue
        inside = torch.ones((), dtype=torch.bool)
        for axis, index in cell.items():
            plane = small(made.planes[axis])
            inside = inside & (
                torch.isin(plane, index.to(plane)) if isinstance(index, Tensor) else plane == index
            )
        found = inside if found is None else found | inside
    return None if found is None else found.expand(made.shape)


def _of_none(made: Coordinates) -> Tensor:
    """Which elements of a tensor are beyond all tokens along an axis, each of which has others."""
    found = torch.zeros((), dtype=torch.bool)
    for axis in made.positions:
        plane = small(made.planes[axis])
        if len(plane[plane >= 0].unique()) == axis.size:
            found = found | (plane == NONE)
    return found.expand(made.shape)


def _of_made(made: Coordinates, cells: Sequence[Cell], known: Collection[InputAxis]) -> Tensor:
    """Which elements belong to what was made of the tokens of cells, and to no single token.

    To broadcast, so that little is sent to a device.

    Args:
        known: axes of which some cell says which places are made of them.
    """
    found = torch.zeros((), dtype=torch.bool)
    for cell in cells:
        is_single = torch.tensor(all(axis in made.planes for axis in cell))
        for axis in cell if is_single else ():
            is_single = is_single & (small(made.planes[axis]) >= 0)
        for axis in made.positions:
            if not all_before(axis).isdisjoint(cell) and axis not in known:
                found = found | ((small(made.planes[axis]) >= 0) & ~is_single)
    return found


@unheard()
def _with_groups(differs: Tensor, made: Coordinates, cells: Sequence[Cell]) -> tuple[Tensor, bool]:
    """Which elements belong to replaced tokens alone, or to what was made of them.

    And whether some are hidden: where tokens of several sequences are replaced, it is not seen
    which of them moves such groups, or what tokens of several sequences share.
    """
    kept = hidden = torch.zeros((), dtype=torch.bool)
    several = dict.fromkeys(map(frozenset, cells))
    known = frozenset[InputAxis]().union(*several)
    for axes in several:
        mine = [cell for cell in cells if cell.keys() == axes]
        owned, groups = own(made, mine), _of_made(made, mine, known)
        inside = groups if owned is None else groups | small(owned)
        shared = _sent(made, inside, mine[0])
        kept, hidden = kept | (inside & ~shared), hidden | groups | shared
    kept, hidden = (each.to(differs.device).expand(made.shape) for each in (kept, hidden))
    return kept, len(several) > 1 and bool((differs & hidden).any())


def _sent(made: Coordinates, inside: Tensor, cell: Cell) -> Tensor:
    """Which elements of replaced tokens, or groups, several tokens of another sequence share.

    Of other sequences the first axis counts samples, which may share a token, and the last one
    features where nothing says what does.
    """

    def is_of_tokens(axis: InputAxis) -> bool:
        source = axis.source
        are_features = source.channels is None and source.kind == "input"
        return not (counts_samples(axis) or (are_features and axis.number == source.rank - 1))

    found, own_axes = torch.zeros_like(inside), list[InputAxis]()
    others: dict[Source, list[InputAxis]] = {}
    for axis in made.positions:
        if axis in cell or not all_before(axis).isdisjoint(cell):
            own_axes.append(axis)
        elif is_of_tokens(axis):
            others.setdefault(axis.source, []).append(axis)
    for axes in others.values() if inside.ndim and bool(inside.any()) else ():
        planes = [small(made.planes[axis]).to(inside.device) for axis in (*own_axes, *axes)]
        is_own, *lines = torch.broadcast_tensors(inside, *planes)
        mine, theirs = torch.stack(lines).split([len(own_axes), len(axes)])
        there = is_own & (theirs >= 0).all(dim=0)
        if not bool(there.any()):
            continue
        which, other = _numbered(mine[:, there]), _numbered(theirs[:, there])
        pairs = (which * there.numel() + other).unique() // there.numel()
        is_sent = torch.zeros_like(there)
        is_sent[there] = (pairs.bincount() > 1)[which]
        found = found | is_sent
    return found


def _numbered(lines: Tensor) -> Tensor:
    """A number for each column, the same for equal ones, from 0."""
    found = torch.zeros(lines.shape[1], dtype=torch.long, device=lines.device)
    for line in lines.long():
        each = line - line.min()
        found = (found * (each.max() + 1) + each).unique(return_inverse=True)[1]
    return found


def puts_out_tokens(invocation: Invocation, cells: Sequence[Cell]) -> bool:
    """Whether some of the first numbers that a module returns belong to replaced tokens alone."""
    pairs = zip(invocation.outputs, invocation.made, strict=False)
    made = next((made for part, made in pairs if containers.are_numbers(part)), None)
    inside = own(made, cells)
    return inside is not None and bool(inside.any())


def lost_axis(run: Invocation) -> InputAxis | None:
    """An axis of ids that nothing looked up, as long as one of an output that is of no token."""
    places = (axis for given in run.given if given is not None for axis in given.positions)
    axes = [one for one in places if one.source.kind == "ids" and one.number > 0]
    for part, made in zip(run.outputs, run.made, strict=False):
        if made is None or made.columns or not containers.are_numbers(part):
            continue
        open_ones = {
            size
            for k, size in enumerate(made.shape)
            if size > 1 and not any(varies(plane, k) for plane in made.planes.values())
        }
        lost = (one for one in axes if one.size in open_ones and not one.source.is_embedded)
        if (axis := next(lost, None)) is not None:
            return axis
    return None


def repetition(
    invocation: Invocation,
    cells: Sequence[Cell],
    held: Held | None,
    *,
    draw: int = 0,
    like: Repetition | None = None,
) -> Repetition:
    """Repeat a forward pass as in the run, with other tokens in the ``cells`` of its input.

    Args:
        draw: says what replaces them: ordinary numbers, and the numbers of other tokens where the
            module refuses these, such as ids in a tensor of floats; large ones if negative.
        like: an earlier repetition that it is compared with, in the place of the run.
    """
    if invocation.is_spoiled:
        raise UnclearError("what it was called with was written into while it ran")
    _try_anew(invocation)
    rng = torch.Generator().manual_seed(SEED + 1 + abs(draw))
    replacement = _of_other_tokens if invocation.refuses and draw >= 0 else replacing(draw)
    known = dict(zip(map(id, _tensors(invocation)), invocation.given, strict=True))
    its_axes = {axis for one in invocation.given if one is not None for axis in one.planes}
    found = Repetition(cells, rng, like, of_slots=all(map(its_axes.isdisjoint, cells)))
    is_replaced = found.of_slots
    copies: dict[int, Tensor] = {}  # what was one tensor stays one

    def exchanged(part: Any) -> Any:
        nonlocal is_replaced
        if not isinstance(part, Tensor):
            return containers.own_caches(part, exchanged)
        if id(part) not in copies:
            new = with_other_tokens(part, known.get(id(part)), cells, rng, replacement)
            is_replaced |= new is not None
            copies[id(part)] = containers.own_copy(part) if new is None else new
        return copies[id(part)]

    leaves, tree = tree_flatten((invocation.args, invocation.kwargs))
    args, kwargs = tree_unflatten([exchanged(leaf) for leaf in leaves], tree)
    if not is_replaced:
        raise UnclearError("none of its tokens could be replaced")
    try:
        with invocation.as_it_began(), ExitStack() as stack:
            if held is not None:
                _hold(stack, invocation, held, found)
            has_drawn = stack.enter_context(same_numbers(invocation.module))
            for device, dtype in invocation.autocast:
                stack.enter_context(torch.autocast(device, dtype))
            output = invocation.module(*args, **kwargs)
            left = {**vars(invocation.module)}
            found.has_drawn = has_drawn()
    except Exception as error:
        if is_out_of_memory(error):
            raise
        if cells and draw >= 0 and not invocation.refuses:
            invocation.refuses = True
            with suppress(UnclearError):
                return repetition(invocation, cells, held, draw=draw, like=like)
            invocation.refuses = False
        raise UnclearError(f"it cannot be repeated ({in_words(error)})") from error
    given, put_out = containers.tensors_in((args, kwargs)), containers.tensors_in(output)
    before = containers.tensors_in(invocation.output)
    if invocation.output is not None and len(put_out) != len(before):
        raise UnclearError("it returns other tensors when a token is replaced")
    found.outputs = [
        *put_out,
        *map(left.get, invocation.attributes),
        *(given[k] if k < len(given) else None for k in invocation.written),
    ]
    return found


def _try_anew(invocation: Invocation) -> None:
    """See whether a pass is as it was where all that the run changed in place is as before."""
    # What it kept in a list or a buffer at first may otherwise be kept from the run.
    history = invocation.history
    if invocation.starts_anew is not None or history is None or not history.is_over:
        return
    invocation.starts_anew = bool(history.in_place)
    if history.in_place:
        try:
            again = repetition(invocation, (), None)
            before = invocation.outputs
            invocation.starts_anew = not moved_between(invocation, (), before, again).mixes
        except UnclearError:
            invocation.starts_anew = False


def with_other_tokens(
    part: Tensor,
    made: Coordinates | None,
    cells: Sequence[Cell],
    rng: torch.Generator,
    replacement: Replacement,
) -> Tensor | None:
    """A copy of a tensor with other numbers at its replaced tokens; None if it has none."""
    inside = own(made, cells)
    if inside is None or not bool(inside.any()):
        return None
    copy = part.detach().clone()
    copy[inside] = replacement(part, inside, rng)
    return copy.requires_grad_(part.requires_grad)


SINGLE = 4
"""The bytes of a number in single precision; smaller types overflow where they are squared."""


FEW = 64
"""Most numbers that are drawn on the processor and sent to a device; the rest is made of them."""


def ordinary(part: Tensor, inside: Tensor, rng: torch.Generator) -> Tensor:
    """What replaces a token: numbers as large as those of the tensor; another id for an id."""
    count = int(inside.sum())
    if not containers.are_numbers(part):
        there = part[inside]
        others = part[~inside]
        different = others[others != there.flatten()[0]] if others.numel() else others
        if different.numel():
            return different.flatten()[0].expand(count)
        same = there.flatten()[0]
        return (~same if same.dtype == torch.bool else (same - 1).abs()).expand(count)
    real = part.abs().float() if part.dtype.itemsize < SINGLE else part.abs()
    size = real.square().mean().sqrt().clamp(min=1e-3)
    few = count if part.device.type == "cpu" else min(count, FEW)
    drawn = torch.randn(few, generator=rng, dtype=torch.float64).to(size.dtype).to(part.device)
    if few < count:
        places = torch.arange(count, device=part.device)
        drawn = drawn[places % few] * torch.cos(places.to(size.dtype))
    return (size * drawn).to(part.dtype)


def replacing(draw: int) -> Replacement:
    """What replaces tokens in a draw: large numbers in negative ones, of the other sign."""
    if draw >= 0:
        return ordinary

    def large(part: Tensor, inside: Tensor, rng: torch.Generator) -> Tensor:
        numbers = ordinary(part, inside, rng)
        if not containers.are_numbers(part):
            return numbers
        return -numbers * min(LARGE ** (-draw / LARGE_DRAWS), torch.finfo(part.dtype).max ** 0.25)

    return large


def _of_other_tokens(part: Tensor, inside: Tensor, rng: torch.Generator) -> Tensor:
    """What replaces a token: the numbers of another one, each in its own channel."""
    if part.shape[:-1].numel() > 1:
        rows = part.flatten(0, -2)
        shift = 1 + int(torch.randint(len(rows) - 1, (1,), generator=rng))
        return rows.roll(shift, dims=0).reshape(part.shape)[inside]
    # Of one sentence, the words that are there once: others may hold the places of a picture.
    words, which, counts = part.unique(return_inverse=True, return_counts=True)
    others = words[counts == 1].roll(1)
    return words.masked_scatter(counts == 1, others)[which][inside]


def _hold(stack: ExitStack, invocation: Invocation, held: Held, found: Repetition) -> None:
    """Have modules put out what they did, and what others move in them or in their output noted."""
    module, cells = invocation.module, found.cells
    attentions = [call for call in held.calls if call.through is not Through.MODULE]
    waiting = list(attentions)

    def exchange(call: Call) -> Tensor | None:
        if not waiting or waiting[0].module is not call.module:
            return None  # such as an attention inside of a module that is held as a whole
        kept = waiting.pop(0)
        if kept.through is not call.through:
            return None
        before, after = kept.arguments.get("value"), call.arguments.get("value")
        if (
            isinstance(before, Tensor)
            and isinstance(after, Tensor)
            and (
                before.shape != after.shape
                or not before.is_floating_point()
                or (sizes_moved(before, after) > ROUNDING * torch.finfo(after.dtype).eps).any()
            )
        ):
            found.changed.append(kept)
        recorded = kept.first_output
        if kept in held.replaced:
            everywhere = torch.ones_like(recorded, dtype=torch.bool)
            return ordinary(recorded, everywhere, found.rng).reshape(recorded.shape)
        if kept in held.free:
            return None
        found.compare(kept, before, after, kept.seen.get("value"))
        dtype = after.dtype if isinstance(after, Tensor) else recorded.dtype
        seen, new = kept.seen.get("output"), recorded.to(dtype, copy=True)
        if seen is not None and seen.shape.numel() == new.numel():
            new = new.reshape(seen.shape)
        inside = own(seen, cells) if seen is not None and seen.shape == new.shape else None
        if inside is not None and bool(inside.any()):
            new[inside] = ordinary(new, inside, found.rng)
        return new

    whole = {call.module for call in held.calls if call.through is Through.MODULE}
    attending = {call.module for call in attentions}  # heard inside of a module that was probed
    claimed = {
        name
        for name, part in module.named_modules()
        if name and part in whole and attending.isdisjoint(part.modules())
    }
    where = ModuleStack(
        module,
        claimed=claimed,
        exchange=exchange,
        keeps_passes=False,
        looks_around=False,
        attends={(call.module, call.product) for call in attentions if call.product},
    )
    calls: list[Call] = []
    idle = {part for part in whole if _leaves_nothing(part)}
    idle -= {one.module for one in held.invocations}
    stack.enter_context(recording_softmax(where, calls))
    stack.enter_context(recording_attention(module, where, calls))
    keeping = outputs_held(held, invocation)
    inside = {part for child in keeping for part in child.modules() if part is not child}
    for child, several in keeping.items():
        stack.callback(child.register_forward_hook(_keeping(several, found)).remove)
        if child not in inside:  # what moves in a part of another is the other's
            compare = _comparing([one for *_, one in several], found)
            ahead = child.register_forward_pre_hook  # of other hooks, as in the run
            stack.callback(ahead(compare, prepend=True, with_kwargs=True).remove)
        if child in idle and attending.isdisjoint(child.modules()):
            forward = _not_run(child.forward, several)
            stack.enter_context(exchanged_in(child, "forward", forward))
    for child in dict.fromkeys(one.module for one in held.watched):
        watched = [one for one in held.watched if one.module is child]
        compare = _comparing(watched, found, last=True)
        stack.callback(child.register_forward_hook(compare).remove)


def are_seen(passes: Sequence[Invocation], run: Invocation) -> bool:
    """Whether a change at other tokens of the model is noted in the outputs of passes in it."""
    cells = cells_drawn(run, 1, of_model=True)

    def is_noted(part: Tensor, made: Coordinates | None) -> bool:
        is_known = made is not None and part.is_floating_point() and part.shape == made.shape
        return is_known and own(made, cells) is not None

    def is_seen(one: Invocation) -> bool:
        pairs = zip(one.outputs, one.made, strict=False)
        numbers = [pair for pair in pairs if containers.are_numbers(pair[0])]
        noted = [(part, made) for part, made in numbers if made is None or not made.columns]
        is_finite = all(bool(part.isfinite().all()) for part, _ in numbers)
        return is_finite and bool(noted) and all(is_noted(*pair) for pair in noted)

    return all(map(is_seen, passes))


HeldOutput = tuple[Any, Sequence[Coordinates | None], Invocation | None]
"""What a forward pass of a held module returned, of which tokens, and the pass itself.

Only as many of the tensors are held as it is said of which tokens they are, if of none.
"""
STATES = ((nn.LSTM, 3), (nn.RNNBase, 2), (nn.LSTMCell, 2))
"""How many of the tensors that a recurrence of torch returns its map explains: its states, too."""


def slots_held(invocation: Invocation, held: Held) -> list[list[Cell]]:
    """Draws of new positions that held mixers in a pass return, of which no token is replaced.

    Of any two that one mixer made, some draw replaces one without the other.
    """
    known = {axis for one in invocation.given if one is not None for axis in one.planes}
    made = [
        one
        for runs in outputs_held(held, invocation).values()
        for _, many, _ in runs
        for one in many
    ]
    made += [call.seen.get("output") for call in held.calls]
    places = {
        axis: torch.arange(axis.size)
        for one in made
        for axis in (() if one is None else one.positions)
        if axis.source.before and not (axis in known or axis.windows)
    }

    def half(digit: int, side: int) -> list[Cell]:
        halves = {axis: line[(line >> digit) & 1 == side] for axis, line in places.items()}
        return [{axis: line} for axis, line in halves.items() if len(line)]

    digits = max(((axis.size - 1).bit_length() for axis in places), default=0)
    return [half(digit, side) for digit in range(digits) for side in (0, 1)]


def outputs_held(held: Held, invocation: Invocation) -> dict[nn.Module, list[HeldOutput]]:
    """By module what its forward passes returned in the run, in running order."""
    # Of a mixer that was read, only what its map explains is held: tokens meet in the others.
    found: dict[nn.Module, list[HeldOutput]] = {}
    for call in held.calls:
        if call.through is Through.MODULE:
            states = (each for kind, each in STATES if isinstance(call.module, kind))
            count = next(states, call.explained)
            made = [call.seen.get("output"), *call.further, *[None] * count][:count]
            found.setdefault(call.module, []).append((call.output, made, call.invocation))
    for inner in held.invocations:
        made = [*inner.made, *[None] * len(inner.outputs)]
        found.setdefault(inner.module, []).append((inner.output, made, inner))
    found.pop(invocation.module, None)
    return found


def _comparing(
    runs: Sequence[Invocation | None], found: Repetition, *, last: bool = False
) -> Callable[..., None]:
    """A hook that notes what moves at other tokens in the input of passes, or in their output."""
    waiting = iter(runs)

    def hook(_module: nn.Module, args: Any, named: Any) -> None:  # or the output, if it is the last
        one = next(waiting, None)
        if one is None:
            return
        now = containers.tensors_in(named if last else (args, named))
        then, seen = (one.outputs, one.made) if last else (_tensors(one), one.given)
        with torch._C.DisableTorchFunction():  # no function of the module itself
            for k, (before, after, made) in enumerate(zip(then, now, seen, strict=False)):
                if not (last and made is not None and made.columns):  # such as a map
                    found.compare((one, last, k), before, after, made)

    return hook


def _not_run(plain: Callable[..., Any], several: Sequence[HeldOutput]) -> Callable[..., Any]:
    """A forward pass of a held module that returns other numbers instead of running."""
    waiting = iter(several)

    def forward(*args: Any, **kwargs: Any) -> Any:
        recorded, seen, one = next(waiting, (None, (), None))
        now, before = containers.tensors_in((args, kwargs)), [] if one is None else _tensors(one)
        same = [part.shape for part in now] == [part.shape for part in before]
        if recorded is None or one is None or one.written or one.attributes or not same:
            return plain(*args, **kwargs)
        # Others read what it writes into a cache, or returns besides what is held.
        is_tensor = [isinstance(leaf, Tensor | None) for leaf in tree_leaves(recorded)]
        if any(map(containers.is_cache, (*args, *kwargs.values()))) or not all(is_tensor):
            return plain(*args, **kwargs)
        if len(containers.tensors_in(recorded)) > len(seen):
            return plain(*args, **kwargs)
        kinds = {old.dtype: new.dtype for old, new in zip(before, now, strict=True)}

        def other(part: Tensor) -> Tensor:
            new = -part.flip(-1) if containers.are_numbers(part) and part.ndim else part
            return new.to(kinds.get(part.dtype, part.dtype))

        return containers.mapped(recorded, other)

    return forward


LIBRARIES = {"torch", "transformers", "fla"}


def _leaves_nothing(module: nn.Module) -> bool:
    """Whether a module is known to leave nothing where others look at it, but what it returns."""
    inner = [part for part in module.modules() if part is not module]
    hooks = [one for part in inner for one in (part._forward_hooks, part._forward_pre_hooks)]
    return type(module).__module__.partition(".")[0] in LIBRARIES and not any(hooks)


def _keeping(several: Sequence[HeldOutput], found: Repetition) -> Callable[..., Any]:
    """A hook by which passes return what they did, but for replaced tokens."""
    waiting = iter(several)

    def hook(_module: nn.Module, _given: Any, output: Any) -> Any:
        recorded, seen, _ = next(waiting, (None, (), None))
        if recorded is None:
            return output
        olds = containers.tensors_in(recorded)
        pairs = zip(olds, seen, strict=False)

        def kept(part: Tensor) -> Tensor:
            old, made = next(pairs, (None, None))
            if old is None or old.shape != part.shape:
                return part
            inside = own(made, found.cells)
            new = part.detach().clone()  # in its strides, since other code may view it
            new.copy_(old if inside is None else torch.where(inside, part, old))
            if found.of_slots and inside is not None and containers.are_numbers(new):
                new[inside] = ordinary(new, inside, found.rng)
            return new

        with torch._C.DisableTorchFunction():  # no function of the module itself
            return containers.with_each(output, kept)

    return hook


def share_of(everything: Moved, rest: Moved) -> float:
    """How much of ``everything`` that a token moves does not remain as ``rest``, 0 to 1.

    nan where it moves nothing, or a number is not finite, as where large tokens overflow in an
    exponential.
    """
    explained = (everything.difference - rest.difference).norm().item()
    left = rest.difference.norm().item()
    return explained / (explained + left) if explained + left != 0 else math.nan
