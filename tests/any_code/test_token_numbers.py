"""The numbers of the tokens that the rows and columns of a map belong to."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.errors import NothingCapturedError
from tests.any_code.modules import SIZE, WIDTH, Attention, drawn, tokens

TOKENS, FURTHER, SAMPLES = 6, 4, 2


class Reading(Attention):
    """Attention from some places to others."""

    def forward(self, x, memory):
        q, k, v = self.q(x), self.k(memory), self.v(memory)
        return (q @ k.mT / SIZE).softmax(dim=-1) @ v


class Sentence(nn.Module):
    """Words with their types, and what a function of them and further words makes of both."""

    def __init__(self, inner, behind):
        super().__init__()
        self.words, self.types, self.others = (nn.Embedding(9, WIDTH) for _ in range(3))
        self.inner, self.behind = inner, behind

    def forward(self, words, types, others):
        x = self.words(words) + self.types(types)
        return self.behind(self.inner, x, self.others(others))


def layer_of(inner, behind):
    rng = torch.Generator().manual_seed(0)
    given = [torch.randint(9, (SAMPLES, count), generator=rng) for count in (TOKENS, TOKENS)]
    others = torch.randint(9, (SAMPLES, FURTHER), generator=rng)
    (layer,) = dsf.inspect(drawn(Sentence(inner, behind)), *given, others)
    assert layer.is_exact
    return layer


def numbers(places):
    """The token of every place, which is the same in all maps."""
    assert bool((places == places.reshape(-1, places.shape[-1])[0]).all())
    return places.reshape(-1, places.shape[-1])[0].tolist()


SOME, ONE = slice(2, 5), slice(3, 4)
WORDS, OTHERS = [*range(TOKENS)], [*range(FURTHER)]
READ = {
    "by other words": (lambda inner, x, y: inner(y, x), OTHERS, WORDS),
    "by some of them": (lambda inner, x, _: inner(x[:, SOME], x), [2, 3, 4], WORDS),
    "one of them": (lambda inner, x, _: x + inner(x, x[:, ONE]), WORDS, [3]),
    "one by other words": (lambda inner, x, y: y + inner(y, x[:, ONE]), OTHERS, [3]),
    "behind other words": (
        lambda inner, x, y: x + inner(x, torch.cat([y, x], dim=1)),
        WORDS,
        [-1] * FURTHER + WORDS,
    ),
}


@pytest.mark.parametrize("behind", READ)
def test_words_with_types_have_the_numbers_of_the_words(behind):
    function, rows, columns = READ[behind]
    layer = layer_of(Reading(), function)
    assert numbers(layer.row_tokens) == rows
    assert numbers(layer.column_tokens) == columns
    assert layer.columns == ("token or padding" if -1 in columns else "token")


def test_a_recurrence_over_words_with_types_has_the_numbers_of_the_words():
    layer = layer_of(nn.GRU(WIDTH, WIDTH, batch_first=True), lambda inner, x, _: inner(x)[0])
    assert layer.row_order is None
    assert layer.column_order is None


class Shift(nn.Module):
    """Every token gets one that lies some places before it, or behind."""

    def __init__(self, by):
        super().__init__()
        self.project, self.by = nn.Linear(WIDTH, WIDTH), by

    def forward(self, x):
        moved, by = torch.zeros_like(x), self.by
        if by > 0:
            moved[:, by:] = x[:, :-by]
        else:
            moved[:, :by] = x[:, -by:]
        return x + self.project(moved)


@pytest.mark.parametrize("by", [1, 2, -2])
def test_rows_and_columns_of_a_shift_have_the_numbers_of_their_tokens(by):
    (layer,) = dsf.inspect(drawn(nn.Sequential(Shift(by))), tokens(SAMPLES, TOKENS, WIDTH))
    assert layer.is_exact
    row, column = layer.map()[0, 0].nonzero().unbind(1)
    rows, columns = numbers(layer.row_tokens), numbers(layer.column_tokens)
    pairs = {(rows[i], columns[j]) for i, j in zip(row.tolist(), column.tolist(), strict=True)}
    assert pairs == {(k, k - by) for k in range(max(by, 0), TOKENS + min(by, 0))}


BACKWARDS = [*reversed(range(TOKENS))]
SCANNED = [0, 3, 1, 4, 2, 5]


class Ordered(nn.Module):
    """A mixer of a library on tokens in another order."""

    def __init__(self, mixer, order):
        super().__init__()
        self.mixer, self.out = mixer, nn.Linear(WIDTH, WIDTH)
        self.order = torch.tensor(order)

    def forward(self, x):
        y = self.mixer(x[:, self.order])
        return self.out(y[0] if isinstance(y, tuple) else y)[:, self.order.argsort()]


class OfItself(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.attn = nn.MultiheadAttention(WIDTH, 2, **options)

    def forward(self, x):
        if self.attn.batch_first:
            return self.attn(x, x, x)[0]
        return self.attn(*[x.transpose(0, 1)] * 3)[0].transpose(0, 1)


def _mamba():
    mamba = pytest.importorskip("transformers.models.mamba.modeling_mamba")
    config = mamba.MambaConfig(hidden_size=WIDTH, state_size=2, num_hidden_layers=1, vocab_size=2)
    return mamba.MambaMixer(config, 0)


LIBRARY = {
    "attention": lambda: OfItself(batch_first=True),
    "attention, time first": OfItself,
    "mamba": _mamba,
    "gru": lambda: nn.GRU(WIDTH, WIDTH, batch_first=True),
}


@pytest.mark.parametrize("order", [BACKWARDS, SCANNED], ids=["backwards", "scanned"])
@pytest.mark.parametrize("mixer", LIBRARY)
def test_tokens_of_a_library_module_have_their_numbers(mixer, order):
    model = drawn(Ordered(LIBRARY[mixer](), order))
    (layer,) = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH))
    assert numbers(layer.row_tokens) == order
    assert numbers(layer.column_tokens) == order


@pytest.mark.parametrize("is_library", [True, False])
def test_rows_and_columns_that_are_learnt_have_no_tokens(is_library):
    class Pooled(nn.Module):
        def __init__(self, has_queries):
            super().__init__()
            self.learnt = nn.Parameter(torch.zeros(FURTHER, WIDTH))
            self.attn = nn.MultiheadAttention(WIDTH, 1, batch_first=True)
            self.has_queries = has_queries

        def forward(self, x):
            learnt = self.learnt.expand(len(x), -1, -1)
            q, k = (learnt, x) if self.has_queries else (x, learnt)
            if is_library:
                return self.attn(q, k, k)[0]
            return (q @ k.mT).softmax(dim=-1) @ k

    for has_queries in (True, False):
        (layer,) = dsf.inspect(drawn(Pooled(has_queries)), tokens(SAMPLES, TOKENS, WIDTH))
        learnt, read = [-1] * FURTHER, WORDS
        expected = (learnt, read) if has_queries else (read, learnt)
        assert (numbers(layer.row_tokens), numbers(layer.column_tokens)) == expected
        assert layer.columns == ("token" if has_queries else "slot")


KEPT = {
    "from the second on": (slice(1, 4), [1, 2, 3]),
    "every second one": (slice(None, None, 2), [0, 2, 4]),
    "some, as an index": ([0, 1, 3, 5], [0, 1, 3, 5]),
}


@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("mixer", [*LIBRARY, "own attention", "convolution"])
def test_some_tokens_in_their_order_keep_their_numbers(mixer, kept):
    class Some(nn.Module):
        def __init__(self):
            super().__init__()
            others = {"own attention": Attention, "convolution": Filter}
            self.embed, self.mixer = nn.Linear(WIDTH, WIDTH), (LIBRARY | others)[mixer]()

        def forward(self, x):
            return self.mixer(self.embed(x)[:, KEPT[kept][0]])

    (layer,) = dsf.inspect(drawn(Some()), tokens(SAMPLES, TOKENS, WIDTH))
    assert layer.is_exact
    assert numbers(layer.row_tokens) == numbers(layer.column_tokens) == KEPT[kept][1]


class Filter(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return self.inner(x.mT).mT


class Behind(nn.Module):
    """A recurrence of torch on what came back from NumPy, in another order."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.inner = nn.GRUCell(WIDTH, WIDTH) if kind == "cell" else nn.LSTM(WIDTH, WIDTH)

    def forward(self, x):
        x = torch.from_numpy(x.numpy()[:, ::-1].copy()).transpose(0, 1)
        if self.kind == "whole":
            return self.inner(x)[0]
        if self.kind == "steps":
            state, found = None, []
            for token in x.split(1):
                output, state = self.inner(token, state)
                found.append(output)
            return torch.cat(found)
        state, found = torch.zeros_like(x[0]), []
        for token in x:
            state = self.inner(token, state)
            found.append(state)
        return torch.stack(found)


