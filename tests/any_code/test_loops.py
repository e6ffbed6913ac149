"""Recurrences and long filters that no adapter knows, each against a loop in float64."""

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from tests.any_code.modules import SIZE, WIDTH, Beside, drawn, tokens


class Correlated(nn.Module):
    """A padded transform, of which the last places are taken: those of a correlation."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(WIDTH))

    def forward(self, x):
        length = 2 * WIDTH
        spectrum = torch.fft.rfft(x, n=length, dim=1)
        kernel = torch.fft.rfft(self.kernel, n=length).conj()
        found = torch.fft.irfft(spectrum * kernel[:, None], length, dim=1).roll(-1, dims=1)
        return found.index_select(-2, torch.arange(WIDTH, length))

    def expected(self):
        lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
        kernel = self.kernel.detach().double().flip(0)
        return torch.where(lag >= 0, kernel[lag.clamp(min=0)], 0).expand(SIZE, 1, WIDTH, WIDTH)


class Alone(nn.Module):
    """One sample without an axis of samples."""

    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.rand(WIDTH))

    def forward(self, x):
        state, found = torch.zeros_like(x[0]), []
        for each in x.unbind(0):
            state = self.decay.sigmoid() * state + each
            found.append(state)
        return torch.stack(found)


class Vectorised(nn.Module):
    """What is called inside of a vectorising transform, with tensors that cannot be kept."""

    def __init__(self):
        super().__init__()
        self.alone = Alone()

    def forward(self, x):
        return torch.vmap(self.alone)(x)

    def expected(self):
        lag = torch.arange(WIDTH)[:, None] - torch.arange(WIDTH)
        decay = self.alone.decay.detach().double().sigmoid()[:, None, None]
        found = torch.where(lag >= 0, decay ** lag.clamp(min=0), 0)
        return found.expand(SIZE, *found.shape)


class WithState(nn.Module):
    """A gated sum that also returns its state, past the gate of its output."""

    def __init__(self):
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH)

    def states(self, x):
        values, keep, read = self.project(x).chunk(3, dim=-1)
        keep, values, state, found = keep.sigmoid(), values.tanh(), 0, []
        for step in range(x.shape[1]):
            state = keep[:, step] * state + (1 - keep[:, step]) * values[:, step]
            found.append(state)
        return torch.stack(found, dim=1), read.sigmoid()

    def forward(self, x):
        states, read = self.states(x)
        return states * read, states[-1]


def _other(model):
    inspection = dsf.inspect(model, tokens())
    (layer,) = [one for one in inspection if one.name.startswith("other")]
    assert inspection.unsupported == ()
    assert layer.is_exact
    return layer


def test_the_last_places_of_a_padded_transform_are_the_tokens():
    model = drawn(Beside(Correlated()))
    torch.testing.assert_close(_other(model).map(), model.other.expected(), atol=1e-6, rtol=1e-5)


def test_what_a_vectorising_transform_calls_is_read_outside_of_it():
    model = drawn(Beside(Vectorised()))
    layer = _other(model)
    assert layer.name == "other"
    torch.testing.assert_close(layer.map(), model.other.expected(), atol=1e-6, rtol=1e-5)


class First(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = WithState()

    def forward(self, x):
        states, last = self.inner(x)
        return states, last


def test_a_state_that_is_returned_too_is_explained_by_the_states():
    model, x = drawn(First()), tokens()
    inspection = dsf.inspect(model, x)
    (layer,) = inspection
    assert layer.is_exact
    assert inspection.unsupported == ()
    response = (layer.map() @ layer.signal.flatten(-3, -2)).squeeze(-1).mT
    with torch.no_grad():
        states, _ = model.inner.double().states(x.double())
    torch.testing.assert_close(response.double(), states, atol=1e-5, rtol=1e-5)


STEPS, CHANNELS = 5, 4


class Cell(nn.Module):
    """A recurrence by a loop: its candidates, and gates that also see the states before."""

    def __init__(self):
        super().__init__()
        self.enter, self.recall = (
            nn.Linear(CHANNELS, 4 * CHANNELS),
            nn.Linear(CHANNELS, 4 * CHANNELS),
        )
        self.values, self.gates = [], []
        self.given = None

    def order(self):
        return range(STEPS)

    def forward(self, x):
        outputs, states = [None] * STEPS, (torch.zeros_like(x[:, 0]),) * 2
        self.gates = [] if self.given is None else self.gates
        for step in range(STEPS):
            outputs[step], states = self.step(x, step, states)
        return torch.stack(outputs, dim=1)

    def held(self, step, made):
        """Gates, which are those of an earlier run where values are given."""
        if self.given is None:
            self.gates.append(made)
            return made
        return self.gates[step]

    def candidate(self, step, made):
        return made.tanh() if self.given is None else self.given[:, step]

    def expected(self, x):
        """The responses to single values while the gates are held."""
        with torch.no_grad():
            self(x)
            columns = []
            for step in range(STEPS):
                self.given = torch.zeros_like(x)
                self.given[:, step] = 1
                columns.append(self(x).mT)
            self.given = None
        return torch.stack(columns, dim=-1)


class LongShort(Cell):
    def step(self, x, step, states):
        h, c = states
        write, keep, new, read = (self.enter(x[:, step]) + self.recall(h)).chunk(4, dim=-1)
        write, keep, read, _ = self.held(step, (write.sigmoid(), keep.sigmoid(), read.sigmoid(), c))
        c = keep * c + write * self.candidate(step, new)
        if self.given is None:
            h = read * torch.tanh(c)
            self.gates[-1] = write, keep, read, torch.tanh(c) / c
        else:
            h = read * c * self.gates[step][-1]
        return h, (h, c)


class Gated(Cell):
    """A gated unit that resets the state before it is projected."""

    def step(self, x, step, states):
        h, _ = states
        keep, reset, new, _ = self.enter(x[:, step]).chunk(4, dim=-1)
        weights = self.recall.weight.chunk(4)
        keep = (keep + h @ weights[0].mT).sigmoid()
        new = new + ((reset + h @ weights[1].mT).sigmoid() * h) @ weights[2].mT
        (keep,) = self.held(step, (keep,))
        h = self.joined(step, keep, states, self.candidate(step, new))
        return h, (h, states[0])

    def joined(self, _step, keep, states, new):
        return keep * states[0] + (1 - keep) * new


class ResetBehind(Gated):
    """The same, with the reset behind the projection."""

    def step(self, x, step, states):
        h, _ = states
        keep, reset, new, _ = self.enter(x[:, step]).chunk(4, dim=-1)
        recalled = self.recall(h).chunk(4, dim=-1)
        new = new + (reset + recalled[1]).sigmoid() * recalled[2]
        (keep,) = self.held(step, ((keep + recalled[0]).sigmoid(),))
        h = torch.lerp(self.candidate(step, new), h, keep)
        return h, (h, h)


class TwoBack(Gated):
    """The state of two steps before is added."""

    def joined(self, _step, keep, states, new):
        return keep * states[0] + 0.3 * states[1] + (1 - keep) * new


@pytest.mark.sampled(count=3)
@pytest.mark.parametrize("kind", [LongShort, Gated, ResetBehind, TwoBack])
def test_the_map_of_a_loop_is_that_of_its_candidates_with_gates_held(kind):
    model, x = drawn(kind().double()), tokens(2, STEPS, CHANNELS).double()
    inspection = dsf.inspect(model, x)
    (layer,) = inspection
    assert layer.is_exact
    assert inspection.unsupported == ()
    torch.testing.assert_close(layer.map(), model.expected(x), atol=1e-9, rtol=1e-9)


class Leaks(Gated):
    """What a gate makes of the last candidate is added to the output."""

    def forward(self, x):
        self.last = torch.zeros_like(x[:, 0])
        return super().forward(x)

    def step(self, x, step, states):
        h, states = super().step(x, step, states)
        return h + self.last, states

    def candidate(self, _step, made):
        self.last = (2 * self.last + made.tanh()).sigmoid()
        return made.tanh()


class Chosen(Leaks):
    """What a gate makes of the last candidate takes the place of the last outputs."""

    def step(self, x, step, states):
        h, states = Gated.step(self, x, step, states)
        return torch.where(torch.tensor(step < STEPS - 2), h, self.last), states


class ShiftedValues(Gated):
    """The candidate is also made of the token before."""

    def candidate(self, step, made):
        return (made + self.x[:, max(step - 1, 0)]).tanh()

    def step(self, x, step, states):
        self.x = x
        return super().step(x, step, states)


class ShiftedToken(Gated):
    """The token before is added to the output, and not to the state."""

    def step(self, x, step, states):
        h, states = super().step(x, step, states)
        return h + x[:, max(step - 1, 0)], states


class Kept(Gated):
    """A second state of gated tokens, which is no response, makes later candidates."""

    def step(self, x, step, states):
        h, other = states
        keep, new, *_ = (self.enter(x[:, step]) + self.recall(h)).chunk(4, dim=-1)
        keep = keep.sigmoid()
        h = keep * h + (1 - keep) * (new + other).tanh()
        return h, (h, x[:, step] * keep)


@pytest.mark.sampled(count=2)
@pytest.mark.parametrize("kind", [Leaks, Chosen, ShiftedValues, ShiftedToken, Kept])
def test_a_loop_in_which_tokens_meet_in_a_further_way_is_not_read(kind):
    model, x = drawn(kind().double()), tokens(2, STEPS, CHANNELS).double()
    try:
        inspection = dsf.inspect(model, x)
    except InspectionError:
        return
    assert not any(layer.is_exact for layer in inspection)


class Plain(Cell):
    """The state itself is the candidate, as in an Elman network: tanh(a) is (tanh(a) / a) a."""

    def step(self, x, step, states):
        a = (self.enter(x[:, step]) + self.recall(states[0])).chunk(4, dim=-1)[0]
        self.gates.append((a.tanh() / a).detach())
        return a.tanh(), (a.tanh(), a)

    def expected(self, x):
        """From what a step is given to the states, with the secants held."""
        self(x)
        recalled, found = self.recall.weight.detach()[:CHANNELS], []
        for start in range(STEPS):
            state, rows = torch.zeros(len(x), CHANNELS, 4 * CHANNELS).double(), []
            for step, secant in enumerate(self.gates):
                entering = torch.eye(CHANNELS, 4 * CHANNELS).double() * (step == start)
                state = secant[..., None] * (recalled @ state + entering)
                rows.append(state)
            found.append(torch.stack(rows, dim=-1))
        return torch.stack(found, dim=-1)


def test_a_loop_without_gates_is_read_as_an_elman_network_is():
    model, x = drawn(Plain().double()), tokens(2, STEPS, CHANNELS).double()
    (layer,) = dsf.inspect(model, x)
    assert layer.is_exact
    torch.testing.assert_close(layer.map(), model.expected(x), atol=1e-9, rtol=1e-9)


class OneToken(nn.Module):
    """A gated cell of one token."""

    def __init__(self):
        super().__init__()
        self.enter = nn.Linear(CHANNELS, 2 * CHANNELS)
        self.recall = nn.Linear(CHANNELS, 2 * CHANNELS)

    def parts(self, x, h):
        keep, new = (self.enter(x) + self.recall(h)).chunk(2, dim=-1)
        return keep.sigmoid(), new.tanh()

    def forward(self, x, h):
        keep, new = self.parts(x, h)
        return keep * h + (1 - keep) * new


class Calls(nn.Module):
    """Calls its cell token by token."""

    def __init__(self):
        super().__init__()
        self.cell = OneToken()

    def forward(self, x):
        h, outputs = torch.zeros_like(x[:, 0]), []
        for each in x.unbind(1):
            h = self.cell(each, h)
            outputs.append(h)
        return torch.stack(outputs, dim=1)

    def expected(self, x):
        keeps, h = [], torch.zeros_like(x[:, 0])
        for each in x.unbind(1):
            keeps.append(self.cell.parts(each, h)[0])
            h = self.cell(each, h)
        found = x.new_zeros(len(x), CHANNELS, STEPS, STEPS)
        for i in range(STEPS):
            for j in range(i + 1):
                found[:, :, i, j] = 1 - keeps[j]
                for k in range(j + 1, i + 1):
                    found[:, :, i, j] *= keeps[k]
        return found.detach()


def test_tokens_meet_in_the_loop_that_calls_a_cell_token_by_token():
    model, x = drawn(nn.Sequential(Calls()).double()), tokens(2, STEPS, CHANNELS).double()
    inspection = dsf.inspect(model, x)
    (layer,) = inspection
    assert layer.name == "0"
    assert layer.is_exact
    assert inspection.unsupported == ()
    torch.testing.assert_close(layer.map(), model[0].expected(x), atol=1e-9, rtol=1e-9)


ORDERS = {
    "backwards": [5, 4, 3, 2, 1, 0],
    "even before odd": [0, 2, 4, 1, 3, 5],
    "from the middle": [3, 2, 4, 1, 5, 0],
}


class Ordered(nn.Module):
    """A gated sum that goes through the tokens in an order of its own, each laid in its place."""

    def __init__(self, order, *, into):
        super().__init__()
        self.order, self.into = order, into
        self.gate, self.value = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        gates, values = self.gate(x).sigmoid(), self.value(x)
        state, found = torch.zeros_like(x[:, 0]), [None] * len(self.order)
        memory = torch.zeros_like(x)
        for k in self.order:
            state = gates[:, k] * state + values[:, k]
            found[k] = memory[:, k] = state
        return memory if self.into == "memory" else torch.stack(found, dim=1)

    def expected(self, x):
        gates, steps = self.gate(x).sigmoid().double(), len(self.order)
        found = torch.zeros(len(x), WIDTH, steps, steps, dtype=torch.float64)
        for n, i in enumerate(self.order):
            for m, j in enumerate(self.order[: n + 1]):
                found[..., i, j] = gates[:, self.order[m + 1 : n + 1]].prod(dim=1)
        return found


@pytest.mark.parametrize("into", ["list", "memory"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_loop_in_another_order_has_its_rows_in_place(order, into):
    model, x = drawn(Beside(Ordered(ORDERS[order], into=into))), tokens(2, 6, WIDTH)
    inspection = dsf.inspect(model, x)
    assert not inspection.unsupported
    (layer,) = (one for one in inspection if one.name == "other")
    assert layer.is_exact
    for each in (layer.row_tokens, layer.column_tokens):
        assert torch.equal(each, torch.arange(6).expand_as(each))
    with torch.no_grad():
        seen = []
        with_hook = model.other.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        model(x)
        with_hook.remove()
        expected = model.other.expected(seen[0])
    torch.testing.assert_close(layer.map(), expected, atol=1e-5, rtol=0)


class Members(nn.Module):
    """Several modules of one class, with weights of their own, in one vectorised call."""

    def __init__(self, kind):
        super().__init__()
        self.one = kind()
        parts = dict(self.one.named_parameters())
        self.names = list(parts)
        self.weights = nn.ParameterList(torch.zeros(3, *part.shape) for part in parts.values())

    def forward(self, x):
        def member(*weights):
            chosen = dict(zip(self.names, weights, strict=True))
            return torch.func.functional_call(self.one, chosen, (x,))

        return torch.vmap(member)(*self.weights).sum(0)


class Summed(nn.Linear):
    """A sum over tokens."""

    def __init__(self):
        super().__init__(WIDTH, WIDTH, bias=False)

    def forward(self, x):
        return super().forward(x).cumsum(1)


class Attending(nn.Module):
    """An attention of few channels."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList(nn.Linear(WIDTH, 2, bias=False) for _ in range(2))

    def forward(self, x):
        queries, keys = (part(x) for part in self.parts)
        return torch.softmax(queries @ keys.mT, dim=-1) @ x


def _maps(model):
    """The maps of three attentions that are called at once."""
    x = tokens().double()
    model = model.double()
    x = x + model.attention(model.norm(x))
    pairs = zip(*model.other.weights, strict=True)
    maps = [torch.softmax(x @ q.mT @ (x @ k.mT).mT, dim=-1) for q, k in pairs]
    return torch.stack(maps, dim=1).detach()


MEMBERS = {Summed: lambda _: torch.ones(WIDTH, WIDTH).double().tril(), Attending: _maps}


@pytest.mark.parametrize("kind", MEMBERS)
def test_members_that_are_called_at_once_are_read_together(kind):
    model = drawn(Beside(Members(kind)))
    found = _other(model).map()
    torch.testing.assert_close(found, MEMBERS[kind](model).expand_as(found), atol=1e-6, rtol=0)


def test_members_that_mix_no_tokens_are_not_listed():
    model = drawn(Beside(Members(lambda: nn.Linear(WIDTH, WIDTH))))
    inspection = dsf.inspect(model, tokens())
    assert inspection.unsupported == ()
    assert [layer.name for layer in inspection] == ["attention"]
