"""Which axis of an attention carries tokens, samples or heads, found from its values."""

from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Size, Tensor

from dsf.inspection.causal.coordinates import (
    MANY,
    NONE,
    Coordinates,
    InputAxis,
    all_before,
    is_place,
    reduced,
    token_numbers,
    varies,
)
from dsf.inspection.errors import UnreadableError

TOKEN, SLOT, PADDED = "token", "slot", "token or padding"


class NoTokensError(Exception):
    """An attention that does not mix tokens, or whose axes are not known; the message says why."""


@dataclass(frozen=True, eq=False)
class Maps:
    """What the axes of an attention count.

    Attributes:
        order: for every map in the order of these axes its place among the recorded ones; None
            where that is the order in which they were recorded.
        columns: what the columns are: tokens, slots made of several tokens, or padding, too.
        row_tokens, column_tokens: the token of every row and column, ``map row`` and ``map
            column`` in the order of the axes; -1 for none. None where they are numbered in order.
        row_input, column_input: the input of the model whose tokens rows and columns are; empty
            where they are not those of a single one.
    """

    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    order: Tensor | None
    columns: str
    row_tokens: Tensor | None = None
    column_tokens: Tensor | None = None
    row_input: str = ""
    column_input: str = ""

    @property
    def is_usual(self) -> bool:
        return self.order is None and len(self.axes) == 2

    def tokens(self) -> tuple[Tensor | None, Tensor | None]:
        """The token of every row and of every column, in the axes of the maps."""
        rows, columns = (
            None if tokens is None else tokens.clamp(min=int(NONE)).unflatten(0, self.sizes)
            for tokens in (self.row_tokens, self.column_tokens)
        )
        return rows, columns

    def arranged(self, part: Tensor, batch: Size, kept: int = 2) -> Tensor:
        """A recorded part of the attention with its maps in the order of the axes."""
        each = part.shape[part.ndim - kept :]  # one map without an axis for it, if no batch
        flat = part.expand(*batch, *each).flatten(0, len(batch) - 1) if batch else part[None]
        chosen = flat if self.order is None else flat[self.order.to(flat.device)]
        return chosen.unflatten(0, self.sizes)

    def restored(self, part: Tensor) -> Tensor:
        """A response ``*axes time channel`` with its maps in the order of the record."""
        flat = part.flatten(0, len(self.sizes) - 1)
        return flat if self.order is None else flat[self.order.argsort().to(flat.device)]


def _has_heads_in_rows(
    rows: dict[InputAxis, Tensor], columns: dict[InputAxis, Tensor], batch: Size
) -> bool:
    """Whether every map belongs to one query, and all queries have the same keys."""
    if any(line.shape[-1] == 1 or varies(line, -1) for line in rows.values()):
        return False
    tokens = [axis for axis, line in columns.items() if axis in rows and varies(line, -1)]

    def vary(lines: Iterable[Tensor], place: int) -> bool:
        return any(varies(line.unflatten(0, batch), place) for line in lines)

    queries = [rows[axis] for axis in tokens]
    return any(vary(queries, k) and not vary(columns.values(), k) for k in range(len(batch)))


