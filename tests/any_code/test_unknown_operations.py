"""Operations that nobody knows, between single tokens, single samples, or on rare conditions."""

import copy
import ctypes
import itertools
import threading
import types

import numpy as np
import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.capture.modes import unheard
from dsf.inspection.causal import replay
from dsf.inspection.errors import NothingCapturedError
from tests.any_code.modules import Attention, drawn, tokens

WIDTH, TOKENS = 16, 6


class OfArrays(torch.autograd.Function):
    """One token added to another, in a function that torch does not see inside of."""

    @staticmethod
    def forward(_, x, pair):
        (sample, one), (other_sample, other) = pair
        numbers = x.detach().numpy().copy()
        numbers[other_sample, other] += np.tanh(numbers[sample, one])
        return torch.from_numpy(numbers)


def by_array(x, pair):
    return OfArrays.apply(x, pair)


def by_memory(x, pair):
    (sample, one), (other_sample, other) = pair
    y = x.clone()
    numbers = y.detach().numpy()
    numbers[other_sample, other] += numbers[sample, one]
    return y


def by_putting(x, pair):
    places = [(sample * TOKENS + one) * WIDTH + torch.arange(WIDTH) for sample, one in pair]
    return x.clone().put_(places[1], x.flatten()[places[0]], accumulate=True)


def by_view(x, pair):
    (sample, one), (other_sample, other) = pair
    y, first = x.clone(), (other_sample * TOKENS + other) * WIDTH
    y.view(-1)[first : first + WIDTH] += x[sample, one]
    return y


def by_number(x, pair):
    y = x.clone()
    y[pair[1]] += x[pair[0]][0].item()
    return y


def by_whole_numbers(x, pair):
    whole = (x * 100).long()
    whole[pair[1]] += whole[pair[0]]
    return whole / 100


def by_thread(x, pair):
    made = []

    def run():
        y = torch.zeros_like(x)
        y[pair[1]] = x[pair[0]]
        made.append(y)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return x + made[0]


def by_copy(x, pair):
    y = copy.deepcopy(x.detach())
    y[pair[1]] += x[pair[0]]
    return y


