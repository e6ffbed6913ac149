"""Statistics of exponentials of scores, found without the map: the same as those of the map."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

import dsf
from dsf import measures
from dsf.measures.score_pass import scores_of
from dsf.mixers import ForgettingAttention, PathAttention, SoftmaxAttention
from tests.drawn import Drawer

MEASURES = (
    measures.absolute_gain,
    measures.convexity_defect,
    measures.mean_distance,
    measures.negative_share,
    measures.row_entropy,
    measures.row_norms,
    partial(measures.sink_mass, token=2),
    measures.smallest_entry,
    partial(measures.window_mass, width=3),
    partial(measures.window_mass, width=100),
)


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Loops take the smallest work, too."""
    monkeypatch.setattr("dsf.systems.kernels.availability.WORTH", 0)


def attention(steps, *, read=None, dtype=torch.float64, **given):
    drawer, read = Drawer(4, dtype=dtype), read or steps
    parts = [2 * drawer.tensor(2, 3, size, 4) for size in (steps, read, read)]
    return SoftmaxAttention(query=parts[0], key=parts[1], value=parts[2], **given)


def hidden(steps, width):
    """Minus infinity outside a window, and for all that the fourth token could read."""
    token = torch.arange(steps)
    far = (token[:, None] - token >= width) | (token[:, None] == 3)
    return torch.zeros(steps, steps, dtype=torch.float64).masked_fill(far, -torch.inf)


def grouped(steps):
    """Three queries share one key."""
    plain = attention(steps)
    return replace(plain, key=plain.key[:, :1].expand(2, 3, steps, 4))


def drawn(cls, steps):
    return cls.draw(torch.Generator().manual_seed(0), steps=steps)


CASES = {
    "short": lambda: attention(2),
    "a panel": lambda: attention(64),
    "panels": lambda: attention(130),
    "longer than a block": lambda: attention(600),
    "violent": lambda: attention(80, scale=200.0),
    "grouped": lambda: grouped(80),
    "window": lambda: attention(80, bias=hidden(80, 7).expand(2, 3, 80, 80)),
    "softcap": lambda: attention(80, softcap=1.5),
    "sink": lambda: attention(80, sink=torch.tensor([[-50.0, 0, 9], [1, 2, 900]]).double()),
    "every key": lambda: attention(80, causal=False),
    "other keys": lambda: attention(80, read=70, causal=False),
    "fading": lambda: drawn(ForgettingAttention, 80),
    "path": lambda: drawn(PathAttention, 80),
    "single precision": lambda: attention(600, dtype=torch.float32),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_scores_measure_like_the_map(case, monkeypatch):
    system = case().system()
    assert scores_of(system) is not None
    found = measures.streamed(system, *MEASURES).values
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        expected = measures.streamed(system, *MEASURES).values
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain, equal_nan=True)


def test_panels_of_any_size_give_the_same(monkeypatch):
    system = attention(100).system()
    expected = measures.streamed(system, *MEASURES).values
    monkeypatch.setattr("dsf.measures.score_pass.PANEL_ENTRIES", 700)
    for ours, other in zip(measures.streamed(system, *MEASURES).values, expected, strict=True):
        assert_close(ours, other, equal_nan=True)


def test_zero_is_lowest_where_something_is_ahead():
    """Of the rows of a panel only the last of the map has no zeros."""
    found = measures.streamed(attention(130).system(), _lowest).values[0]
    assert (found[..., :-1] == 0).all()
    assert (found[..., -1] > 0).all()


def _lowest(rows):
    from dsf.measures.passes import reduced
    from dsf.measures.row_reductions import lowest

    return reduced(rows, lowest("smallest_entry"), measure="smallest_entry")[0]


def test_nan_stays_where_it_is():
    mixer = attention(80)
    mixer.query[0, 0, 5] = torch.nan
    found = measures.row_entropy(mixer.system()).isnan()
    assert found[0, 0, 5]
    assert found.sum() == 1


def test_what_wants_gradients_or_is_no_softmax_takes_the_plain_path():
    mixer = attention(80)
    wants = replace(mixer, query=mixer.query.requires_grad_())
    assert scores_of(wants.system()) is None
    measures.row_entropy(wants.system()).sum().backward()
    assert wants.query.grad.abs().sum() > 0
    system = attention(80).system()
    assert scores_of(replace(system, D=torch.ones(2, 3, 80, 1, 1).double())) is None
    assert scores_of(drawn(dsf.mixers.StickBreakingAttention, 80).system()) is None
