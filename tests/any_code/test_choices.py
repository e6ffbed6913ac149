"""Tokens that decide about one another: by comparing, by ordering, by numbers out of torch."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import dsf
from dsf.inspection import NothingCapturedError
from tests.any_code.modules import Attention, drawn, merged, tokens

WIDTH = 16
STEPS = 7


def of_former(x):
    """A truth value for every token, decided by the token before it."""
    return x[..., :1].roll(1, 1) > 0


def by_mask(x):
    return x * of_former(x).float()


def by_where(x):
    return torch.where(of_former(x), x, -x)


def by_filling(x):
    return x.masked_fill(of_former(x), 0)


def by_writing(x):
    y = x.clone()
    y[of_former(x)[..., 0]] = 0
    return y


def by_written_mask(x):
    mask = torch.zeros(x.shape[:2], dtype=torch.bool)
    mask[:, 1:] = x[:, :-1, 0] > 0
    return torch.where(mask.unsqueeze(-1), x, 0.5 * x)


def by_counting(x):
    return x * (x[..., :1] > 0).long().cumsum(1)


def by_largest(x):
    return x + x[torch.arange(len(x)), x[..., 0].argmax(1)].unsqueeze(1)


def by_order(x):
    order = x[..., 0].argsort(1)
    ranks = torch.arange(x.shape[1]).expand_as(order)
    return x * torch.zeros_like(order).scatter(1, order, ranks).unsqueeze(-1)


def by_chosen_tokens(x):
    weight, chosen = x[..., 0].softmax(1).topk(3, dim=1)
    places = chosen.unsqueeze(-1).expand(-1, -1, x.shape[-1])
    return torch.zeros_like(x).scatter(1, places, weight.unsqueeze(-1) * x.gather(1, places))


TABLE = torch.tensor([0.5, 1.0, 2.0])


def by_table(x):
    return x * TABLE[(x[..., :1] > 0).long().roll(1, 1)]


def by_number(x):
    return x / x.abs().max().item()


def by_branch(x):
    return 2 * x if x[:, 0].sum() > 0 else -x


def by_list(x):
    rows = []
    for row in x.detach()[..., 0].tolist():
        state, states = 0.0, []
        for value in row:
            state = 0.9 * state + value
            states.append(state)
        rows.append(states)
    return x + torch.tensor(rows).unsqueeze(-1)


def by_array(x):
    return x + torch.from_numpy(np.cumsum(x.detach().numpy(), axis=1))


def by_array_protocol(x):
    return x + torch.tensor(np.asarray(x.detach()).cumsum(axis=1))


CHOICES = [
    *(by_mask, by_where, by_filling, by_writing, by_written_mask, by_counting, by_largest),
    *(by_order, by_chosen_tokens, by_table, by_number, by_branch, by_list, by_array),
    by_array_protocol,
]


class Chooses(nn.Module):
    def __init__(self, choice):
        super().__init__()
        self.choice = choice

    def forward(self, x):
        return self.choice(x)


class Beside(nn.Module):
    """An attention that is read, and something else."""

    def __init__(self, other):
        super().__init__()
        self.attention, self.other = Attention(), other

    def forward(self, x):
        return x + self.attention(x) + self.other(x)


@pytest.mark.parametrize("choice", CHOICES)
def test_tokens_that_decide_about_others_are_no_silence(choice):
    inspection = dsf.inspect(drawn(Beside(Chooses(choice))), tokens(2, STEPS, WIDTH))
    assert inspection["attention"].is_exact
    told = {layer.name for layer in inspection} | {one.name for one in inspection.unsupported}
    assert "other" in told


@pytest.mark.parametrize("choice", [by_number, by_branch, by_largest, by_mask, by_array])
def test_alone_they_are_listed_by_how_they_decide(choice):
    with pytest.raises(NothingCapturedError, match="it mixes tokens"):
        dsf.inspect(Chooses(choice).eval(), tokens(2, STEPS, WIDTH), probe=())


def own_mask(x):
    return x * (x[..., :1] > 0).float()


def own_order(x):
    """Channels, and not tokens, are sorted."""
    values, order = x.sort(dim=-1)
    return values.gather(-1, order.argsort(dim=-1)) + values


def own_expert(x):
    """Every token chooses one of two experts for itself."""
    chosen, y = x[..., :2].argmax(-1), torch.zeros_like(x)
    for k in range(2):
        y[chosen == k] = (k + 2) * x[chosen == k]
    return y


def own_table(x):
    return x * TABLE[(x[..., :1] > 0).long()]


def guarded(x):
    """A number is only looked at."""
    return x if not torch.isnan(x).any() else torch.zeros_like(x)


@pytest.mark.parametrize("choice", [own_mask, own_order, own_expert, own_table, guarded])
def test_tokens_that_decide_about_themselves_alone_are_not_listed(choice):
    inspection = dsf.inspect(drawn(Beside(Chooses(choice))), tokens(2, STEPS, WIDTH))
    assert [layer.name for layer in inspection] == ["attention"]
    assert not inspection.unsupported


class DeltaRule(Attention):
    """A delta rule in a loop: no sum over tokens, no map, and states of one token at first."""

    def forward(self, x):
        q, k, v = self.parts(x)
        k = functional.normalize(k, dim=-1)
        state, responses = torch.zeros(*k.shape[:2], k.shape[-1], v.shape[-1]), []
        for t in range(k.shape[2]):
            key = k[:, :, t].unsqueeze(-1)
            read = (state.mT @ key).squeeze(-1)
            state = state + key * (v[:, :, t] - read).unsqueeze(-2)
            responses.append((state.mT @ q[:, :, t].unsqueeze(-1)).squeeze(-1))
        return self.o(merged(torch.stack(responses, dim=2)))

    def map_by_formula(self, x):
        q, k, _ = (part.double() for part in self.parts(x))
        k = functional.normalize(k, dim=-1)
        rows, steps = torch.zeros(*q.shape[:2], q.shape[2], q.shape[2], dtype=q.dtype), q.shape[2]
        writes = torch.zeros(*q.shape[:2], q.shape[-1], steps, dtype=q.dtype)
        for t in range(steps):
            key = k[:, :, t].unsqueeze(-1)
            writes = writes - key @ (key.mT @ writes)
            writes[..., t] = k[:, :, t]
            rows[:, :, t] = (q[:, :, t].unsqueeze(-2) @ writes).squeeze(-2)
        return rows


def test_a_delta_rule_in_a_loop_is_followed():
    module, x = drawn(DeltaRule()), tokens(2, STEPS, WIDTH)
    (layer,) = dsf.inspect(module, x)
    assert layer.is_exact
    torch.testing.assert_close(
        layer.map(), module.map_by_formula(x), atol=1e-6, rtol=0, check_dtype=False
    )


class WeighedOneByOne(Attention):
    """Scores by a product, values weighed element by element, token by token."""

    def forward(self, x):
        q, k, v = self.parts(x)
        rows = []
        for t in range(q.shape[2]):
            scores = (q[:, :, t : t + 1] @ k[:, :, : t + 1].mT).exp()
            rows.append((scores.mT * v[:, :, : t + 1]).sum(2) / scores.sum(-1))
        return self.o(merged(torch.stack(rows, dim=2)))


def test_values_that_are_weighed_one_by_one_are_found():
    inspection = dsf.inspect(drawn(Beside(WeighedOneByOne())), tokens(2, STEPS, WIDTH))
    told = {layer.name for layer in inspection} | {one.name for one in inspection.unsupported}
    assert "other" in told


class Hashed(nn.Module):
    """Sums in an order that the tokens decide, as where they are sorted by a hash."""

    def __init__(self):
        super().__init__()
        self.value, self.key = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 1)

    def forward(self, x):
        order = self.key(x).argsort(1).expand_as(x)
        sums = self.value(x).gather(1, order).cumsum(1)
        return torch.zeros_like(sums).scatter(1, order, sums)


class Ranked(nn.Module):
    def forward(self, x):
        return x * x.argsort(1).argsort(1).to(x)


@pytest.mark.parametrize("kind", [Hashed, Ranked])
def test_a_probed_map_says_which_choices_are_those_of_the_run(kind):
    layer = dsf.probe(drawn(kind()), tokens(2, STEPS, WIDTH))
    assert "'sort' orders tokens" in layer.mixer.label


EXPERTS, CHOSEN = 3, 2


class Router(nn.Module):
    """Tokens in the order of their experts, how many each expert has, and their gates."""

    def __init__(self):
        super().__init__()
        self.scores = nn.Linear(WIDTH, EXPERTS, bias=False)

    def forward(self, x):
        best, chosen = self.scores(x).topk(CHOSEN, dim=1)
        counts = torch.zeros(len(x), EXPERTS).scatter(1, chosen, 1).long().sum(0).tolist()
        order = chosen.flatten().sort(0).indices
        return order // CHOSEN, best.softmax(dim=1).flatten()[order], counts


class SortedExperts(nn.Module):
    """A mixture of experts on tokens that a router sorts by expert; some may leave tokens out."""

    def __init__(self, most=None):
        super().__init__()
        self.router, self.most = Router(), most
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(EXPERTS))

    def forward(self, x):
        flat = x.reshape(-1, WIDTH)
        place, gate, counts = self.router(flat)
        parts = zip(self.experts, flat[place].split(counts), strict=True)
        made = torch.cat([self.kept(expert(part)) for expert, part in parts]) * gate[:, None]
        return torch.zeros_like(flat).index_add(0, place, made).view_as(x)

    def kept(self, made):
        return made if self.most is None else torch.cat([made[: self.most], 0 * made[self.most :]])


class Blocks(nn.Module):
    def __init__(self, *experts):
        super().__init__()
        self.attentions = nn.ModuleList(Attention() for _ in experts)
        self.experts = nn.ModuleList(experts)

    def forward(self, x):
        for attention, experts in zip(self.attentions, self.experts, strict=True):
            x = x + attention(x)
            x = x + experts(x)
        return x


def test_a_router_whose_tokens_come_back_in_their_places_is_not_listed():
    model = drawn(Blocks(SortedExperts(), SortedExperts()))
    inspection = dsf.inspect(model, tokens(2, STEPS, WIDTH))
    assert [layer.name for layer in inspection] == ["attentions.0", "attentions.1"]
    assert all(layer.is_exact for layer in inspection)
    assert not inspection.unsupported
    answers = {row["module"]: row["answer"] for row in inspection.checks}
    assert answers["experts.0.router"] == "keeps tokens apart"


def test_experts_that_leave_tokens_out_are_listed():
    model = drawn(Blocks(SortedExperts(), SortedExperts(most=2)))
    inspection = dsf.inspect(model, tokens(2, STEPS, WIDTH))
    listed = {one.name for one in inspection.unsupported}
    assert "experts.1" in listed
    assert not {"experts.0", "experts.0.router"} & listed


class Patches(nn.Module):
    """Words that are joined to patches where one stands out, as many as there are such words.

    With other words there are other patches, so that no attention among them can be held.
    """

    def __init__(self):
        super().__init__()
        self.embed, self.score = nn.Embedding(20, WIDTH), nn.Linear(WIDTH, 1)
        self.inner = Attention()

    def forward(self, words):
        x = self.embed(words)
        scores = self.score(x)[..., 0]
        place = (scores > scores.mean()).long().cumsum(1)
        sums = torch.zeros(len(x), int(place.max()) + 1, WIDTH)
        sums = sums.scatter_add(1, place[..., None].expand_as(x), x)
        sums = sums + self.inner(sums)
        return x + sums.gather(1, place[..., None].expand_as(x))


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("seed", range(2))
def test_words_that_choose_how_many_patches_they_make_are_listed(samples, seed):
    rng = torch.Generator().manual_seed(seed)
    words = torch.randint(20, (samples, STEPS + 5), generator=rng)
    inspection = dsf.inspect(drawn(Patches()), words)
    assert "Patches" in {one.name for one in inspection.unsupported}