@pytest.mark.parametrize("kind", ["whole", "steps", "cell"])
def test_steps_of_unknown_tokens_have_no_numbers(kind):
    found = dsf.inspect(drawn(Behind(kind)), tokens(SAMPLES, TOKENS, WIDTH))
    assert found.unsupported
    for layer in found:
        assert layer.columns == "slot"
        assert numbers(layer.row_tokens) == numbers(layer.column_tokens) == [-1] * TOKENS


def beside(x, one, other):
    """What a token and another one hold, as messages are made of."""
    return torch.cat([x[:, one], x[:, other]], dim=-1)


FIRST, SECOND = torch.cartesian_prod(torch.arange(TOKENS), torch.arange(TOKENS)).unbind(1)
SOURCE, TARGET = torch.tensor([[0, 0, 1, 2, 3, 3, 5], [2, 4, 0, 1, 5, 1, 2]])


class Messages(nn.Module):
    """What weights make of two tokens each, and a sum over the first or the second of them."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.message = kind, nn.Linear(2 * WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        if self.kind == "edges":
            made = self.message(beside(x, SOURCE, TARGET)).tanh()
            return x + self.out(torch.zeros_like(x).index_add(1, TARGET, made))
        if self.kind == "differences":
            made = (self.out(x)[:, :, None] - x[:, None]).tanh()
            return x + self.out(made.sum(2) + made.sum(1).roll(1, dims=1))
        made = self.message(beside(x, FIRST, SECOND)).tanh().unflatten(1, (TOKENS, TOKENS))
        return x + self.out(made.sum(1 if self.kind == "by the second" else 2))


@pytest.mark.parametrize("kind", ["edges", "differences", "by the first", "by the second"])
def test_pairs_of_tokens_have_the_number_of_neither(kind):
    model = nn.Sequential(Messages(kind), Attention())
    found = dsf.inspect(drawn(model), tokens(SAMPLES, TOKENS, WIDTH))
    for layer in found:
        rows, columns = layer.row_tokens.unique().tolist(), layer.column_tokens.unique().tolist()
        assert rows in ([-1], WORDS)
        assert columns == WORDS
    assert "0" in {one.name.partition(".")[0] for one in (*found[:-1], *found.unsupported)}


class ByValue(nn.Module):
    """Tokens in an order of its own in every channel, and weights of their features."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.features = kind, nn.Linear(WIDTH, WIDTH)
        self.weights = nn.Parameter(torch.empty(TOKENS, WIDTH))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x = self.features(x)
        if self.kind == "weighed":
            return self.out((x.sort(dim=1).values * self.weights).sum(1))
        largest = x.topk(3, dim=1).values
        return self.out(largest.mean(1) if self.kind == "mean of largest" else largest)


