"""What an attention keeps of its keys and values, and how queries read it.

A key-value group (the query heads that share their keys and values) keeps one of four forms:

    keep                      every key and value
    Window(w)                 the last w, that of the query included
    SinkWindow(s, w)          the first s and the last w
    SinkWindowState(s, w, r)  the same, and a state of r features for the keys between them

The state is linear attention: a key between the first s and the last w counts as the nearest of r
fixed anchors a_c, so that ``exp(q k)`` becomes ``exp(q a_c) scale_c``. Feature c of the query is
``exp(q a_c)``, that of a key is ``scale_c`` for its own anchor and 0 for the others. For every
anchor the state holds the sum of the values and their number, decayed by a constant factor per
token. Read as r more keys, with the mean of the values as value and the logarithm of the number as
bias, it needs no exponential outside of the softmax.

Keys carry their rotation with them, so that their order in memory is free: a full window is a ring.

What a form does to a loss is predicted by derivatives along a gate between two maps: the change of
the response is contracted with the gradient of the loss, token by token. The sum is the first order
of the harm, the squares are the second (an empirical Fisher information). All forms of a row come
from two running sums over its keys.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import one_hot, pad, scaled_dot_product_attention

ROWS_AT_ONCE = 512
"""Number of queries that read their keys together; bounds the memory of masks."""
FIELDS = {
    "Window": ("window",),
    "SinkWindow": ("sinks", "window"),
    "SinkWindowState": ("sinks", "window", "features"),
}
"""Fields of a form in the order of the numbers in its name."""
DECAYS = (1.0, 0.998, 0.98)
"""Factors of forgetting per token among which a state's is chosen."""
MAX_CENTRED = 4096
"""Maximum number of keys of a group from which anchors are made."""
ROUNDS = 10
"""Rounds of Lloyd's algorithm."""
FIT_ROWS = 128
"""Number of rows of each text from which the scales of a state are fitted."""
MAX_EXPONENT = 60.0
"""Maximum exponent of an entry of a state, relative to the largest score of its row."""
BLOCK_ENTRIES = 2**22
"""Number of entries of a block of rows of the maps of a group."""
IGNORED = -100
"""Label of tokens that do not count, as in transformers."""


@dataclass(frozen=True)
class KeptForm:
    """Which keys of a group stay in memory.

    Attributes:
        window: number of latest keys that are kept, the query's own included; None for all.
        sinks: number of first keys that are kept as well.
        features: size of the state that replaces the keys between them; 0 for none.
    """

    window: int | None = None
    sinks: int = 0
    features: int = 0

    @classmethod
    def parse(cls, text: str) -> "KeptForm":
        """Return the form with this name, such as ``SinkWindow(4, 128)``."""
        if text.strip() == "keep":
            return cls()
        if match := re.fullmatch(r"(\w+)\((\d+(?:, ?\d+)*)\)", text.strip()):
            names, numbers = FIELDS.get(match[1], ()), [int(each) for each in match[2].split(",")]
            form = cls(**dict(zip(names, numbers, strict=False)))
            if len(names) == len(numbers) and form.window:
                return form
        raise ValueError(
            "linearise: 'candidates' expected the form keep, Window(w), SinkWindow(s, w) or "
            f"SinkWindowState(s, w, r) with whole numbers and w above 0, got {text!r}."
        )

    def __str__(self) -> str:
        if self.window is None:
            return "keep"
        name = "SinkWindowState" if self.features else "SinkWindow" if self.sinks else "Window"
        return f"{name}({', '.join(str(getattr(self, each)) for each in FIELDS[name])})"

    def held(self, tokens: int) -> int:
        """Number of keys in memory after so many tokens."""
        return tokens if self.window is None else min(tokens, self.sinks + self.window)

    def bytes(self, tokens: int, key_size: int, value_size: int, item: int) -> int:
        """Bytes of one sample after so many tokens; a state has at least 4 for a number."""
        state = self.features * (value_size + 1) if self.held(tokens) < tokens else 0
        return self.held(tokens) * (key_size + value_size) * item + state * max(item, 4)


