"""Ids that are looked up without ``nn.Embedding``, and look-ups by several tokens together."""

import pytest
import torch
from torch import nn
from torch.nn import functional

import dsf
from tests.any_code.modules import Attention, drawn

WORDS, WIDTH, TOKENS = 11, 8, 7
COUNTED = torch.arange(WORDS)


def _rows(table, ids):
    return table[ids]


def _selected(table, ids):
    return table.index_select(0, ids.flatten()).unflatten(0, ids.shape)


def _gathered(table, ids):
    places = ids.reshape(-1, 1).expand(-1, WIDTH)
    return table.gather(0, places).unflatten(0, ids.shape)


def _one_hot(table, ids):
    return functional.one_hot(ids, WORDS).to(table.dtype) @ table


def _compared(table, ids):
    return (ids[..., None] == COUNTED).to(table.dtype) @ table


def _written(table, ids):
    return torch.zeros(*ids.shape, WORDS).scatter(-1, ids[..., None], 1.0) @ table


def _renamed(table, ids):
    return table[COUNTED.flip(0)[ids]]


LOOK_UPS = [_rows, _selected, _gathered, _one_hot, _compared, _written, _renamed]


def before(ids):
    return functional.pad(ids, (1, 0))[:, :-1]


class Reader(nn.Module):
    def __init__(self, look_up, more):
        super().__init__()
        self.table = nn.Parameter(torch.empty(WORDS, WIDTH))
        self.pairs = nn.Parameter(torch.empty(WORDS, WORDS, WIDTH))
        self.given = nn.Linear(5, WIDTH)
        self.attention = Attention(width=WIDTH, heads=2)
        self.look_up, self.more = look_up, more

    def forward(self, ids, features=None):
        x = self.look_up(self.table, ids)
        if features is not None:
            x = x + self.given(features)[:, None]
        x = x + self.attention(x)
        return x + self.more(self, x, ids)


def nothing(_, x, __):
    return torch.zeros_like(x)


def totals(_, x, __):
    return torch.tanh(x.cumsum(1))


def pairs(model, _, ids):
    return model.pairs[before(ids), ids]


def hashed(model, _, ids):
    return model.table[(3 * ids + 5 * before(ids)) % WORDS]


def counted(model, _, ids):
    ones = torch.ones(ids.shape)
    return (torch.zeros(len(ids), WORDS).scatter_add(1, ids, ones) @ model.table)[:, None]


def summed(model, _, ids):
    return (functional.one_hot(ids, WORDS).float().sum(1) @ model.table)[:, None]


def hidden(_, x, ids):
    return x * (ids != 0)[..., None]


def placed(model, x, _):
    return model.pairs[0, torch.arange(x.shape[1])]


def sorted_ids(model, _, ids):
    return model.table[ids.sort(dim=1).values]


def inspected(look_up, more, *further):
    ids = torch.randint(WORDS, (2, TOKENS), generator=torch.Generator().manual_seed(1))
    return dsf.inspect(drawn(Reader(look_up, more)), ids, *further)


FEATURES = torch.randn(2, 5, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("further", [(), (FEATURES,)], ids=["alone", "beside features"])
@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_an_attention_over_what_is_looked_up_is_exact(look_up, further):
    found = inspected(look_up, nothing, *further)
    assert [(layer.name, layer.is_exact) for layer in found] == [("attention", True)]
    assert found.unsupported == ()
    assert found[0].columns == "token"


def _filled(ids, where):
    return ids.masked_fill(where, 0)


def _put(ids, where):
    ids = ids.clone()
    ids[where] = 0
    return ids


def _put_at_places(ids, where):
    ids = ids.clone()
    ids[where.nonzero(as_tuple=True)] = torch.tensor(1)
    return ids


def _halved(ids, where):
    ids = ids.clone()
    ids[where] //= 2
    return ids


WRITES = [_filled, _put, _put_at_places, _halved]
"""Ids in whose place others are looked up, as in models of texts and images."""


@pytest.mark.parametrize("further", [(), (FEATURES,)], ids=["alone", "beside features"])
@pytest.mark.parametrize("write", WRITES)
def test_ids_that_are_exchanged_where_they_are_special(write, further):
    found = inspected(lambda table, ids: table[write(ids, ids > 4)], nothing, *further)
    assert [(layer.name, layer.is_exact) for layer in found] == [("attention", True)]
    assert found.unsupported == ()


@pytest.mark.parametrize("write", WRITES)
def test_ids_that_are_exchanged_because_of_those_before(write):
    found = inspected(lambda table, ids: table[write(ids, before(ids) > 4)], nothing)
    assert "Reader" in {one.name for one in found.unsupported}


@pytest.mark.parametrize("further", [(), (FEATURES,)], ids=["alone", "beside features"])
@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_what_the_code_around_it_mixes_is_listed(look_up, further):
    found = inspected(look_up, totals, *further)
    assert found[0].is_exact
    assert [one.name for one in found.unsupported] == ["Reader"]


def by_lists(model, _, ids):
    totals = [[sum(row[: k + 1]) for k in range(TOKENS)] for row in ids.tolist()]
    return model.table[torch.tensor(totals) % WORDS]


@pytest.mark.parametrize("look_up", LOOK_UPS)
def test_what_is_done_to_ids_past_torch_is_listed_beside_features(look_up):
    found = inspected(look_up, by_lists, FEATURES)
    assert [one.name for one in found.unsupported] == ["Reader"]


@pytest.mark.parametrize("more", [pairs, hashed, counted, summed, sorted_ids])
def test_a_look_up_by_several_tokens_mixes_them(more):
    assert [one.name for one in inspected(_rows, more).unsupported] == ["Reader"]


@pytest.mark.parametrize("more", [hidden, placed])
def test_masks_of_ids_and_tables_of_places_mix_nothing(more):
    assert inspected(_rows, more).unsupported == ()


def _one_of_two(table, ids):
    return torch.where((ids == 3)[..., None], table[0], table[1])


def _in_order(table, ids):
    return table[ids.sort(dim=1).values]


@pytest.mark.parametrize("further", [(), (FEATURES,)], ids=["alone", "beside features"])
@pytest.mark.parametrize("look_up", [_one_of_two, _in_order])
@pytest.mark.parametrize("more", [nothing, totals])
def test_tokens_that_are_not_followed_are_not_silent(more, look_up, further):
    found = inspected(look_up, more, *further)
    assert "Reader" in {one.name for one in found.unsupported}