@pytest.mark.parametrize("kind", ["weighed", "mean of largest", "largest"])
def test_features_of_sorted_tokens_are_no_tokens(kind):
    with pytest.raises(NothingCapturedError, match=r"ByValue.* mixes tokens") as told:
        dsf.inspect(drawn(ByValue(kind)), tokens(SAMPLES, TOKENS, WIDTH))
    assert "out (" not in str(told.value)


class Strip(nn.Module):
    """A convolution along one side of pictures, over the means of the other."""

    def __init__(self, side):
        super().__init__()
        self.side, self.inner = side, nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        return x * self.inner(x.mean(self.side)).unsqueeze(self.side).sigmoid()


@pytest.mark.parametrize("side", [2, 3])
@pytest.mark.parametrize("patch", [1, 2])
def test_means_of_rows_of_a_picture_are_slots(side, patch):
    model = nn.Sequential(nn.Conv2d(3, WIDTH, patch, patch), Strip(side))
    found = dsf.inspect(drawn(model), torch.randn(SAMPLES, 3, 6 * patch, 4 * patch))
    layer = found["1.inner"]
    assert layer.columns == "slot"
    assert layer.row_tokens.unique().tolist() == layer.column_tokens.unique().tolist() == [-1]


def shifted(x):
    """Every token at the place behind it; the last is lost."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], dim=1)


class ShiftedInto(nn.Module):
    def __init__(self, mixer, given):
        super().__init__()
        self.embed, self.mixer, self.given = nn.Linear(WIDTH, WIDTH), mixer, given

    def forward(self, x):
        made = self.mixer(*self.given(self.embed(x)))
        return made[0] if isinstance(made, tuple) else made


BEHIND = [-1, *range(TOKENS - 1)]
SHIFTED = {
    "queries": (lambda x: (shifted(x), x, x), BEHIND, WORDS),
    "keys": (lambda x: (x, shifted(x), x), WORDS, WORDS),
    "values": (lambda x: (x, x, shifted(x)), WORDS, BEHIND),
    "all": (lambda x: (shifted(x),) * 3, BEHIND, BEHIND),
}


class Three(Reading):
    def forward(self, query, key, value):
        q, k, v = self.q(query), self.k(key), self.v(value)
        return (q @ k.mT / SIZE).softmax(dim=-1) @ v


@pytest.mark.parametrize("name", SHIFTED)
@pytest.mark.parametrize("is_library", [True, False])
def test_tokens_that_are_shifted_into_an_attention_keep_their_numbers(name, is_library):
    given, rows, columns = SHIFTED[name]
    mixer = nn.MultiheadAttention(WIDTH, 2, batch_first=True) if is_library else Three()
    (layer,) = dsf.inspect(drawn(ShiftedInto(mixer, given)), tokens(SAMPLES, TOKENS, WIDTH))
    assert (numbers(layer.row_tokens), numbers(layer.column_tokens)) == (rows, columns)


def test_tokens_that_are_shifted_into_a_recurrence_keep_their_numbers():
    mixer = nn.GRU(WIDTH, WIDTH, batch_first=True)
    model = drawn(ShiftedInto(mixer, lambda x: (shifted(x),)))
    (layer,) = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH))
    assert (numbers(layer.row_tokens), numbers(layer.column_tokens)) == (BEHIND, BEHIND)


def backwards(model, x):
    """A gated sum from the last token on, its states in the order in which they were made."""
    state, found = None, []
    for each in reversed(x.unbind(1)):
        state = each if state is None else each + model.also(state).tanh()
        found.append(state)
    return found


def in_own_order(model, x):
    """The same in an order of its own."""
    order, state, found = [3, 1, 0, 2, 5, 4], None, []
    for k in order:
        state = x[:, k] if state is None else model.also(state).tanh() + x[:, k]
        found.append(state)
    return torch.stack(found, dim=1)[:, torch.tensor(order).argsort()]


def pairs(model, x):
    """Every even token times a gate of the odd one behind it, and the other way round."""
    even, odd = x[:, ::2], x[:, 1::2]
    return even * model.also(odd).sigmoid(), odd * model.also(even).sigmoid()


def written(model, x):
    x = torch.empty_like(x).copy_(x)
    x[:, ::2], x[:, 1::2] = pairs(model, x)
    return x


def inner_ones(model, x):
    x, before, behind = x.clone(), x[:, :-2], x[:, 2:]
    x[:, 1:-1] = x[:, 1:-1] + model.also(before) * behind
    return x


MET = {
    "a loop from the last on": (
        lambda model, x: torch.stack(backwards(model, x), dim=1),
        WORDS[::-1],
    ),
    "turned round": (lambda model, x: torch.stack(backwards(model, x), dim=1).flip(1), WORDS),
    "its list turned round": (
        lambda model, x: torch.stack(backwards(model, x)[::-1], dim=1),
        WORDS,
    ),
    "a loop in an order of its own": (in_own_order, WORDS),
    "pairs": (lambda model, x: torch.stack(pairs(model, x), dim=2).flatten(1, 2), WORDS),
    "pairs side by side": (
        lambda model, x: torch.cat(pairs(model, x), dim=2).reshape(x.shape),
        WORDS,
    ),
    "pairs, written": (written, WORDS),
    "inner ones": (inner_ones, WORDS),
    "the last with the next": (
        lambda model, x: torch.cat([x[:, :-1] + model.also(x[:, 1:]), x[:, -1:]], dim=1),
        WORDS,
    ),
    "every second, copied": (
        lambda model, x: torch.stack(backwards(model, x), dim=1)[:, ::2].repeat_interleave(2, 1),
        [5, 5, 3, 3, 1, 1],
    ),
    # Each of three places may be that of either of two tokens, and nothing tells which.
    "pairs, behind one another": (lambda model, x: torch.cat(pairs(model, x), dim=1), None),
    "halves": (lambda _, x: torch.cat([x[:, :3] + x[:, 3:], x[:, :3] - x[:, 3:]], dim=1), None),
}


class Met(nn.Module):
    """Tokens that meet in some way, and an attention behind it."""

    def __init__(self, way):
        super().__init__()
        self.enter, self.also, self.inner = nn.Linear(5, WIDTH), nn.Linear(WIDTH, WIDTH), Reading()
        self.way = way

    def forward(self, x):
        x = self.way(self, self.enter(x))
        return x + self.inner(x, x)


@pytest.mark.parametrize("name", MET)
def test_tokens_that_met_others_have_the_numbers_of_their_places(name):
    way, places = MET[name]
    found = dsf.inspect(drawn(Met(way)), tokens(SAMPLES, TOKENS, 5), probe=())
    (layer,) = (one for one in found if one.name == "inner")
    if places is None:
        assert layer.columns == "slot"
        assert "inner" in {one.name for one in found.unsupported}
        places = [-1] * TOKENS
    assert (numbers(layer.row_tokens), numbers(layer.column_tokens)) == (places, places)


class Apart(nn.Module):
    """A recurrence behind an attention, of so many tokens each that lie side by side."""

    def __init__(self, inner, steps):
        super().__init__()
        self.attention, self.inner, self.steps = Attention(), inner, steps

    def forward(self, x):
        x = x + self.attention(x)
        groups = x.reshape(-1, self.steps, WIDTH)
        if not isinstance(self.inner, nn.RNNCellBase):
            return x + self.inner(groups)[0].reshape(x.shape)
        state, found = torch.zeros(len(groups), WIDTH), []
        for token in groups.unbind(1):
            pair = (state, state) if isinstance(self.inner, nn.LSTMCell) else state
            state = self.inner(token, pair)
            state = state[0] if isinstance(state, tuple) else state
            found.append(state)
        return x + torch.stack(found, dim=1).reshape(x.shape)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [(nn.GRUCell, 1), (nn.LSTMCell, 1), (nn.GRU, 1), (nn.LSTM, 1), (nn.GRUCell, 3), (nn.GRU, 3)],
)
def test_a_recurrence_of_some_tokens_each_has_the_numbers_of_these(kind, steps):
    settings = {} if issubclass(kind, nn.RNNCellBase) else {"batch_first": True}
    model = drawn(Apart(kind(WIDTH, WIDTH, **settings), steps))
    _, layer = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH))
    assert layer.axes[0] == "window"
    for places in (layer.row_tokens, layer.column_tokens):
        assert places[:, 0].flatten().tolist() == WORDS * SAMPLES
