"""One token out of all is sent to others, beside an attention: whichever it is, that is found."""

import pytest
import torch
from torch import nn

import dsf
from tests.any_code import modules
from tests.any_code.modules import WIDTH, drawn, tokens


class Sending(modules.Attention):
    """Attention, and one token added to every other."""

    def __init__(self, place):
        super().__init__()
        self.place = place

    def forward(self, x):
        return super().forward(x) + x[:, self.place, None]


class Around(nn.Module):
    """The same outside of the attention."""

    def __init__(self, place):
        super().__init__()
        self.inner, self.place = modules.Attention(), place

    def forward(self, x):
        return x + self.inner(x) + x[:, self.place, None]


class ByMatrix(Around):
    """The same by a matrix that is zero but for one column."""

    def forward(self, x):
        matrix = torch.zeros(x.shape[1], x.shape[1])
        matrix[:, self.place] = 1
        return x + self.inner(x) + matrix @ x


KINDS = {Sending: "a part", Around: "mixes tokens", ByMatrix: "mixes tokens"}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("place", [0, 1, WIDTH // 2 + 1, WIDTH - 1])
@pytest.mark.parametrize("samples", [1, 2 * WIDTH])
def test_a_token_that_alone_is_sent_is_found(kind, place, samples):
    model = drawn(kind(place))
    found = dsf.inspect(model, tokens(samples, WIDTH, WIDTH), probe=())
    first = next(iter(found.checks))
    assert (first["module"], first["answer"]) == (kind.__name__, KINDS[kind])
    assert kind.__name__ in {one.name for one in found.unsupported}


@pytest.mark.parametrize("place", [0, WIDTH - 1])
def test_what_was_sent_to_all_is_not_taken_for_them(place):
    """A second layer after the first is asked about the tokens themselves."""
    model = drawn(nn.Sequential(Sending(place), Sending(place)))
    found = dsf.inspect(model, tokens(), probe=())
    assert [record["answer"] for record in found.checks if record["module"] in "01"] == [
        "a part",
        "a part",
    ]
