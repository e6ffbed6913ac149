"""How many states the architectures have, and how many their maps need."""

from collections.abc import Callable, Mapping

import numpy as np

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import held
from dsf.claims.dynamical_systems.drawn import normal, uniform
from dsf.claims.dynamical_systems.paper_form import one_system, stacked
from dsf.evaluate import attention_map
from dsf.measures import hankel_ranks
from dsf.mixers import (
    RGLRU,
    InLineAttention,
    LinearAttention,
    MetaLinearAttention,
    Mixer,
    NormalisedAttention,
    QuasiLSTM,
    SelectiveStateSpace,
    StateSpaceDuality,
    ZeroSumAttention,
)
from dsf.systems.system import System

STEPS, CHANNELS = 20, 2
RANK = 1e-10
Order = Callable[[int], int]
ORDERS: dict[str, Order] = {
    "linear attention": lambda n: n,
    "normalised attention": lambda n: n,
    "S6, one channel": lambda n: n,
    "quasi-LSTM, one channel": lambda _: 1,
    "RG-LRU, one channel": lambda _: 1,
    "zero-sum attention": lambda n: 3 * n,
    "InLine attention": lambda n: n + 1,
    "MetaLA": lambda n: n,
}
"""States per value channel for key or state width n."""


def hankel_bounds(orders: Mapping[str, Order] = ORDERS) -> Certificate:
    """Ranks of the blocks of the written-out maps, for widths 3, 4 and 5.

    A block of 20 tokens has rank 10 at most.
    """
    met, found = {}, {}
    for name, order in orders.items():
        ranks = [
            int(hankel_ranks(attention_map(_drawn(n)[name].system()), tolerance=RANK).max())
            for n in (3, 4, 5)
        ]
        found[name] = ranks
        met[name] = ranks == [min(order(n), STEPS // 2) for n in (3, 4, 5)]
    return held(
        "the largest Hankel rank is n for linear and normalised attention, S6 and MetaLA, 1 for "
        "quasi-LSTM and RG-LRU, 3 n for zero-sum and n + 1 for InLine attention",
        met,
        method="20 tokens, n = 3, 4, 5, singular values above 1e-10 of the largest",
        figures=found,
    )


def _drawn(n: int) -> dict[str, Mixer]:
    rng = np.random.default_rng(n)
    query, key = normal(rng, 2, STEPS, n)
    value, logit = normal(rng, STEPS, CHANNELS), normal(rng, STEPS)
    step, eta, decay, entered, left = (uniform(rng, STEPS, n, low=0.3, high=0.95) for _ in range(5))
    return {
        "linear attention": LinearAttention(query=query, key=key, value=value),
        "normalised attention": NormalisedAttention(
            query=query, key=key, value=value, normaliser=eta[:, 0]
        ),
        "S6, one channel": SelectiveStateSpace(
            value=value,
            step=step[:, :2],
            pole=-uniform(rng, CHANNELS, n, low=0.1, high=2.0),
            write=key,
            read=query,
        ),
        "quasi-LSTM, one channel": QuasiLSTM(
            value=value, forget=decay[:, :2], input=entered[:, :2], output=left[:, :2]
        ),
        "RG-LRU, one channel": RGLRU(value=value, decay=decay[:, :2], input_gate=entered[:, :2]),
        "zero-sum attention": ZeroSumAttention(
            query=query,
            key=key,
            value=value,
            logit=logit,
            first_order=eta[:, 0],
            higher_order=eta[:, 1],
        ),
        "InLine attention": InLineAttention(query=query, key=key, value=value),
        "MetaLA": MetaLinearAttention(query=query, value=value, decay=decay),
    }


def heads_and_states(states_of: Callable[[int, int, int], int] | None = None) -> Certificate:
    """States of the stacked system, and its largest Hankel rank, with one, two and four heads."""
    width, model = 4, 4
    expected = states_of or (lambda key, heads, channels: key // heads * channels)
    conditions, found = {}, {}
    for heads in (1, 2, 4):
        attention, duality = _layers(width, model, heads)
        for name, system, states in (
            ("attention", attention, expected(width, heads, model)),
            ("duality", duality, width * model),
        ):
            needed = int(hankel_ranks(system, tolerance=RANK).max())
            found[f"{name}, {heads} heads"] = [system.state_size, needed]
            conditions[f"{name}, {heads} heads"] = states == system.state_size == needed
    return held(
        "attention of key width n has (n / heads) d states for d channels, a state-space duality "
        "n d whatever the heads, and none is idle",
        conditions,
        method="20 tokens, n = d = 4, 1, 2 and 4 heads; states of the system and Hankel rank",
        figures=found,
    )


def _layers(width: int, model: int, heads: int) -> tuple[System, System]:
    """Both layers on one drawn input, driven by all its channels."""
    rng = np.random.default_rng(heads)
    W, channels = normal(rng, model, model), model // heads
    value = normal(rng, heads, STEPS, channels)
    query, key = normal(rng, 2, heads, STEPS, width // heads)
    attention = one_system(LinearAttention(query=query, key=key, value=value).system())
    write, read = normal(rng, 2, 1, STEPS, width)
    duality = StateSpaceDuality(
        value=value,
        step=uniform(rng, heads, STEPS, low=0.1, high=0.9),
        pole=-uniform(rng, heads, low=0.5, high=1.0),
        write=write,
        read=read,
    )
    return (
        stacked(attention, channels=channels, projection=W),
        stacked(duality.system(), channels=channels, projection=W),
    )


CLAIMS = (
    Claim(
        id="DSF-8",
        table=Table.OWN,
        statement=(
            "Hankel ranks are at most n for linear and normalised attention, a channel of S6 and "
            "MetaLA, 1 for a channel of the quasi-LSTM and the RG-LRU, 3 n for zero-sum and n + "
            "1 for InLine attention, and attain these numbers."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=hankel_bounds,
        quote="a dynamical system of dimension N = nd",
        place="3.2.1; N = d for the quasi-LSTM and the RG-LRU (3.2.3)",
        note=(
            "The numbers of states are upper bounds, the paper's for its own architectures; that "
            "they are attained is measured."
        ),
    ),
    Claim(
        id="DSF-22",
        table=Table.OWN,
        statement=(
            "A layer of d channels has (n / heads) d states in attention of key width n and n d "
            "states in a state-space duality whatever the heads."
        ),
        standing=Standing.OWN,
        expected=Verdict.HOLDS_NUMERICALLY,
        check=heads_and_states,
        quote=(
            "… whereas in attention and SSMs the dimension of the hidden state h_i in the DSF "
            "(11) is nd"
        ),
        place="3.2.3; (28), App. G",
        note=(
            "With heads the sentence fits attention if n counts the features of one head: heads "
            "at a fixed key width shrink its state."
        ),
    ),
)
