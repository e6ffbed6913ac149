"""Mixers that nobody reads are probed unasked: their maps by formula, wherever the values enter."""

import pytest
import torch
from torch import nn
from torch.nn.functional import silu, softplus

import dsf
from dsf.inspection import InspectionError, NothingCapturedError, further_mixers
from tests.any_code import modules
from tests.any_code.modules import MIXERS, SIZE, WIDTH, Beside, drawn, tokens

LOWER = torch.ones(WIDTH, WIDTH, dtype=torch.float64).tril()


def given_to(model, path, x):
    """What a submodule is given in a run, in float64."""
    found = []
    handle = model.get_submodule(path).register_forward_pre_hook(
        lambda _module, args: found.append(args[0])
    )
    with torch.no_grad():
        model(x)
    handle.remove()
    return found[0].double()


def running_sum(_other, x):
    return LOWER.expand(len(x), 1, WIDTH, WIDTH)


def neighbours(_other, x):
    near = (torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)).abs() <= 1
    return (near.double() / 3).expand(len(x), 1, WIDTH, WIDTH)


def along_tokens(other, x):
    return other.along.weight.detach().double().expand(len(x), 1, WIDTH, WIDTH)


def decayed(other, x):
    decay = torch.nn.functional.linear(
        x, other.decay.weight.detach().double(), other.decay.bias.detach().double()
    ).sigmoid()
    found = torch.zeros(len(x), WIDTH, WIDTH, WIDTH, dtype=torch.float64)
    for i in range(WIDTH):
        for j in range(i + 1):
            found[:, :, i, j] = decay[:, j + 1 : i + 1].prod(dim=1)
    return found


def products(other, x):
    weights = (
        (one.weight.detach().double(), one.bias.detach().double()) for one in (other.q, other.k)
    )
    q, k = (modules.in_heads(torch.nn.functional.linear(x, *each)) for each in weights)
    return q @ k.mT


def long_filter(other, x):
    kernel = other.kernel.detach().double()
    lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
    found = torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], 0)
    return found.expand(len(x), *found.shape)


def taps(other, x):
    kernel = other.filter.weight.detach().double().squeeze(1)
    found = torch.zeros(WIDTH, WIDTH, WIDTH, dtype=torch.float64)
    for lag in range(3):
        found += torch.diag_embed(kernel[:, 2 - lag, None].expand(-1, WIDTH - lag), -lag)
    return found.expand(len(x), *found.shape)


def turned(other, x):
    """Real parts of powers of the poles times what the channels write, for each pair of them."""
    pole = torch.polar(torch.tensor(0.9, dtype=torch.float64), other.pole.detach().imag.double())
    lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
    powers = torch.where(lag >= 0, pole[:, None, None] ** lag.clamp(min=0), 0)
    written = other.write.detach().to(torch.complex128).mT[..., None, None]
    return (written * powers[:, None]).real.expand(len(x), -1, -1, -1, -1)


FORMULAS = {
    "cumulative sum": running_sum,
    "fixed matrix": running_sum,
    "vectorised": running_sum,
    "pooling": neighbours,
    "token perceptron": along_tokens,
    "scan": decayed,
    "linear attention": products,
    "long convolution": long_filter,
    "convolution": taps,
    "complex scan": turned,
}


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("name", FORMULAS)
def test_the_map_is_that_of_the_formula(name):
    model, x = drawn(Beside(MIXERS[name]())), tokens()
    inspection = dsf.inspect(model, x)
    assert inspection.unsupported == ()
    (layer,) = [one for one in inspection if one.name.startswith("other")]
    assert layer.family == "probed"
    assert "probed from" in layer.mixer.label
    assert layer.is_exact
    expected = FORMULAS[name](model.other, given_to(model, "other", x))
    torch.testing.assert_close(layer.map(), expected, atol=2e-6, rtol=1e-6)
    assert layer.row_order is None


def test_every_mixer_of_the_list_is_probed_or_listed():
    for name, other in MIXERS.items():
        inspection = dsf.inspect(drawn(Beside(other())), tokens())
        found = [*inspection, *inspection.unsupported]
        assert any(one.name.startswith(("other", "Beside")) for one in found), name


