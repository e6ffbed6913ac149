"""Attention rollout: products worked out by hand, and a plain loop over whole matrices."""

import numpy as np
import pytest
import torch

import dsf
from dsf.evaluate import row_blocks
from dsf.report.content import first_shares, magnitudes, next_shares
from dsf.systems import kernels as availability


@pytest.fixture(params=[0, availability.WORTH], ids=["compiled", "torch"], autouse=True)
def _both_ways(request, monkeypatch):
    monkeypatch.setattr(availability, "WORTH", request.param)


def rolled(systems, samples, *, size=3, starts=None):
    steps = systems[0].steps
    starts = np.arange(steps) if starts is None else starts
    shares = first_shares(len(set(samples)), steps, starts)
    for system in systems:
        blocks = row_blocks(system, size=size)
        shares = next_shares(shares, (magnitudes(rows, samples, read=steps) for rows in blocks))
    return shares


def of_scores(scores):
    """Softmax maps with these scores: a head for every matrix."""
    scores = torch.as_tensor(scores, dtype=torch.float64)
    nothing = torch.zeros(*scores.shape[:-1], 1, dtype=torch.float64)
    kind = dsf.mixers.SoftmaxAttention
    return kind(query=nothing, key=nothing, value=nothing + 1, bias=scores).system()


def test_two_layers_worked_out_by_hand():
    """The second token reads half of the first in one layer, all of it in the next."""
    even = of_scores([[[0.0, 0.0], [0.0, 0.0]]])
    first = of_scores([[[0.0, 0.0], [0.0, -np.inf]]])
    np.testing.assert_allclose(rolled([even], [0])[0], [[1, 0], [0.25, 0.75]])
    np.testing.assert_allclose(rolled([even, first], [0])[0], [[1, 0], [0.625, 0.375]])
    np.testing.assert_allclose(rolled([first, even], [0])[0], [[1, 0], [0.625, 0.375]])
    three = rolled([even, first, first], [0])[0]
    np.testing.assert_allclose(three, [[1, 0], [0.8125, 0.1875]])


def plain(layers):
    """Abnar and Zuidema's product with whole matrices, ``heads rows columns`` for each layer."""
    product = np.eye(layers[0].shape[-1])
    for maps in layers:
        mean = np.abs(maps).mean(axis=0)
        sums = mean.sum(axis=1)
        product = (0.5 * mean / sums[:, None] + 0.5 * np.eye(len(mean))) @ product
    return product


KINDS = ("SoftmaxAttention", "DeltaNet", "GatedDeltaNet", "ZeroSumAttention")


@pytest.mark.parametrize("steps", [1, 4, 9])
def test_it_is_the_product_of_whole_maps_whatever_their_signs(steps):
    rng = torch.Generator().manual_seed(0)
    systems = [getattr(dsf.mixers, name).draw(rng, steps=steps).system() for name in KINDS]
    batches = [tuple(system.batch) for system in systems]
    assert len(set(batches)) == 1
    samples = [place[0] for place in np.ndindex(*batches[0])]
    maps = [dsf.attention_map(system).numpy() for system in systems]
    shares = rolled(systems, samples)
    for sample in range(batches[0][0]):
        wanted = plain([each[sample].reshape(-1, steps, steps) for each in maps])
        np.testing.assert_allclose(shares[sample], wanted, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(shares.sum(axis=-1), 1, rtol=1e-5)


def test_groups_of_keys_have_the_sums_of_their_shares():
    rng = torch.Generator().manual_seed(1)
    systems = [dsf.mixers.DeltaNet.draw(rng, steps=9).system() for _ in range(3)]
    samples = [place[0] for place in np.ndindex(*systems[0].batch)]
    single, joined = (rolled(systems, samples, starts=at) for at in (None, np.array([0, 2, 6])))
    np.testing.assert_allclose(joined, np.add.reduceat(single, [0, 2, 6], axis=-1), rtol=1e-5)


def test_a_token_that_reads_nothing_stays_what_it_is():
    nothing = torch.zeros(1, 3, 2, dtype=torch.float64)
    silent = dsf.mixers.GatedLinearAttention(
        query=nothing, key=nothing, value=nothing + 1, log_decay=nothing
    ).system()
    np.testing.assert_array_equal(rolled([silent, silent], [0])[0], np.eye(3))