def maps_of(
    query: Coordinates | None,
    value: Coordinates | None,
    batch: Size,
    mixed_axes: Iterable[InputAxis],
) -> Maps | None:
    """The axes of the maps of an attention; None where nothing is known of its values.

    Args:
        batch: the axes before those of a map, that of the values broadcast to those of the queries.
        mixed_axes: axes of the inputs along which some module mixes.
    """
    if value is None or not value.positions:
        return None
    if not has_maps_of(value, batch):
        raise NoTokensError("its samples and heads are not found in the axes of its values")
    across = [axis for axis in value.positions if varies(value.planes[axis], -1)]
    along = [axis for axis in value.positions if varies(value.planes[axis], -2)]
    tokens = [axis for axis in across if axis not in along]
    if tokens and not along:
        raise NoTokensError(
            "its maps mix channels, not tokens: the tokens lie along the axis that it keeps, so "
            "that a replaced value moves its own token alone, while all tokens together make the "
            "weights"
        )
    count = batch.numel()
    columns = {axis: _of_maps(value, axis, batch, -2) for axis in value.positions}
    rows = {axis: _of_maps(query, axis, batch, -2) for axis in query.positions} if query else {}
    if _has_heads_in_rows(rows, columns, batch):
        raise UnreadableError("the rows of its maps are heads, and each map belongs to one query")
    mixed = {axis for axis in mixed_axes if axis.source.channels is not axis} | set(along)
    apart = _samples((*columns, *rows), mixed)
    # Samples are in the order of the inputs, not in that of positions that were made of them.
    lines = {**columns, **rows, **columns}
    first = sorted((axis for axis in lines if axis in apart), key=lambda a: bool(a.source.before))
    samples = _numbers([lines[axis].amax(-1, keepdim=True) for axis in first], count)
    windows = _numbers([lines[axis] for axis in lines if axis in mixed], count)
    places = Counter(zip(samples, windows, strict=True))
    many = len(set(windows))
    if len(set(places.values())) != 1 or len(places) != len(set(samples)) * many:
        windows, many, places = [0] * count, 1, Counter((sample, 0) for sample in samples)
    if len(set(places.values())) != 1:
        raise NoTokensError(
            "its samples have different numbers of maps, so that samples and heads cannot be "
            "distinguished"
        )
    rank = {window: k for k, window in enumerate(dict.fromkeys(windows))}
    order = sorted(range(count), key=lambda m: (samples[m], rank[windows[m]]))
    usual = order == list(range(count))
    names = ("sample", "window", "head") if many > 1 else ("sample", "head")
    counts = len(set(samples)), many, next(iter(places.values()))
    shape = counts if many > 1 else counts[::2]
    along = sorted(along or _of_one_key(columns), key=lambda axis: axis not in rows)
    kind, column_tokens = _tokens(columns, along, order)
    is_apart = not any(axis in rows for axis in along)
    if is_apart and any(all_before(axis) & rows.keys() for axis in along):
        kind, column_tokens = SLOT, None
    if not all(axis.source.is_known for axis in along):
        kind, column_tokens = SLOT, None
    ahead = [axis for axis in along if axis in rows]
    _, row_tokens = _tokens(rows, ahead, order)
    unknown = [rows[axis] for axis in ahead if not axis.source.is_known]
    unknown += [line for line in rows.values() if not ahead and bool((line == MANY).any())]
    if unknown:
        row_tokens = torch.full_like(unknown[0], NONE, dtype=torch.long)
    count = prod(axis.size for axis in along)
    if is_one_sequence(row_tokens, column_tokens, count):
        kind, row_tokens, column_tokens = TOKEN, None, None
    # Queries may depend on further inputs, such as the positions of the same tokens.
    from_rows, from_columns = (
        {axis.source.name for axis, line in lines.items() if varies(line, -1)}
        for lines in (rows, columns)
    )
    row_input, column_input = (
        next(iter(found)) if len(found := from_rows & from_columns or one) == 1 else ""
        for one in (from_rows, from_columns)
    )
    return Maps(
        names,
        shape,
        None if usual else torch.tensor(order),
        kind,
        row_tokens,
        column_tokens,
        row_input,
        column_input,
    )


def has_maps_of(given: Coordinates, batch: Size) -> bool:
    """Whether the axes before those of a map can be those of samples and heads, or of groups."""
    before = given.shape[:-2]
    if len(before) == 1 < len(batch) and before.numel() == batch.numel():
        return True
    return all(
        size % max(own, 1) == 0
        for own, size in zip(reversed(before), reversed(batch), strict=False)
    )