class Applied(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Behind(nn.Module):
    """An attention, and something else in a module of its own or in that of the attention."""

    def __init__(self, function, where, **options):
        super().__init__()
        self.attention, self.function = Attention(**options), function
        if where == "inside":
            self.attention = Further(function, **options)
        self.other = Applied(function if where == "module" else nn.Identity())
        self.is_around = where == "around"

    def forward(self, x):
        x = x + self.attention(x)
        return x + (self.function(x) if self.is_around else self.other(x))


class Further(Attention):
    def __init__(self, function, **options):
        super().__init__(**options)
        self.further = function

    def forward(self, x):
        return super().forward(x) + self.further(x)


NAMES = {"module": "other", "inside": "attention", "around": "Behind"}


def listed(function, where, samples=2, **options):
    model = drawn(Behind(function, where, **options))
    found = dsf.inspect(model, tokens(samples, TOKENS, WIDTH), probe=())
    return {one.name for one in found.unsupported}


WAYS = [by_array, by_memory, by_putting, by_view, by_number, by_whole_numbers, by_thread]
PAIRS = [
    *(((0, 2), (0, 5)), ((1, 2), (1, 5)), ((1, 4), (1, 3)), ((0, 0), (0, 1)), ((1, 5), (1, 0))),
    *(((0, 1), (1, 1)), ((1, 5), (0, 0)), ((0, 3), (1, 2))),
]


@pytest.mark.sampled(count=12)
@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("pair", PAIRS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_one_token_that_is_sent_to_another_of_one_sample_is_listed(way, pair, where):
    names = {NAMES[where], "Behind"} if way is by_thread else {NAMES[where]}
    assert names & listed(lambda x: way(x, pair), where)


LIMIT = 100


def if_largest(x):
    return x + x.flip(1) if x.max() > LIMIT else x


def if_any(x):
    return x + x.flip(1) if (x.abs() > LIMIT).any() else x


def if_least(x):
    return x * 2 if x.min().item() < -LIMIT else x


def where_largest(x):
    return torch.where(x.max() > LIMIT, x + x.flip(1), x)


def if_much_larger(x):
    return x * 2 if x[0, 2, 0] > x[0, 4, 0] + LIMIT else x


def if_close(x):
    return x * 2 if torch.allclose(x, x.flip(1), atol=LIMIT) else x


def above(x):
    return x + (x.mean(1, keepdim=True) - LIMIT).relu()


def by_largest_number(x):
    return x * 2 if x.detach().numpy().max() > LIMIT else x


RARE = [if_largest, if_any, if_least, where_largest, if_much_larger, if_close, above]
RARE += [by_largest_number]


@pytest.mark.sampled(count=6)
@pytest.mark.parametrize("is_fused", [True, False])
@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("way", RARE)
def test_a_rare_condition_on_other_tokens_is_listed(way, where, is_fused):
    assert NAMES[where] in listed(way, where, is_fused=is_fused)


@pytest.mark.parametrize(("token", "sample"), [(1, 0), (4, 1)])
def test_the_sign_of_one_token_that_decides_is_listed(token, sample):
    found = listed(lambda x: x * 2 if x[sample, token, 0] > 0 else x, "inside", is_fused=False)
    assert found == {"attention"}


def test_an_attention_that_only_much_larger_tokens_pass_by_is_not_exact():
    model = drawn(Behind(if_much_larger, "inside", is_fused=False))
    found = dsf.inspect(model, tokens(2, TOKENS, WIDTH), probe=())
    assert [layer.is_exact for layer in found] == [False]


def test_a_module_that_runs_on_a_thread_is_unknown():
    class Elsewhere(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Attention()

        def forward(self, x):
            made = []
            thread = threading.Thread(target=lambda: made.append(self.inner(x)))
            thread.start()
            thread.join()
            return x + made[0]

    model = nn.Sequential(Attention(), drawn(Elsewhere()))
    found = dsf.inspect(drawn(model), tokens(2, TOKENS, WIDTH), probe=())
    assert [(layer.name, layer.is_exact) for layer in found] == [("0", True)]
    assert "Sequential" in {one.name for one in found.unsupported}


class Weighs(nn.Module):
    """A sum over tokens that is probed, and something else."""

    def __init__(self, function):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))
        self.function = function

    def forward(self, x):
        return self.o(self.q(x) @ (self.k(x).mT @ self.v(x)) / WIDTH + self.function(x))


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("pair", PAIRS[:7], ids=str)
@pytest.mark.parametrize("way", [*WAYS, by_copy])
def test_one_token_that_is_sent_to_another_is_no_part_of_a_probed_map(way, pair):
    model = drawn(Weighs(lambda x: way(x, pair)))
    assert not any(layer.is_exact for layer in readings(model))


OPEN = pytest.mark.xfail(
    reason="what a probed map moves hides it where tokens are large", strict=True
)


@pytest.mark.parametrize("way", [if_largest, where_largest, pytest.param(above, marks=OPEN)])
def test_what_a_rare_condition_does_is_no_part_of_a_probed_map(way):
    assert not any(layer.is_exact for layer in readings(drawn(Weighs(way))))


def readings(model):
    try:
        return list(dsf.inspect(model, tokens(2, TOKENS, WIDTH)))
    except NothingCapturedError:
        return []


def by_count(x):
    return x * len((x[..., 0] > 0).nonzero())


def by_chosen_rows(x):
    return x * x[x[..., 0] > 0].shape[0]


def by_selected(x):
    return x * x.masked_select(x > 0.5).numel()


def by_kinds(x):
    return x * torch.unique(x[..., 0].round()).numel()


COUNTS = [by_count, by_chosen_rows, by_selected, by_kinds]


@pytest.mark.parametrize("way", COUNTS)
def test_a_number_of_elements_that_tokens_decide_is_no_part_of_a_probed_map(way):
    assert not any(layer.is_exact for layer in readings(drawn(Weighs(way))))


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("way", COUNTS)
def test_a_number_of_elements_that_tokens_decide_is_listed(way, where):
    assert NAMES[where] in listed(way, where)


def own_array(x):
    return torch.from_numpy(np.tanh(x.detach().numpy()))


def own_expert(x):
    chosen, y = x[..., :3].argmax(-1), torch.zeros_like(x)
    for k in range(3):
        if (chosen == k).any():
            y[chosen == k] = (k + 1) * x[chosen == k].tanh()
    return y


def own_in_order(x):
    rows = x.flatten(0, 1)
    chosen = rows[:, :3].argmax(-1)
    order = chosen.argsort()
    sizes = torch.bincount(chosen, minlength=3).tolist()
    parts = [k * part.tanh() for k, part in enumerate(rows[order].split(sizes))]
    return torch.empty_like(rows).index_copy(0, order, torch.cat(parts)).view_as(x)


def kept_finite(x):
    return x.clamp(-LIMIT, LIMIT) if torch.isinf(x).any() else x


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("way", [own_array, own_expert, own_in_order, kept_finite])
def test_what_is_unknown_but_keeps_tokens_apart_is_not_listed(way, where):
    assert not listed(way, where)


def test_tokens_in_a_table_are_followed_to_where_they_are_looked_up():
    order = torch.arange(TOKENS).roll(1)
    names = listed(lambda x: x + nn.functional.embedding(order, x[0]), "around")
    assert names == {"Behind"}


@pytest.mark.parametrize("shape", [(TOKENS, WIDTH), (2, TOKENS, WIDTH)], ids=["plain", "samples"])
@pytest.mark.parametrize("samples", [1, 2])
def test_a_token_that_is_sent_to_a_sequence_with_or_without_samples(samples, shape):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.of_other = Attention(), nn.Linear(WIDTH, WIDTH)

        def forward(self, x, other):
            return x + self.attention(x), self.of_other(other) + x[0, 3]

    model = drawn(Two())
    found = dsf.inspect(model, tokens(samples, 7, WIDTH), tokens(*shape), probe=())
    assert {one.name for one in found.unsupported} == {"Two"}


@pytest.mark.parametrize("keeps", [False, True])
def test_what_a_thread_sends_into_the_values_of_another_sequence_is_listed(keeps):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.enter = Attention(), nn.Linear(WIDTH, WIDTH)

        def forward(self, x, other):
            made = []
            pooled = threading.Thread(target=lambda: made.append(other.mean(1, keepdim=True)))
            pooled.start()
            pooled.join()
            x = self.enter(x) * made[0].sigmoid()
            return self.attention(x) + x if keeps else self.attention(x)

    found = dsf.inspect(drawn(Two()), tokens(2, 7, WIDTH), tokens(2, 9, WIDTH, seed=3), probe=())
    assert [one.name for one in found.unsupported] == ["Two"]


@pytest.mark.parametrize("fault", [NameError, AttributeError, TypeError])
@pytest.mark.parametrize("name", ["moved_between", "Repetition.compare", "with_other_tokens"])
def test_a_fault_of_the_inspection_is_called_one_and_ends_nothing(name, fault, monkeypatch):
    def wrong(*_given, **_named):
        raise fault("ours")

    monkeypatch.setattr(f"{replay.__name__}.{name}", wrong)
    wrong.__code__ = wrong.__code__.replace(co_filename=replay.__file__)
    model = drawn(Behind(lambda x: x + x.flip(1), "inside"))
    found = dsf.inspect(model, tokens(2, TOKENS, WIDTH), probe=())
    assert {one.name for one in found.unsupported} == {"attention"}
    said = f"a mistake of dsf itself, please report it: {fault.__name__}: ours"
    assert said in found.unsupported[0].reason


OPERATIONS = torch.library.Library("dsf_any_code", "DEF")
LEFT = {}


def _leave(x):
    LEFT["mean"] = x.mean(1, keepdim=True)
    return x * 1.0


OPERATIONS.define("leave(Tensor x) -> Tensor")
OPERATIONS.define("take(Tensor x) -> Tensor")
OPERATIONS.define("attend(Tensor q, Tensor k, Tensor v) -> Tensor")
OPERATIONS.impl("leave", _leave, "CompositeExplicitAutograd")
OPERATIONS.impl("take", lambda x: x + LEFT["mean"], "CompositeExplicitAutograd")
OPERATIONS.impl("attend", lambda q, k, v: (q @ k.mT).softmax(-1) @ v, "CompositeExplicitAutograd")


class OfOperations(nn.Module):
    """An attention, between whose operations a mean of its queries goes past torch."""

    def __init__(self, attend, *, leaves=True):
        super().__init__()
        self.attend, self.leaves = attend, leaves
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x):
        q, k, v = self.q(x), self.k(x), self.v(x)
        if not self.leaves:
            return self.attend(q, k, v)
        torch.ops.dsf_any_code.leave(q)
        return torch.ops.dsf_any_code.take(self.attend(q, k, v))