class Selective(nn.Module):
    """A selective scan by a method, with names of nobody's; the values also make the steps."""

    def __init__(self, layout="time first"):
        super().__init__()
        self.layout = layout
        self.enter, self.steps = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.writes, self.leave = nn.Linear(WIDTH, SIZE), nn.Linear(WIDTH, WIDTH)
        self.skip = nn.Parameter(torch.zeros(WIDTH))

    def recur(self, u, step, write):
        state, outputs = 0, []
        for t in range(u.shape[1]):
            decay = (-step[:, t]).exp()[..., None]
            state = decay * state + (step[:, t] * u[:, t])[..., None] * write[:, t, None]
            outputs.append((state * write[:, t, None]).sum(dim=-1))
        return torch.stack(outputs, dim=1) + self.skip * u

    def parts(self, x):
        values, gate = self.enter(x).chunk(2, dim=-1)
        values = silu(values)
        return values, gate, softplus(self.steps(values)), self.writes(values)

    def forward(self, x):
        values, gate, step, write = self.parts(x)
        return self.leave(self.recur(values, step, write) * silu(gate))

    def map(self, x):
        _, gate, step, write = self.parts(x)
        found = torch.zeros(len(x), WIDTH, WIDTH, WIDTH, dtype=x.dtype)
        for i in range(WIDTH):
            for j in range(i + 1):
                decay = (-step[:, j + 1 : i + 1].sum(dim=1)).exp()
                both = (write[:, i] * write[:, j]).sum(dim=-1, keepdim=True)
                found[:, :, i, j] = decay * step[:, j] * both
            found[:, :, i, i] += self.skip
        return found * silu(gate).mT[..., None]


class ChannelsBeforeTime(Selective):
    def recur(self, u, step, write):
        return super().recur(u.mT.contiguous().mT, step, write).mT.contiguous().mT


class SamplesAndTimeInOne(Selective):
    """The values pass as ``(sample time) channel``."""

    def recur(self, u, step, write):
        flat = u.flatten(0, 1)
        return super().recur((1.0 * flat).unflatten(0, u.shape[:2]), step, write)


class Backwards(Selective):
    """The recurrence runs from the last token to the first; only a run tells where they lie."""

    def recur(self, u, step, write):
        return super().recur(*(part.flip(1) for part in (u, step, write))).flip(1)

    def map(self, x):
        return super().map(x.flip(1)).flip(-1, -2)


KINDS = [Selective, ChannelsBeforeTime, SamplesAndTimeInOne, Backwards]


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_also_make_the_steps(kind):
    module, x = drawn(kind()), tokens()
    (layer,) = dsf.inspect(module, x)
    assert layer.axes == ("sample", "channel")
    assert layer.is_exact
    with torch.no_grad():
        expected = module.double().map(x.double())
    torch.testing.assert_close(layer.map(), expected, atol=1e-10, rtol=1e-9)


