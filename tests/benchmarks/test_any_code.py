"""The judge of foreign models finds wrong maps and missed mixers, and the page counts outcomes."""

import dataclasses

import pytest
import torch
from torch import nn

from benchmarks.any_code.models.entry import Model, given
from benchmarks.any_code.oracle import Claim, Subject, judged
from benchmarks.any_code.page import page
from benchmarks.any_code.tape import Tape, places

WIDTH, TOKENS = 8, 6


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, x):
        q, k, v = (
            part(x).unflatten(-1, (2, 4)).transpose(1, 2) for part in (self.q, self.k, self.v)
        )
        self.seen = (q @ k.mT).softmax(dim=-1), v
        return self.o((self.seen[0] @ v).transpose(1, 2).flatten(2))

    def in_heads(self, x):
        return x.unflatten(-1, (2, 4)).transpose(1, 2)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = Attention()
        self.local = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x):
        x = x + self.attention(x)
        return x + self.local(x.mT).mT


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    x = torch.randn(2, TOKENS, WIDTH)
    entry = Model(package="ours", name="block", build=Block, inputs=given(x))
    return Subject(entry, Block().eval(), (x,), {})


@pytest.fixture(scope="module")
def claim(subject):
    subject.run()
    weights, values = subject.model.attention.seen
    return Claim(
        name="attention",
        path="attention",
        values=values.double(),
        map=weights.double(),
        axes=("sample", "head"),
        is_exact=True,
        has_tokens=True,
    )


def test_a_right_map_and_a_listed_convolution_are_accepted(subject, claim):
    found = judged(subject, [claim], ["local"])
    assert (found.right, found.wrong, found.missed) == (["attention"], {}, [])


def test_a_response_that_is_added_in_place_can_be_held():
    x, sent = torch.ones(3), torch.ones(3)
    with Tape(watched={1}, held={1: {0: torch.zeros(3)}}):
        y = x * 2
        y += sent
    assert torch.equal(y, torch.zeros(3))


def test_a_mixer_that_is_not_named_is_missed(subject, claim):
    assert judged(subject, [claim], []).missed == ["in local"]


def test_a_mixer_before_another_that_was_read_is_missed(subject):
    assert judged(subject, [], ["local"]).missed == ["before attention.o"]


def test_a_map_with_one_wrong_entry_everywhere_is_wrong(subject, claim):
    response = claim.map @ claim.values
    first = claim.values[..., :1, :]
    wrong = claim.map.clone()
    wrong[..., 0] += 0.05
    # The response stays what it is in this run: only a replaced value shows the difference.
    hidden = torch.linalg.lstsq(claim.values.mT, -0.05 * first.mT).solution.mT
    wrong += hidden
    torch.testing.assert_close(wrong @ claim.values, response)
    found = judged(subject, [dataclasses.replace(claim, map=wrong)], ["local"])
    assert "is off by" in found.wrong["attention"]


def test_maps_of_samples_called_heads_are_wrong(subject, claim):
    turned = dataclasses.replace(
        claim, map=claim.map.transpose(0, 1), values=claim.values.transpose(0, 1)
    )
    assert "columns of several samples" in judged(subject, [turned], ["local"]).wrong["attention"]


def test_a_map_of_channels_called_tokens_is_wrong():
    class Channels(nn.Module):
        def forward(self, x):
            self.seen = (x.mT @ x).softmax(dim=-1), x.mT
            return (self.seen[0] @ self.seen[1]).mT

    x = torch.randn(2, TOKENS, WIDTH, generator=torch.Generator().manual_seed(0))
    model = Channels()
    entry = Model(package="ours", name="channels", build=Channels, inputs=given(x))
    subject = Subject(entry, model, (x,), {})
    subject.run()
    weights, values = model.seen
    claim = Claim("", "", values, weights, ("sample",), is_exact=True, has_tokens=True)
    assert judged(subject, [claim], []).wrong == {"": "two tokens are in one column"}


def test_numbers_are_found_in_any_order_and_not_among_others():
    rng = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 4, 5, generator=rng)
    there = places(numbers, numbers.permute(2, 0, 1))
    assert torch.equal(numbers.permute(2, 0, 1).flatten()[there.index], numbers.flatten())
    assert places(numbers, numbers + 1e-2) is None
    assert places(numbers[:2], numbers) is None


def test_the_page_counts_outcomes():
    read = {"package": "a", "version": "1", "model": "m", "outcome": "read", "exact": 2, "right": 1}
    refused = {"package": "b", "model": "n", "outcome": "refused", "reason": "it | mixes"}
    text = page([read, refused])
    assert "2 models of 2 packages; 1 (50%)" in text
    assert "- it / mixes" in text
