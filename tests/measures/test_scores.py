"""Statistics of exponentials of scores: those of compiled loops are those of torch."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.testing import assert_close

from dsf import measures
from dsf.mixers import ForgettingAttention, PathAttention, SoftmaxAttention
from dsf.systems.composite import ExponentialRows
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
    monkeypatch.setattr("dsf.systems.kernels.WORTH", 0)


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
    found = measures.streamed(system, *MEASURES).values
    with monkeypatch.context() as off:
        off.setenv("DSF_KERNELS", "0")
        expected = measures.streamed(system, *MEASURES).values
    for ours, plain in zip(found, expected, strict=True):
        assert_close(ours, plain, equal_nan=True)


@pytest.mark.parametrize("causal", [True, False])
def test_blocks_of_rows_hold_few_entries_whatever_the_batch(causal, monkeypatch):
    """Rows of all maps of the batch are formed together, so fewer of them for many maps."""
    system = attention(100, causal=causal).system()
    expected = measures.streamed(system, *MEASURES).values
    monkeypatch.setattr("dsf.measures.fold.ENTRIES", 6 * 100 * 7)
    asked, window = [], ExponentialRows.window
    monkeypatch.setattr(
        ExponentialRows, "window", lambda rows, *span: asked.append(span) or window(rows, *span)
    )
    found = measures.streamed(system, *MEASURES).values
    assert len(asked) == 15
    assert all(stop - start <= 7 for start, stop in asked)
    for ours, other in zip(found, expected, strict=True):
        assert_close(ours, other, equal_nan=True)


def test_zero_is_lowest_where_something_is_ahead():
    """Of the rows of a panel only the last of the map has no zeros."""
    found = measures.streamed(attention(130).system(), _lowest).values[0]
    assert (found[..., :-1] == 0).all()
    assert (found[..., -1] > 0).all()


def _lowest(rows):
    from dsf.measures.fold import LOWEST
    from dsf.measures.passes import reduced

    return reduced(rows, LOWEST)[0]


def test_nan_stays_where_it_is():
    mixer = attention(80)
    mixer.query[0, 0, 5] = torch.nan
    found = measures.row_entropy(mixer.system()).isnan()
    assert found[0, 0, 5]
    assert found.sum() == 1


def test_what_wants_gradients_takes_the_plain_path():
    mixer = attention(80)
    wants = replace(mixer, query=mixer.query.requires_grad_())
    measures.row_entropy(wants.system()).sum().backward()
    assert wants.query.grad.abs().sum() > 0