class Filtered(nn.Module):
    """A causal convolution that is given ``sample channel time`` (TCN, S4)."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Conv1d(SIZE, SIZE, 3, padding=2)

    def forward(self, x):
        return self.filter(x)[..., : x.shape[-1]]


@pytest.mark.parametrize("steps", [6, SIZE])
def test_rows_are_tokens_where_channels_come_first(steps):
    module, x = drawn(Filtered()), tokens(2, SIZE, steps)
    layer = dsf.probe(module, x)
    assert layer.axes == ("sample", "output", "input")
    kernel = module.filter.weight.detach().double()
    expected = torch.zeros(SIZE, SIZE, steps, steps, dtype=torch.float64)
    for lag in range(3):
        part = kernel[..., 2 - lag, None].expand(-1, -1, steps - lag)
        expected += torch.diag_embed(part, -lag)
    torch.testing.assert_close(layer.map(), expected.expand(2, -1, -1, -1, -1))
    assert "causal" in layer.mixer.label


def test_named_ports_of_two_layouts_have_the_axes_of_the_run():
    class Transposed(nn.Module):
        def __init__(self):
            super().__init__()
            self.act, self.out = nn.GELU(), nn.Linear(SIZE, SIZE)
            self.kernel = nn.Parameter(torch.zeros(SIZE, 6))

        def forward(self, u):
            u, steps = u.mT, u.shape[1]
            y = torch.fft.rfft(u, 2 * steps) * torch.fft.rfft(self.kernel, 2 * steps)
            return self.out(self.act(torch.fft.irfft(y, 2 * steps)[..., :steps]).mT)

    module = drawn(Transposed())
    layer = dsf.probe(module, tokens(1, 6, SIZE), value="(u)", response="act(input)")
    lag = torch.arange(6)[:, None] - torch.arange(6)
    kernel = module.kernel.detach().double()
    expected = torch.where(lag >= 0, kernel[:, lag.clamp(min=0)], 0)[None]
    torch.testing.assert_close(layer.map(), expected)
    assert layer.axes == ("sample", "channel")


@pytest.mark.parametrize("drop", [False, True])
def test_ports_between_which_channels_keep_apart(drop):
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.to_v, self.to_out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
            self.dropout = nn.Dropout(0.0) if drop else nn.Identity()

        def forward(self, x):
            return self.dropout(self.to_out(self.to_v(x).cumsum(dim=1)))

    layer = dsf.probe(drawn(Mean()), tokens())
    torch.testing.assert_close(layer.map(), LOWER.expand(SIZE, 1, -1, -1))
    assert "in 10 passes" in layer.mixer.label


class Insists(nn.Module):
    """A module that only runs in float32."""

    def forward(self, x):
        assert x.dtype == torch.float32
        return x.cumsum(dim=1)


def test_in_the_number_type_that_the_module_insists_on():
    (layer,) = dsf.inspect(nn.Sequential(nn.Linear(WIDTH, WIDTH), Insists()), tokens())
    torch.testing.assert_close(layer.map(), LOWER.expand(SIZE, 1, -1, -1), atol=1e-5, rtol=0)
    assert "in float32" in layer.compared_with


def test_what_else_mixes_makes_the_map_a_part():
    class TwoPaths(nn.Module):
        factor = 1.0

        def __init__(self):
            super().__init__()
            self.v = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.v(x).cumsum(dim=1) + self.factor * x.square().flip(1).tanh()

    module = drawn(TwoPaths())
    inspection = dsf.inspect(module, tokens())
    (layer,) = inspection
    torch.testing.assert_close(layer.map(), LOWER.expand(SIZE, 1, -1, -1))
    assert 0.05 < layer.share < 0.95
    (listed,) = inspection.unsupported
    assert "only a part of what it does to tokens" in listed.reason
    module.factor = 0.0
    assert dsf.inspect(module, tokens())[0].is_exact


def test_a_map_above_the_budget_is_listed_with_what_it_takes():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.filter = nn.Conv1d(100, 100, 49, padding=24)

        def forward(self, x):
            return self.filter(x)

    x = tokens(1, 100, 50)
    with pytest.raises(NothingCapturedError, match="5000 forward passes"):
        dsf.inspect(drawn(Mixed()), x)


def test_nothing_is_probed_where_that_is_switched_off():
    inspection = dsf.inspect(drawn(Beside(MIXERS["scan"]())), tokens(), probe=())
    assert [layer.name for layer in inspection] == ["attention"]
    assert [missed.name for missed in inspection.unsupported] == ["other"]


def test_what_is_not_linear_says_by_how_much():
    largest = modules.Computes(lambda x: x + x.amax(1, keepdim=True))
    inspection = dsf.inspect(drawn(Beside(largest)), tokens())
    (missed,) = inspection.unsupported
    assert "not linear in its values: superposition error" in missed.reason


def test_named_ports_between_which_no_token_moves_another_are_refused():
    apart = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH))
    with pytest.raises(InspectionError, match=r"ports '0' and '1\(input\)'"):
        dsf.probe(drawn(apart), tokens(), value="0", response="1(input)")


def test_what_lies_in_a_root_that_is_probed_is_not_listed():
    class InnerAttention(nn.Module):
        def forward(self, x):
            return x.cumsum(dim=1)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.v, self.inner_attention = nn.Linear(WIDTH, WIDTH), InnerAttention()

        def forward(self, x):
            return self.inner_attention(self.v(x)).tanh()

    inspection = dsf.inspect(drawn(Outer()), tokens(), probe=("",))
    assert [layer.name for layer in inspection] == ["Outer"]
    assert inspection.unsupported == ()


def test_tokens_read_another_sequence_by_sums():
    """Linear attention over a second sequence: the rows are the tokens of the first."""

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

        def forward(self, x, y):
            return (self.q(x).sigmoid() @ (self.k(y).sigmoid().mT @ self.v(y))).tanh()

    module, x, y = drawn(Reads()), tokens(), tokens(SIZE, 7, WIDTH, seed=3)
    (layer,) = dsf.inspect(module, x, y)
    with torch.no_grad():
        q, k = module.q(x).sigmoid().double(), module.k(y).sigmoid().double()
    torch.testing.assert_close(layer.map().squeeze(1), q @ k.mT, atol=1e-5, rtol=1e-6)
    assert layer.is_exact
    assert bool((layer.row_tokens == -1).all())


def test_a_pool_has_one_row():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.score, self.head = nn.Linear(WIDTH, 1), nn.Linear(WIDTH, 3)

        def forward(self, x):
            weights = self.score(x).softmax(dim=1)
            return self.head((weights.mT @ x).squeeze(1).tanh())

    module, x = drawn(Pools()), tokens()
    (layer,) = dsf.inspect(module, x)
    expected = module.score(x).softmax(dim=1).mT.detach().double()
    torch.testing.assert_close(layer.map().squeeze(1), expected, atol=1e-6, rtol=0)


def test_a_mixer_behind_another_of_the_same_module_is_found():
    """Where a child mixes before, the pair of places behind it explains what is left."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.v = nn.Linear(WIDTH, WIDTH)
            self.near = nn.Conv1d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)

        def forward(self, x):
            return self.near(self.v(x).mT).mT.sigmoid().cumsum(dim=1).tanh()

    inspection = dsf.inspect(drawn(Twice()), tokens())
    assert sorted(layer.name for layer in inspection) == ["Twice", "near"]
    expected = LOWER.expand(SIZE, 1, -1, -1)
    torch.testing.assert_close(inspection["Twice"].map(), expected)
    assert inspection.unsupported == ()