def _of_maps(given: Coordinates, axis: InputAxis, batch: Size, dim: int) -> Tensor:
    """The index of every token of every map, ``map token``."""
    plane, _ = reduced(given.planes[axis], [-1])
    plane = plane.narrow(-1, 0, 1).squeeze(-1)
    length = given.shape[dim]
    short = plane
    if short.ndim == 2 < len(batch) + 1 and short.shape[0] == batch.numel():
        short = short.reshape(*batch, -1)  # samples and heads are one axis, as in torch.baddbmm
    missing = len(batch) - (short.ndim - 1)
    short = short.reshape(*[1] * max(missing, 0), *short.shape)
    for k, size in enumerate(batch):  # grouped heads: values for several heads each
        if short.shape[k] not in (1, size):
            short = short.repeat_interleave(size // short.shape[k], dim=k)
    return short.expand(*batch, length).reshape(-1, length)


def _numbers(parts: Sequence[Tensor], count: int) -> list[int]:
    """A number for each of several rows, the same for equal ones and in their order."""
    if not parts:
        return [0] * count
    numbers: list[int] = torch.cat([*parts], dim=1).unique(dim=0, return_inverse=True)[1].tolist()
    return numbers


def _samples(axes: Iterable[InputAxis], mixed: set[InputAxis]) -> set[InputAxis]:
    """Of the axes along which nothing mixes the first of every source: that of its samples."""
    # Further ones are positions that stay apart where the source has channels, and else heads.
    first: dict[object, InputAxis] = {}
    for axis in axes:
        if axis not in mixed and axis.source.channels is not axis:
            known = first.get(axis.source)
            if known is None or axis.number < known.number:
                first[axis.source] = axis
    found = set(first.values())
    more = (axis for axis in axes if axis.source.channels is not None and axis not in mixed)
    return found | {axis for axis in more if axis.source.channels is not axis}


def tokens_along(given: Sequence[Coordinates], time: int | None) -> Tensor | None:
    """The token of every step, ``sample time``; -1 where it is none or not a single one.

    None where the parts differ in shape, or nothing tells their steps apart.

    Args:
        given: what the parts of a sequence are made of, one behind the other along the axis
            ``time``, or single steps if that is None.
    """
    shape = given[0].shape
    if len(shape) < 1 + (time is not None) or any(made.shape != shape for made in given):
        return None
    found: dict[InputAxis, Tensor] = {}
    whole: Tensor | None = None
    axes = sorted(dict.fromkeys(a for made in given for a in made.planes), key=lambda a: a.number)
    for axis in filter(is_place, axes):
        if any(varies(made.planes.get(axis), -1) for made in given):
            continue  # channels of single tokens
        nothing = torch.tensor(NONE).expand(shape)
        known = [made.planes if axis.source.is_known else {} for made in given]
        planes = [each.get(axis, nothing) for each in known]
        lines = [reduced(plane, [-1])[0][..., 0].expand(shape[:-1]) for plane in planes]
        if time is None:
            whole = torch.stack(lines, dim=-1)
        else:
            whole = torch.cat([line.movedim(time, -1) for line in lines], dim=-1)
        found[axis] = whole = whole.reshape(-1, whole.shape[-1])
    along = [axis for axis in found if varies(found[axis], -1)] or _of_one_key(found)
    number = token_numbers({axis: found[axis] for axis in along})
    if number is None and whole is not None and whole.shape[-1] > 1:  # of all tokens at every step
        number = torch.full_like(whole, NONE)
    return None if number is None else number.clamp(min=NONE).long()


def is_one_sequence(rows: Tensor | None, columns: Tensor | None, count: int) -> bool:
    """Whether rows and columns are all of so many tokens in their order, between places of none."""
    if rows is None or columns is None or not torch.equal(rows, columns):
        return False
    if bool((rows < -1).any()) or bool((rows != rows[:1]).any()):
        return False
    tokens = rows[0][rows[0] >= 0]
    if len(tokens) < min(count, rows.shape[-1]):  # those that are missing were shifted out
        return False
    return bool((tokens == torch.arange(len(tokens), device=tokens.device)).all())


def _without_samples(axes: Collection[InputAxis]) -> Collection[InputAxis]:
    """All but the first axis of every source, if there are others."""
    first: dict[object, InputAxis] = {}
    for axis in sorted(axes, key=lambda axis: axis.number):
        first.setdefault(axis.source, axis)
    return [axis for axis in axes if axis is not first[axis.source]] or axes


def _of_one_key(lines: dict[InputAxis, Tensor]) -> list[InputAxis]:
    """The axes that say which token the key is, where every map has a single one."""
    if any(line.shape[-1] > 1 or bool((line < 0).any()) for line in lines.values()):
        return []
    found = [axis for axis in _without_samples(lines) if not axis.source.before]
    # Those along which the maps lie, such as frames, number no keys, unless no other axis does.
    return [axis for axis in found if not varies(lines[axis], 0)] or found


def _tokens(
    lines: dict[InputAxis, Tensor], along: Sequence[InputAxis], order: Sequence[int]
) -> tuple[str, Tensor | None]:
    """What rows or columns are, and the token of each, numbered over all of the axes ``along``."""
    if not along:
        # A sample may have a single place, which no index tells from others.
        made = any(bool((line == MANY).any()) for line in lines.values())
        has_several = any(axis.size > 1 for axis in _without_samples(lines))
        return (SLOT if made or has_several else TOKEN), None
    places = torch.tensor(order, device=lines[along[0]].device)
    number = token_numbers({axis: lines[axis][places] for axis in along})
    assert number is not None  # noqa: S101
    kind = TOKEN
    if bool((number < 0).any()):
        kind = SLOT if bool((number == MANY).any()) else PADDED
    plain = torch.arange(number.shape[-1], device=number.device)
    in_order = kind == TOKEN and bool((number == plain).all())
    return kind, None if in_order else number.long()