@pytest.mark.parametrize(
    "attend",
    [
        torch.ops.dsf_any_code.attend,
        lambda q, k, v: (q @ k.mT).softmax(-1) @ v,
        lambda q, k, v: q @ (k.mT @ v) / TOKENS,
    ],
    ids=["operation", "softmax", "linear"],
)
def test_what_operations_of_others_keep_between_them_is_in_no_map(attend):
    model = drawn(nn.Sequential(Attention(), OfOperations(attend)))
    found = dsf.inspect(model, tokens(2, TOKENS, WIDTH))
    assert {one.name for one in found.unsupported} == {"1"}
    assert not any(layer.is_exact for layer in found if layer.name == "1")


def test_operations_of_others_that_keep_nothing_are_probed():
    attend = torch.ops.dsf_any_code.attend
    layer = dsf.probe(drawn(OfOperations(attend, leaves=False)), tokens(2, TOKENS, WIDTH))
    assert layer.is_exact


@unheard()
def _sums_into(made, x):
    """As an extension in C++ writes into memory that torch filled for it."""
    made.numpy()[...] = np.cumsum(x.numpy(), axis=1)


@pytest.mark.parametrize("where", NAMES)
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "own softmax"])
@pytest.mark.parametrize(
    "make",
    [
        lambda x: torch.zeros(x.shape),
        torch.ones_like,
        lambda x: x.new_full(x.shape, 2.0),
        torch.empty_like,
    ],
    ids=["zeros", "ones", "full", "empty"],
)
def test_what_native_code_writes_into_filled_memory_is_listed(make, is_fused, where):
    def native(x):
        made = make(x)
        _sums_into(made, x)
        return made

    assert listed(native, where, is_fused=is_fused) & {NAMES[where], "Behind"}