def test_cheap_maps_are_measured_though_others_of_their_class_are_too_large(monkeypatch):
    monkeypatch.setattr(further_mixers, "EACH", 64)

    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.ModuleList(nn.Conv1d(40, 40, 3, padding=1) for _ in range(2))
            self.narrow, self.last = nn.Linear(40, 16), nn.Conv1d(16, 16, 3, padding=1)
            self.norm = nn.LayerNorm(16)

        def forward(self, x):
            for one in self.wide:
                x = one(x.mT).mT.relu()
            return self.norm(self.last(self.narrow(x).mT).mT)

    model = drawn(Convolutions())
    (layer,) = found = dsf.inspect(model, tokens(1, 8, 40, seed=1))
    assert [part.name for part in found.unsupported] == ["wide.0", "wide.1"]
    assert layer.is_exact
    steps = torch.arange(8)
    lag = steps - steps[:, None] + 1
    weight = model.last.weight.detach().double()[..., lag.clamp(0, 2)]
    expected = torch.where((lag >= 0) & (lag <= 2), weight, 0.0)
    torch.testing.assert_close(layer.map()[0], expected)


class Applied(nn.Module):
    """One class for whatever mixes tokens."""

    def __init__(self, run):
        super().__init__()
        self.run = run

    def forward(self, x):
        return self.run(x)


