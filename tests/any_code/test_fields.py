"""Ids with several fields for every token, such as the hour and the day of a time stamp."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code.modules import Attention, drawn

WORDS, WIDTH, TOKENS, FIELDS = 11, 8, 7, 3


def added(model, ids):
    hour, day, month = (table(ids[..., k]) for k, table in enumerate(model.tables))
    return hour + day + month


def unbound(model, ids):
    pairs = zip(model.tables, ids.unbind(-1), strict=True)
    return sum(table(one) for table, one in pairs)


def stacked(model, ids):
    return torch.stack([table(ids[..., k]) for k, table in enumerate(model.tables)]).mean(0)


def joined(model, ids):
    found = [table(ids[..., k]) for k, table in enumerate(model.tables)]
    return model.joining(torch.cat(found, dim=-1))


class Stamped(nn.Module):
    def __init__(self, look_up):
        super().__init__()
        self.look_up = look_up
        self.tables = nn.ModuleList(nn.Embedding(WORDS, WIDTH) for _ in range(FIELDS))
        self.joining = nn.Linear(FIELDS * WIDTH, WIDTH)
        self.features, self.attention = nn.Linear(5, WIDTH), Attention(width=WIDTH, heads=2)

    def forward(self, ids, features=None):
        x = self.look_up(self, ids)
        if features is not None:
            x = x + self.features(features)
        return x + self.attention(x)


class Rows(nn.Module):
    """Attention over the fields of a token, then over tokens; fields keep tables of their own."""

    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(WORDS, WIDTH) for _ in range(FIELDS))
        self.fields, self.rows = (Attention(width=WIDTH, heads=2) for _ in range(2))

    def forward(self, ids):
        found = [table(ids[..., k]) for k, table in enumerate(self.tables)]
        x = torch.stack(found, dim=2).flatten(0, 1)
        x = (x + self.fields(x)).unflatten(0, ids.shape[:2]).mean(2)
        return x + self.rows(x)


class Steps(nn.Module):
    """One table for all words of a sentence, looked up one by one and added up."""

    def __init__(self):
        super().__init__()
        self.table, self.attention = nn.Embedding(WORDS, WIDTH), Attention(width=WIDTH, heads=2)

    def forward(self, ids):
        x = sum(self.table(one).tanh() for one in ids.unbind(-1))
        return x + self.attention(x)


IDS = torch.randint(WORDS, (2, TOKENS, FIELDS), generator=torch.Generator().manual_seed(1))
FEATURES = torch.randn(2, TOKENS, 5, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("further", [(), (FEATURES,)], ids=["alone", "beside features"])
@pytest.mark.parametrize("look_up", [added, unbound, stacked, joined])
def test_fields_of_one_token_are_no_tokens(look_up, further):
    found = dsf.inspect(drawn(Stamped(look_up)), IDS, *further)
    assert found.unsupported == ()
    assert [(layer.name, layer.is_exact) for layer in found] == [("attention", True)]
    assert found[0].map().shape == (2, 2, TOKENS, TOKENS)
    assert found[0].columns == "token"


def test_fields_over_which_an_attention_mixes_are_tokens():
    found = dsf.inspect(drawn(Rows()), IDS)
    names = {layer.name for layer in found} | {one.name for one in found.unsupported}
    assert {"fields", "rows"} <= names


def test_words_that_one_table_holds_are_tokens():
    found = dsf.inspect(drawn(Steps()), IDS)
    assert [one.name for one in found.unsupported] == ["Steps"]