def test_memory_that_stays_as_it_was_filled_is_a_constant():
    def of_constants(x):
        return x * torch.ones_like(x) + torch.zeros(x.shape[1:]) + torch.full((1,), 3.0)

    assert not listed(of_constants, "module")


def _by_pointer(x):
    """Sums over tokens in code that is given the places of the numbers alone."""
    found = torch.empty(x.shape)
    whole = ctypes.c_float * x.numel()
    given, made = (whole.from_address(one.data_ptr()) for one in (x.contiguous(), found))
    numbers = np.frombuffer(given, dtype=np.float32).reshape(x.shape)
    np.frombuffer(made, dtype=np.float32).reshape(x.shape)[...] = numbers.cumsum(1)
    return found


def _by_object(x):
    return [copy.copy(one).tolist() for one in x]


@pytest.mark.parametrize(
    "way",
    [
        _by_pointer,
        lambda x: torch.tensor(_by_object(x)).cumsum(1),
        lambda x: by_thread(x, ((0, 1), (0, 3))) - x,
    ],
    ids=["pointer", "lists", "thread"],
)
def test_a_model_of_which_nothing_was_followed_is_never_said_to_keep_tokens_apart(way):
    with pytest.raises(
        NothingCapturedError, match=r"looks? like token mixers|mixes tokens \("
    ) as no:
        dsf.inspect(Applied(way), tokens(2, TOKENS, WIDTH), probe=())
    assert "No module of it mixes tokens" not in str(no.value)


def of_sums(x):
    return x.cumsum(1).tanh()


class Forces(nn.Module):
    """Differentiates an energy of all pairs by what it is given, as a force field does."""

    def __init__(self):
        super().__init__()
        self.energy = nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, places):
        with torch.enable_grad():
            apart = (places[:, :, None] - places[:, None] + 1e-6).norm(dim=-1, keepdim=True)
            return -torch.autograd.grad(self.energy(apart).sum(), places)[0]