@pytest.mark.parametrize(
    "run",
    [lambda x: x.sort(1).values, lambda x: nn.functional.max_pool1d(x.mT, 3, 1, 1).mT],
    ids=["sorted", "largest of neighbours"],
)
def test_modules_of_one_class_that_mix_in_another_way_are_probed(run):
    parts = [Applied(run), nn.Sigmoid(), Applied(run), nn.Sigmoid(), Applied(lambda x: x.cumsum(1))]
    model = drawn(nn.Sequential(nn.Linear(WIDTH, WIDTH), *parts, nn.LayerNorm(WIDTH)))
    found = dsf.inspect(model, tokens())
    assert [part.name for part in found.unsupported] == ["1", "3"]
    torch.testing.assert_close(found["5"].map(), LOWER.expand(SIZE, 1, -1, -1))


def by_exponentials(keys, values, lower):
    weights = keys.exp()
    return (lower @ (weights * values)) / (lower @ weights)


def by_running_sums(keys, values, _lower):
    weights = keys.exp()
    return (weights * values).cumsum(1) / weights.cumsum(1)


def by_cosh(keys, values, lower):
    return (lower @ (keys.cosh() * values)) / (lower @ keys.cosh())


class Exponentials(nn.Module):
    """Values weighed by functions of keys that overflow where a token is large."""

    def __init__(self, form):
        super().__init__()
        self.keys, self.values, self.leave = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.form = form

    def forward(self, x):
        lower = LOWER[: x.shape[1], : x.shape[1]].to(x)
        return self.leave(self.form(self.keys(x), self.values(x), lower))


@pytest.mark.parametrize("form", [by_exponentials, by_running_sums, by_cosh])
def test_tokens_so_large_that_keys_overflow_say_nothing(form):
    found = dsf.inspect(drawn(Exponentials(form)), tokens(2, WIDTH, WIDTH))
    assert len(found) == 1
    assert found[0].is_exact
    assert not found.unsupported


def past_torch(x):
    return torch.tensor(x.tolist(), dtype=x.dtype)


def as_it_is(x):
    return x


class Summing(nn.Module):
    """Running sums beside an attention, which is given what tokens of a bent mean add."""

    def __init__(self, passed):
        super().__init__()
        self.passed, self.inner = passed, modules.Attention(width=SIZE * 2, heads=2)

    def forward(self, x):
        return x.cumsum(1) + self.inner(x + self.passed(x.tanh().mean(1, keepdim=True)))


@pytest.mark.parametrize("passed", [as_it_is, past_torch])
def test_what_reaches_an_attention_inside_of_a_probed_module_is_no_silence(passed):
    model = nn.Sequential(nn.Linear(3, SIZE * 2), Summing(passed), nn.Linear(SIZE * 2, 3))
    found = dsf.inspect(drawn(model), tokens(2, 7, 3))
    assert [layer.name for layer in found] == ["1.inner", "1"]
    assert [one.name for one in found.unsupported] == ["Sequential"]


class Unmerged(nn.Module):
    """Attention whose heads and tokens change places."""

    def forward(self, q, k, v):
        return (q @ k.mT).softmax(dim=-1) @ v


class Swapped(modules.Attention):
    def __init__(self, **sizes):
        super().__init__(**sizes)
        self.inner = Unmerged()

    def forward(self, x):
        return x + self.o(self.inner(*self.parts(x)).reshape(x.shape))


def test_attention_inside_of_a_probed_module_keeps_its_response_where_both_are_held():
    model = nn.Sequential(nn.Linear(3, 8), Swapped(width=8, heads=2), nn.Linear(8, 3))
    found = dsf.inspect(drawn(model), tokens(2, 7, 3))
    assert found.unsupported == ()
    assert {layer.name for layer in found} == {"1.inner", "1.o", "1"}
    assert all(layer.is_exact for layer in found)