@dataclass(frozen=True, eq=False)
class StateFeatures:
    """The fixed features of states, for one or several groups.

    An anchor stands for all keys next to it; ``log_decay`` is what a group forgets per token.
    """

    anchors: Float[Tensor, "group feature key"]
    log_scale: Float[Tensor, "group feature"]
    log_decay: Float[Tensor, " group"]

    def nearest(self, key: Float[Tensor, "*batch group time key"]) -> Tensor:
        half = self.anchors.square().sum(dim=-1) / 2
        return (key @ self.anchors.mT - half.unsqueeze(-2)).argmax(dim=-1)

    def to(self, like: Tensor) -> "StateFeatures":
        return StateFeatures(*(each.to(like) for each in vars(self).values()))

    @classmethod
    def stacked(cls, several: Sequence["StateFeatures"]) -> "StateFeatures":
        parts = zip(*(vars(each).values() for each in several), strict=True)
        return cls(*map(torch.cat, parts))


class KeptGroups:
    """Keys and values of the groups of one layer that have the same form, after ``seen`` tokens."""

    def __init__(
        self, form: KeptForm, groups: Sequence[int], features: StateFeatures | None = None
    ) -> None:
        self.form, self.groups, self.features, self.seen = form, tuple(groups), features, 0
        self.tensors: dict[str, Tensor] = {}

    @property
    def bytes(self) -> int:
        """Bytes of memory behind what is kept."""
        return sum(each.untyped_storage().nbytes() for each in self.tensors.values())

    def read(
        self,
        query: Float[Tensor, "sample group head time key"],
        key: Float[Tensor, "sample group time key"],
        value: Float[Tensor, "sample group time value"],
        scale: float,
    ) -> Float[Tensor, "sample group head time value"]:
        """Add new keys, let their queries read, and forget what the form does not keep."""
        if self.features is not None:
            self.features = self.features.to(key)
        kept = self.tensors.get("key")
        if key.shape[-2] == 1 and kept is not None:  # which may be written into
            tracked = key.requires_grad or kept.requires_grad
            if not tracked and (not kept.is_inference() or torch.is_inference_mode_enabled()):
                return self._step(query, key, value, scale)
        parts = []
        for first in range(0, key.shape[-2], ROWS_AT_ONCE):
            some = slice(first, first + ROWS_AT_ONCE)
            parts.append(
                self._chunk(query[..., some, :], key[:, :, some], value[:, :, some], scale)
            )
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-2)

    def _step(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Read one token: all that is kept is visible to it, so that no mask is needed."""
        tensors, form = self.tensors, self.form
        if form.window is None or self.seen < form.sinks + form.window:
            tensors["key"] = torch.cat([tensors["key"], key], dim=-2)
            tensors["value"] = torch.cat([tensors["value"], value], dim=-2)
        else:
            slot = form.sinks + (self.seen - form.sinks) % form.window
            oldest = slice(slot, slot + 1)
            if self.features is not None:
                columns = torch.tensor([self.seen - form.window], device=key.device)
                gone = (tensors["key"][:, :, oldest], tensors["value"][:, :, oldest])
                self._absorb(self.features, *gone, columns, self.seen + 1)
            tensors["key"][:, :, oldest] = key
            tensors["value"][:, :, oldest] = value
        self.seen += 1
        keys, values, bias = tensors["key"], tensors["value"], None
        if self.features is not None and "number" in tensors:
            anchors, means, past = self._state(self.features, value)
            bias = pad(past, (keys.shape[-2], 0)).unsqueeze(-2).to(query)
            keys = torch.cat([keys, anchors], dim=-2)
            values = torch.cat([values, means], dim=-2)
        return _attended(query, keys, values, bias, scale)

    def _state(self, features: StateFeatures, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and biases by which the state is read."""
        number = self.tensors["number"]
        means = self.tensors["total"] / number.clamp_min(1e-30).unsqueeze(-1)
        anchors = features.anchors.expand(len(value), -1, -1, -1)
        return anchors, means.to(value), features.log_scale + number.log()

    def _chunk(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        steps = key.shape[-2]
        rows = torch.arange(self.seen, self.seen + steps, device=key.device)
        columns = torch.cat([self._positions(self.seen, key.device), rows])
        if self.tensors:
            key = torch.cat([self.tensors["key"], key], dim=-2)
            value = torch.cat([self.tensors["value"], value], dim=-2)
        age = rows.unsqueeze(-1) - columns
        visible = age >= 0
        if self.form.window is not None:
            visible &= (age < self.form.window) | (columns < self.form.sinks)
        keys, values, bias = key, value, None
        if self.features is not None:
            keys, values, bias = self._with_state(self.features, key, value, visible, age)
        elif not bool(visible.all()):
            bias = visible
        response = _attended(query, keys, values, bias, scale)
        self._keep(key, value, columns, self.seen + steps)
        return response

    def _positions(self, seen: int, device: torch.device) -> Tensor:
        """Positions of the tokens in memory, slot by slot, after so many tokens."""
        slots = torch.arange(self.form.held(seen), device=device)
        window, sinks = self.form.window, self.form.sinks
        if window is None or seen <= sinks + window:
            return slots
        latest = seen - 1 - (seen - 1 - slots) % window
        return torch.where(slots < sinks, slots, latest)

    def _keep(self, key: Tensor, value: Tensor, columns: Tensor, seen: int) -> None:
        """Keep what the form keeps of these keys; the others go into the state."""
        place = torch.zeros(seen, dtype=torch.long, device=key.device)
        place[columns] = torch.arange(len(columns), device=key.device)
        kept = place[self._positions(seen, key.device)]
        if self.features is not None and len(kept) < len(columns):
            gone = torch.ones_like(columns, dtype=torch.bool)
            gone[kept] = False
            self._absorb(self.features, key[:, :, gone], value[:, :, gone], columns[gone], seen)
        if len(kept) < len(columns):
            key, value = key[:, :, kept], value[:, :, kept]
        elif not self.tensors:
            # a view would keep the memory of a larger tensor
            key, value = (
                each.clone(memory_format=torch.contiguous_format) for each in (key, value)
            )
        self.tensors.update(key=key, value=value)
        self.seen = seen

    def _absorb(
        self, features: StateFeatures, key: Tensor, value: Tensor, columns: Tensor, seen: int
    ) -> None:
        """Add keys that leave the window to the state, as the query of the last token sees it."""
        window, count = self.form.window or 0, features.log_scale.shape[-1]
        # in bfloat16 a number of keys would not grow beyond 256
        exact = torch.promote_types(value.dtype, torch.float32)
        log_decay = features.log_decay.to(exact)
        weight = (log_decay[:, None] * (seen - 1 - window - columns)).exp()
        chosen = one_hot(features.nearest(key), count).to(exact)
        chosen = (chosen * weight.unsqueeze(-1)).mT
        number, total = chosen.sum(dim=-1), chosen @ value.to(exact)
        if "number" in self.tensors:
            faded = (log_decay * (seen - self.seen)).exp()
            number = number + self.tensors["number"] * faded[:, None]
            total = total + self.tensors["total"] * faded[:, None, None]
        self.tensors.update(number=number, total=total)

    def _with_state(
        self, features: StateFeatures, key: Tensor, value: Tensor, visible: Tensor, age: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values and biases of what is visible, of what is between, and of the state."""
        window = self.form.window or 0
        group = torch.arange(len(features.anchors), device=key.device).unsqueeze(-1)
        nearest = features.nearest(key)
        decay = features.log_decay[:, None, None]
        between = features.log_scale[group, nearest].unsqueeze(-2) + decay * (age - window)
        between = between.masked_fill(visible | (age < 0), -torch.inf)
        own = torch.zeros_like(between).masked_fill(~visible, -torch.inf)
        keys, values, bias = [key, features.anchors[group, nearest]], [value, value], [own, between]
        if "number" in self.tensors:
            anchors, means, past = self._state(features, value)
            # the state is as the token before this chunk saw it
            since = torch.arange(1, len(age) + 1, device=key.device).unsqueeze(-1)
            keys.append(anchors)
            values.append(means)
            bias.append((past.unsqueeze(-2) + decay * since).to(own))
        return torch.cat(keys, dim=-2), torch.cat(values, dim=-2), torch.cat(bias, dim=-1)


def _attended(
    query: Float[Tensor, "sample group head time key"],
    key: Float[Tensor, "sample group column key"],
    value: Float[Tensor, "sample group column value"],
    bias: Tensor | None,
    scale: float,
) -> Float[Tensor, "sample group head time value"]:
    """Softmax attention; the heads of a group are more rows, so that no key is copied for them."""
    heads, steps = query.shape[2:4]
    if bias is not None:
        bias = bias.repeat(*(1 for _ in bias.shape[:-2]), heads, 1)
    response = scaled_dot_product_attention(
        query.flatten(2, 3), key, value, attn_mask=bias, scale=scale
    )
    return response.unflatten(2, (heads, steps))


@dataclass(frozen=True, eq=False)
class Maps:
    """Scaled queries and keys of one layer or group on one text, and the gradient at its response.

    ``counted`` is the number of tokens of which the loss is the mean.
    """

    query: Float[Tensor, "*group head time key"]
    key: Float[Tensor, "*group time key"]
    value: Float[Tensor, "*group time value"]
    adjoint: Float[Tensor, "*group head time value"]
    counted: int

    def of(self, group: int) -> "Maps":
        query, key, value, adjoint, counted = vars(self).values()
        return Maps(query[group], key[group], value[group], adjoint[group], counted)

    def scores(self, rows: Tensor) -> Float[Tensor, "head row column"]:
        """Scores of some rows; minus infinity for later keys."""
        ahead = torch.arange(self.key.shape[-2], device=self.key.device) > rows.unsqueeze(-1)
        return (self.query[:, rows] @ self.key.mT).masked_fill_(ahead, -torch.inf)

    def blocks(self) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
        """Blocks of rows: their positions, their scores, and the derivative along each entry."""
        steps = self.key.shape[-2]
        size = max(1, BLOCK_ENTRIES // (steps * len(self.query)))
        for rows in torch.arange(steps, device=self.key.device).split(size):
            yield rows, self.scores(rows), self.adjoint[:, rows] @ self.value.mT


def compared(
    maps: Maps, forms: Sequence[KeptForm], features: Mapping[KeptForm, StateFeatures]
) -> tuple[Float[Tensor, " form"], Float[Tensor, " form"]]:
    """The predicted harm of every form, and the largest distance of a row of its maps.

    The harm is the derivative of the loss along the gate, and half of its Fisher information. The
    sums run in float64: a window is the difference of two running sums.
    """
    changes = torch.zeros(len(forms), dtype=torch.float64, device=maps.key.device)
    distances = torch.zeros_like(changes)
    # rounding of scores, exponentials and sums, far above what float32 does to a row
    slack = 8 * torch.finfo(maps.key.dtype).eps * len(maps.key)
    for rows, scores, signal in maps.blocks():
        top = scores.amax(dim=-1, keepdim=True)
        mass = scores.sub_(top).exp_()
        each = (mass, mass * signal)
        sums = [pad(one.cumsum(dim=-1, dtype=torch.float64), (1, 0)) for one in each]
        total, whole = sums[0][..., -1], sums[1][..., -1] / sums[0][..., -1]
        for number, form in enumerate(forms):
            if form.window is None:
                continue
            spans = [_kept(each, rows, form) for each in sums]
            if form in features:
                replaced = between_entries(maps, features[form], form, rows, top)
                entries = spans[0] + replaced.sum(dim=-1, dtype=torch.float64)
                weighted = (replaced * signal).sum(dim=-1, dtype=torch.float64)
                change = (spans[1] + weighted) / entries - whole
                here, there = ((1 / each).to(mass).unsqueeze(-1) for each in (entries, total))
                apart = replaced.mul_(here).sub_(mass * there).abs_()
                apart = apart.masked_fill_(~is_between(rows, form, len(maps.key)), 0)
                kept = spans[0] * (1 / entries - 1 / total).abs()
                distance = (apart.sum(dim=-1, dtype=torch.float64) + kept) / 2
            else:
                change = spans[1] / spans[0] - whole
                distance = 1 - spans[0] / total
            by_token = change.sum(dim=0)
            changes[number] += by_token.sum() + maps.counted / 2 * by_token.square().sum()
            distances[number] = distances[number].maximum((distance.max() + slack).clamp(max=1))
    return changes, distances


def _kept(sums: Tensor, rows: Tensor, form: KeptForm) -> Tensor:
    """Sum over what a form keeps of every row, from running sums."""
    first = (rows + 1 - (form.window or 0)).clamp_min(0)
    ends = sums.gather(-1, (rows + 1).expand(sums.shape[:-1]).unsqueeze(-1))
    begins = sums.gather(-1, first.expand(sums.shape[:-1]).unsqueeze(-1))
    sinks = sums.gather(-1, first.clamp_max(form.sinks).expand(sums.shape[:-1]).unsqueeze(-1))
    return (ends - begins + sinks).squeeze(-1)


def is_between(rows: Tensor, form: KeptForm, steps: int) -> Tensor:
    """Which keys of every row are behind the first ones and before the window."""
    columns = torch.arange(steps, device=rows.device)
    return (columns >= form.sinks) & (columns <= rows.unsqueeze(-1) - (form.window or 0))


def between_entries(
    maps: Maps, features: StateFeatures, form: KeptForm, rows: Tensor, top: Tensor
) -> Float[Tensor, "head row column"]:
    """What a state makes of the entries between, relative to the largest score of each row."""
    nearest = features.nearest(maps.key.unsqueeze(0))[0]
    scores = (maps.query[:, rows] @ features.anchors[0].mT)[..., nearest]
    age = rows.unsqueeze(-1) - (form.window or 0) - torch.arange(len(nearest), device=rows.device)
    bias = features.log_scale[0, nearest] + features.log_decay[0] * age
    # an anchor may lie far above every key of a row
    entries = scores.sub_(top).add_(bias).clamp_max_(MAX_EXPONENT)
    return entries.masked_fill_(~is_between(rows, form, len(nearest)), -torch.inf).exp_()


def anchors_of(maps: Sequence[Maps], count: int) -> Float[Tensor, "feature key"]:
    """Centres of the keys of all texts, by Lloyd's algorithm."""
    keys = torch.cat([one.key for one in maps])
    keys = keys[:: -(-len(keys) // MAX_CENTRED)]
    anchors = keys[torch.linspace(0, len(keys) - 1, count).long()].clone()
    for _ in range(ROUNDS):
        half = anchors.square().sum(dim=-1) / 2
        nearest = (keys @ anchors.mT - half).argmax(dim=-1)
        chosen = one_hot(nearest, count).to(keys)
        number = chosen.sum(dim=0).unsqueeze(-1)
        anchors = torch.where(number > 0, chosen.mT @ keys / number.clamp_min(1), anchors)
    return anchors


def fitted(
    form: KeptForm, maps: Sequence[Maps], anchors: Float[Tensor, "feature key"]
) -> StateFeatures:
    """The features of a state with these anchors: scales, which are positive, by least squares."""

    def with_decay(decay: float) -> tuple[float, StateFeatures]:
        plain = StateFeatures(
            anchors.unsqueeze(0),
            torch.zeros(1, form.features).to(anchors),
            torch.tensor([decay]).log().to(anchors),
        )
        own = torch.zeros(form.features, dtype=torch.float64, device=anchors.device)
        square, target = own.clone(), 0.0
        for one in maps:
            rows = torch.linspace(0, len(one.key) - 1, min(FIT_ROWS, len(one.key))).long()
            rows = rows.to(anchors.device)
            scores = one.scores(rows)
            top = scores.amax(dim=-1, keepdim=True)
            mass = (scores - top).double().exp()
            total = mass.sum(dim=-1, keepdim=True)
            chosen = one_hot(plain.nearest(one.key.unsqueeze(0))[0], form.features).double()
            made = between_entries(one, plain, form, rows, top).double() / total @ chosen
            true = mass * is_between(rows, form, len(one.key)) / total @ chosen
            own += (made * true).sum(dim=(0, 1))
            square += (made * made).sum(dim=(0, 1))
            target += true.square().sum().item()
        scale = (own / square.clamp_min(1e-300)).clamp(1e-6, 1e6)
        error = target - (2 * scale * own - scale.square() * square).sum().item()
        log_scale = scale.log().unsqueeze(0).to(anchors)
        return error, StateFeatures(plain.anchors, log_scale, plain.log_decay)

    return min(map(with_decay, DECAYS), key=lambda found: found[0])[1]


def full_precision(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
