"""Modules that keep something between their calls, as a cache or a counter: of one run."""

from concurrent.futures import ThreadPoolExecutor
from time import sleep
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.module_stack import History
from tests.any_code.modules import drawn, tokens

WIDTH, TOKENS, SAMPLES = 8, 6, 2


class Caching(nn.Module):
    """A causal attention over the keys and values of all calls so far."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        keys, values = self.kept(self.k(x), self.v(x))
        first = keys.shape[1] - x.shape[1]
        ahead = torch.ones(x.shape[1], keys.shape[1], dtype=torch.bool).triu(1 + first)
        scores = (self.q(x) @ keys.mT / 3).masked_fill(ahead, -torch.inf)
        return scores.softmax(-1) @ values

    def kept(self, keys, values):
        raise NotImplementedError

    def weights(self, x):
        with torch.no_grad():
            scores = self.q(x).double() @ self.k(x).double().mT / 3
        ahead = torch.ones(TOKENS, TOKENS, dtype=torch.bool).triu(1)
        return scores.masked_fill(ahead, -torch.inf).softmax(-1)


class Joined(Caching):
    past = None

    def kept(self, keys, values):
        if self.past is not None:
            old_keys, old_values = self.past
            keys, values = torch.cat([old_keys, keys], 1), torch.cat([old_values, values], 1)
        self.past = keys, values
        return self.past


class Written(Caching):
    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(SAMPLES, 9 * TOKENS, WIDTH))
        self.register_buffer("values", torch.zeros(SAMPLES, 9 * TOKENS, WIDTH))
        self.count = 0

    def kept(self, keys, values):
        begin, self.count = self.count, self.count + keys.shape[1]
        self.keys[:, begin : self.count] = keys
        self.values[:, begin : self.count] = values
        return self.keys[:, : self.count], self.values[:, : self.count]


class Segments(Caching):
    """The keys and values of the call before, in buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("keys", torch.zeros(SAMPLES, 0, WIDTH))
        self.register_buffer("values", torch.zeros(SAMPLES, 0, WIDTH))

    def kept(self, keys, values):
        both = torch.cat([self.keys, keys], 1), torch.cat([self.values, values], 1)
        self.keys, self.values = keys, values
        return both


class Scaled(nn.Module):
    """Its mean is that of all tokens of its first call."""

    mean = None

    def forward(self, x):
        if self.mean is None:
            self.mean = x.mean((0, 1)).tanh()
        return x * self.mean


class Counted(nn.Module):
    """Adds all tokens in every second call."""

    def __init__(self, first):
        super().__init__()
        self.calls = first

    def forward(self, x):
        self.calls += 1
        return x + x.sum(1, keepdim=True).tanh() if self.calls % 2 else x.tanh()


class Shifted(nn.Module):
    """Adds the last token of the call before."""

    def __init__(self):
        super().__init__()
        self.register_buffer("last", torch.zeros(SAMPLES, 1, WIDTH))

    def forward(self, x):
        last, self.last = self.last, x[:, -1:]
        return x + last


class Flagged(nn.Module):
    """Adds a hook in its first call, as libraries do that collect outputs."""

    is_ready = False

    def __init__(self):
        super().__init__()
        self.part, self.seen = nn.Linear(WIDTH, WIDTH), []

    def collect(self, _module, _args, output):
        assert not self.seen, "the hook was added twice"
        self.seen.append(output)

    def forward(self, x):
        if not self.is_ready:
            self.part.register_forward_hook(self.collect)
            self.is_ready = True
        self.part(x)
        return self.seen.pop()


class Wrapped(nn.Module):
    """Exchanges the forward pass of its part for the time of a call."""

    def __init__(self):
        super().__init__()
        self.part = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        seen, plain = [], self.part.forward
        self.part.forward = lambda x: seen.append(plain(x))
        self.part(x)
        self.part.forward = plain
        return seen.pop()