class Within(nn.Module):
    def __init__(self, enter):
        super().__init__()
        self.enter, self.forces, self.attention = enter, Forces(), Attention()

    def forward(self, given):
        places = self.enter(given)
        return self.attention(self.forces(places).repeat_interleave(WIDTH // 3 + 1, -1)[..., :16])


@pytest.mark.parametrize(
    ("wrapped", "enter"),
    [
        (lambda x: x, lambda x: x),
        (lambda x: [x], lambda given: given[0]),
        (lambda x: types.SimpleNamespace(places=x), lambda given: given.places),
    ],
    ids=["tensor", "list", "object"],
)
def test_a_model_may_differentiate_by_what_it_is_given(wrapped, enter):
    given = wrapped(tokens(2, TOKENS, 3).requires_grad_())
    found = dsf.inspect(drawn(Within(enter)), given, probe=())
    (missed,) = (one for one in found.unsupported if one.name == "forces")
    assert "it mixes tokens" in missed.reason
    assert "cannot be repeated" not in missed.reason


@pytest.mark.parametrize(("function", "names"), [(of_sums, {"1"}), (torch.tanh, set())])
def test_derivatives_along_a_direction_are_followed(function, names):
    class Along(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            one = torch.ones_like(x)
            return torch.func.jvp(lambda x: function(self.inner(x)), (x,), (one,))[1]

    model = drawn(nn.Sequential(Attention(), Along()))
    found = dsf.inspect(model, tokens(2, TOKENS, WIDTH), probe=())
    assert {one.name for one in found.unsupported} == names


@pytest.mark.parametrize("fault", [NameError, KeyError, RuntimeError, TypeError])
def test_a_fault_of_the_model_where_it_runs_again_is_listed(fault):
    runs = itertools.count()  # which nobody can set back

    def once(x):
        if next(runs):
            raise fault("theirs")
        return x + x.flip(1)

    found = dsf.inspect(drawn(Behind(once, "inside")), tokens(2, TOKENS, WIDTH), probe=())
    assert {one.name for one in found.unsupported} == {"attention"}
    assert "theirs" in found.unsupported[0].reason


def by_solving(x):
    matrix = torch.full((x.shape[1], x.shape[1]), 0.3, dtype=x.dtype).tril()
    return torch.linalg.solve_triangular(matrix + torch.eye(len(matrix)).to(x), x, upper=False)


def by_sampling(x):
    places = torch.linspace(-0.7, 0.7, x.shape[1]).to(x)
    grid = torch.stack([torch.zeros_like(places), places], dim=-1).expand(len(x), -1, -1)
    return nn.functional.grid_sample(x.mT[..., None], grid[:, :, None], align_corners=True)[
        ..., 0
    ].mT


@pytest.mark.parametrize("samples", [2, TOKENS])
@pytest.mark.parametrize("mix", [by_solving, by_sampling])
def test_an_unknown_operation_keeps_samples_apart(mix, samples):
    class Unknown(nn.Module):
        def __init__(self):
            super().__init__()
            self.value, self.out = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

        def forward(self, x):
            return self.out(mix(self.value(x)))

    (layer,) = dsf.inspect(drawn(Unknown()), tokens(samples, TOKENS, WIDTH))
    expected = mix(torch.eye(TOKENS).double().expand(samples, -1, -1))
    assert layer.is_exact
    torch.testing.assert_close(layer.map()[:, 0], expected)
    assert layer.row_tokens.unique().tolist() == [*range(TOKENS)]


@torch.library.custom_op("any_code::by_rows", mutates_args=())
def by_rows(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x @ (weight.to(x) * scale.to(x)).mT


@torch.library.custom_op("any_code::by_codes", mutates_args=())
def by_codes(x: torch.Tensor, codes: torch.Tensor, book: torch.Tensor) -> torch.Tensor:
    return x @ book.to(x)[codes.long() + 127].mT


@torch.library.custom_op("any_code::by_largest", mutates_args=())
def by_largest(x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    step = x.abs().max() / 127
    return (x / step).round() @ (weight.to(x) * scale.to(x)).mT * step


class Packed(nn.Module):
    """A linear map of whole numbers, in one operation that nobody knows."""

    def __init__(self, run):
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.run = run
        whole = torch.randint(-127, 127, (WIDTH, WIDTH), generator=rng, dtype=torch.int8)
        self.register_buffer("whole", whole)
        count = 254 if run is by_codes else 1
        self.register_buffer("scale", torch.randn(count, generator=rng) / 300)

    def forward(self, x):
        return self.run(x, self.whole, self.scale)


def packed(run):
    model = drawn(Attention(width=WIDTH))
    for name in ("q", "k", "v", "o"):
        setattr(model, name, Packed(run))
    return nn.Sequential(model)


@pytest.mark.parametrize("run", [by_rows, by_codes])
def test_packed_weights_that_nobody_knows_keep_tokens_apart_where_these_are_named(run):
    x = tokens(2, TOKENS, WIDTH)
    inspection = dsf.inspect(packed(run), x, tokens=1)
    assert not inspection.unsupported
    (layer,) = inspection
    assert layer.is_exact
    unnamed = dsf.inspect(packed(run), x, probe=())
    assert any("pass tokens=" in one.reason for one in unnamed.unsupported)


def test_steps_as_large_as_the_largest_of_all_tokens_mix_these():
    x = tokens(2, TOKENS, WIDTH)
    inspection = dsf.inspect(packed(by_largest), x, tokens=1, probe=())
    assert {one.name for one in inspection.unsupported} >= {"0.q", "0.k", "0.v", "0.o"}