def test_ports_of_another_program_are_not_taken_over():
    """Two layers of one class; what the second makes last has another number in its program."""

    class Sum(nn.Module):
        def __init__(self, *, is_bounded):
            super().__init__()
            self.factors, self.is_bounded = nn.Parameter(torch.zeros(WIDTH)), is_bounded

        def forward(self, x):
            factors = self.factors.tanh() if self.is_bounded else self.factors
            return (x * factors.exp()).cumsum(1)

    model = nn.Sequential(Sum(is_bounded=False), nn.Tanh(), Sum(is_bounded=True))
    inspection = dsf.inspect(drawn(model), tokens())
    assert [layer.name for layer in inspection] == ["0", "2"]
    assert all(layer.is_exact for layer in inspection)
    assert inspection.unsupported == ()


class Sums(nn.Module):
    """The running mean of projected tokens."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, WIDTH)

    def forward(self, x, scale=1.0):
        return self.project(x).cumsum(dim=1) * scale / WIDTH


def hooked(*, ahead=None, behind=None):
    model = drawn(nn.Sequential(nn.Linear(WIDTH, WIDTH), Sums(), nn.Linear(WIDTH, WIDTH)))
    if ahead is not None:
        model[1].register_forward_pre_hook(ahead)
    if behind is not None:
        model[1].register_forward_hook(behind)
    return model


HOOKS = {
    "reads its input": {"behind": lambda _, given, y: y + 2 * given[0]},
    "counts its inputs": {"behind": lambda _, given, y: y * len(given)},
    "changes its input": {"ahead": lambda _, given: (2 * given[0] + 1,)},
    "bends its input": {"ahead": lambda _, given: (given[0].tanh(),)},
    "turns its input": {"ahead": lambda _, given: (given[0].flip(1),)},
    "both": {"ahead": lambda _, given: (2 * given[0],), "behind": lambda _, given, y: y + given[0]},
}


@pytest.mark.parametrize("asked", [{}, {"probe": ("1",)}], ids=["unasked", "asked"])
@pytest.mark.parametrize("name", HOOKS)
def test_hooks_of_a_probed_mixer_run_once_and_find_its_arguments(name, asked):
    (layer,) = dsf.inspect(hooked(**HOOKS[name]), tokens(2, 6, WIDTH), **asked)
    assert (layer.name, layer.is_exact or bool(asked)) == ("1", True)
    causal = torch.ones(6, 6).tril().double() / WIDTH
    expected = causal.mT if "turns" in name else causal
    torch.testing.assert_close(layer.map()[0, 0], expected)


class Shifted(nn.Module):
    """A mixer that is given tokens in another order, and perhaps a part of them as queries."""

    def __init__(self, mixer, given):
        super().__init__()
        self.embed, self.mixer, self.given = nn.Linear(WIDTH, WIDTH), mixer, given

    def forward(self, x):
        return self.mixer(*self.given(self.embed(x).roll(1, 1)))


class Reads(Sums):
    def forward(self, queries, hidden_states):
        weights = (queries @ hidden_states.mT).relu()
        return weights @ self.project(hidden_states)


class Rows(Sums):
    def forward(self, hidden_states):
        return super().forward(hidden_states)


class Halves(Sums):
    def forward(self, x):
        return self.project(x).unflatten(1, (-1, 2)).sum(2)


@pytest.mark.parametrize(
    ("mixer", "given", "rows"),
    [
        (Reads, lambda x: (x[:, :5], x), [0, 1, 2, 3, 5]),
        (Rows, lambda x: (x,), [*range(6)]),
        (Halves, lambda x: (x,), [-1, -1, -1]),
    ],
)
def test_a_map_that_was_asked_for_has_the_tokens_of_its_rows(mixer, given, rows):
    model, x = drawn(Shifted(mixer(), given)), tokens(2, 6, WIDTH)
    layer = dsf.inspect(model, x, probe=("mixer",))["mixer"]
    assert layer.row_tokens[0, 0].tolist() == rows
    assert layer.column_tokens[0, 0].tolist() == [*range(6)]
    if mixer is Rows:  # the last token comes first
        order = torch.tensor([5, 0, 1, 2, 3, 4]).argsort()
        expected = torch.ones(6, 6).tril()[order][:, order].double() / WIDTH
        torch.testing.assert_close(layer.map()[0, 0], expected)