class Around(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.enter, self.inner, self.leave = nn.Linear(WIDTH, WIDTH), inner, nn.Linear(WIDTH, WIDTH)
        self.attention = Fresh()

    def forward(self, x):
        x = self.enter(x)
        x = x + self.attention(x)
        return self.leave(x + self.inner(x))


class Fresh(Caching):
    def kept(self, keys, values):
        return keys, values


def inspected(inner):
    return dsf.inspect(drawn(Around(inner)), tokens(SAMPLES, TOKENS, WIDTH), probe=())


@pytest.mark.parametrize("kind", [Joined, Written, Segments])
def test_the_map_of_an_attention_with_a_cache_of_its_own_is_that_of_the_run(kind):
    model, given = drawn(Around(kind())), []
    with model.inner.register_forward_hook(lambda _module, args, _output: given.append(*args)):
        layers = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH))
    assert [(layer.name, layer.is_exact) for layer in layers] == [
        ("attention", True),
        ("inner", True),
    ]
    assert layers.unsupported == ()
    assert layers["inner"].rounding < 1e-5
    torch.testing.assert_close(
        layers["inner"].map()[:, 0], model.inner.weights(given[0]), rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("inner", [Scaled(), Counted(0)])
def test_what_only_the_first_call_does_is_listed(inner):
    assert {one.name for one in inspected(inner).unsupported} == {"inner"}


def test_what_only_the_first_call_does_is_probed():
    found = dsf.inspect(drawn(Around(Scaled())), tokens(SAMPLES, TOKENS, WIDTH))
    assert [layer.name for layer in found if layer.is_exact] == ["attention", "inner"]
    assert found.unsupported == ()


class Shelf:
    mean = None


SHELF = {}


def _closure():
    kept = None

    def mean(new=None):
        nonlocal kept
        kept = kept if new is None else new
        return kept

    return mean


KEPT = {
    "dictionary": (lambda s: s.named.get(0), lambda s, mean: s.named.update({0: mean})),
    "list": (lambda s: next(iter(s.listed), None), lambda s, mean: s.listed.append(mean)),
    "object": (lambda s: s.held.mean, lambda s, mean: setattr(s.held, "mean", mean)),
    "own class": (lambda s: s.shared, lambda s, mean: setattr(type(s), "shared", mean)),
    "other class": (lambda _: Shelf.mean, lambda _, mean: setattr(Shelf, "mean", mean)),
    "closure": (lambda s: s.closure(), lambda s, mean: s.closure(mean)),
    "global": (lambda _: SHELF.get(0), lambda _, mean: SHELF.update({0: mean})),
    "array": (lambda s: _written(s.array), lambda s, mean: np.copyto(s.array, mean.numpy())),
    "buffer": (lambda s: _written(s.buffer), lambda s, mean: s.buffer.copy_(mean)),
    "plain tensor": (lambda s: _written(s.plain), lambda s, mean: s.plain.copy_(mean)),
    "data of a weight": (lambda s: _written(s.weight), lambda s, mean: s.weight.data.copy_(mean)),
}


def _written(part):
    return torch.as_tensor(part) if part.any() else None


class ScaledInPlace(nn.Module):
    """Its mean is that of all tokens of its first call, kept in one of many ways."""

    shared = None

    def __init__(self, get, put):
        super().__init__()
        self.get, self.put, self.closure = get, put, _closure()
        self.named, self.listed, self.held = {}, [], SimpleNamespace(mean=None)
        self.array, self.plain = np.zeros(WIDTH, np.float32), torch.zeros(WIDTH)
        self.register_buffer("buffer", torch.zeros(WIDTH))
        self.weight = nn.Parameter(torch.zeros(WIDTH))

    def forward(self, x):
        if self.get(self) is None:
            self.put(self, x.mean((0, 1)).tanh())
        return x * self.get(self)


def _unwritten(inner):
    model, Shelf.mean = drawn(Around(inner)), None
    SHELF.clear()
    with torch.no_grad():
        inner.weight.zero_()
    return model


@pytest.mark.parametrize("way", KEPT)
def test_what_a_first_call_keeps_in_place_is_listed(way):
    model = _unwritten(ScaledInPlace(*KEPT[way]))
    found = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH), probe=())
    assert {one.name for one in found.unsupported} == {"inner"}
    is_of_names = way in ("global", "other class")  # by which somebody may watch the run
    assert is_of_names or model.inner.get(model.inner) is None


@pytest.mark.parametrize("way", ["dictionary", "buffer", "data of a weight"])
def test_what_a_first_call_keeps_in_place_is_probed(way):
    model = _unwritten(ScaledInPlace(*KEPT[way]))
    found = dsf.inspect(model, tokens(SAMPLES, TOKENS, WIDTH))
    assert found.unsupported == ()
    assert found["inner"].is_exact


class CountedInPlace(nn.Module):
    """Adds all tokens in its first call alone."""

    def __init__(self, counter, count):
        super().__init__()
        self.counter, self.count = counter, count

    def forward(self, x):
        return x + x.sum(1, keepdim=True).tanh() if self.count(self.counter) == 1 else x.tanh()


@pytest.mark.parametrize(
    ("counter", "count"),
    [
        (torch.zeros(()), lambda counter: counter.add_(1)),
        (np.zeros(1), lambda counter: np.add(counter, 1, out=counter)),
        ([], lambda counter: counter.append(0) or len(counter)),
    ],
    ids=["tensor", "array", "list"],
)
def test_what_counts_its_calls_in_place_is_read_as_it_was_called(counter, count):
    inner = CountedInPlace(counter, count)
    assert "'add' joins" in inspected(inner).unsupported[0].reason
    found = dsf.inspect(drawn(Around(inner)), tokens(SAMPLES, TOKENS, WIDTH))
    assert found.unsupported == ()
    assert found["inner"].is_exact


@pytest.mark.parametrize("inner", [Counted(1), Shifted(), Flagged(), Wrapped()])
def test_what_only_later_calls_do_is_not_listed(inner):
    found = inspected(inner)
    assert [layer.name for layer in found] == ["attention"]
    assert found.unsupported == ()


def test_threads_set_one_module_back_one_after_the_other():
    module = nn.Linear(1, 1)
    module.count = 0
    history = History([module])
    for time in (1, 2):
        module.count = time
        history.look(module, time)
    history.finish(3)

    def counted(time):
        with history.set_back(module, time):
            before = module.count
            sleep(0.05)
            return before, module.count

    with ThreadPoolExecutor(3) as pool:
        assert [*pool.map(counted, (1, 2, 3))] == [(0, 0), (1, 1), (2, 2)]
    assert module.count == 2


class Without(tuple):
    """A tuple that has no length of its own, as representations of a group are."""

    __slots__ = ()

    def __len__(self):
        raise NotImplementedError


class Kind(nn.Module):
    """An attention that knows of what kind its features are, or is given that with them."""

    def __init__(self, kind=None):
        super().__init__()
        self.kind, self.inner = kind, nn.MultiheadAttention(WIDTH, 2, batch_first=True)

    def forward(self, x, kind=None):
        x = x if kind is None else x * getattr(kind, "own", kind)[0]
        return self.inner(x, x, x, need_weights=False)[0]


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        (Without((1, -1)), {}),
        ([Without((Without((0, 1)), 3))], {}),
        (None, {"kind": Without((2.0, 3))}),
        (None, {"kind": SimpleNamespace(own=Without((2.0, 3)))}),
    ],
    ids=["held", "in a list", "given", "in an object"],
)
def test_tuples_without_a_length_are_looked_into(kind, given):
    x = torch.randn(SAMPLES, TOKENS, WIDTH)
    assert [layer.name for layer in dsf.inspect(Kind(kind).eval(), x, **given)] == ["inner"]
