"""Maps without queries: what q = 1 can and cannot do.

With signed keys one channel for every token suffices: hold what came up to the channel's own token,
then erase it, and let every key be the difference of two neighbouring rows of the map.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing
from dsf.claims.deciding import argued, refuted
from dsf.claims.meta_linear.random_maps import normal, softmax_map
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.system import System
from dsf.transition import Diagonal

STEPS, CHANNELS = 64, 8
Rows = Sequence[Sequence[str]]
MAP: Rows = (("1", "0", "0"), ("0.2", "0.8", "0"), ("0.7", "0.1", "0.2"))
KEYS: Rows = (("0.8", "-0.5", "0.7"), ("0", "0.7", "0.1"), ("0", "0", "0.2"))
DECAYS: Rows = (("1", "1", "1"), ("0", "1", "1"), ("1", "0", "1"))


def hold_then_erase(
    target: Float[Tensor, "time time"],
) -> tuple[Float[Tensor, "time key"], Float[Tensor, "time key"]]:
    """Keys and decays that make ``target`` without queries."""
    following = torch.cat([target[1:], torch.zeros_like(target[:1])])
    decay = torch.ones_like(target)
    own = torch.arange(len(target) - 1)
    decay[own + 1, own] = 0
    return (target - following).tril().mT, decay


def without_queries(keys: Rows = KEYS) -> Certificate:
    """Three tokens in exact fractions, then a softmax map of 64 tokens by the recurrence."""
    target = softmax_map(STEPS)
    key, decay = hold_then_erase(target)
    error = float(largest_difference(attention_map(_system(key, decay)), target))
    off = _exact_error(keys)
    witness = {
        "map": [list(row) for row in MAP],
        "q_t": ["1", "1", "1"],
        "k_t": [list(row) for row in keys],
        "α_t": [list(row) for row in DECAYS],
        "error of the map, exact": str(off),
        f"error at {STEPS} tokens": error,
        f"smallest key at {STEPS} tokens": float(key.min()),
        f"largest key at {STEPS} tokens": float(key.abs().max()),
    }
    return refuted(
        "no bounded keys and decays reproduce a softmax map without queries",
        1 - float(np.max([float(off), error])),
        beyond=1 - 1e-12,
        witness=witness,
        method="hold, then erase: exact fractions at 3 tokens, floats at 64",
    )


def never_rises(*, signed: bool = False) -> Certificate:
    """The change of an entry from one row to the next, with symbols; then a random system."""
    rng = np.random.default_rng(0)
    key = normal(rng, STEPS, CHANNELS)
    key = key if signed else key.abs()
    decay = torch.sigmoid(normal(rng, STEPS, CHANNELS))
    map = attention_map(_system(key, decay))
    rise = float((map[1:] - map[:-1]).tril().max())
    return argued(
        "with q = 1 and keys that are not negative a_ts never increases with t",
        "every channel changes an entry by weight (α - 1), and with one channel, whose query and "
        "key carry one sign, nothing else is there",
        {
            "a_{t+1,s} - a_ts = Σ weight (α - 1)": _change_is_a_loss(),
            "weights are not negative": bool((key >= 0).all()),
            "decays are at most 1": bool((decay <= 1).all()),
            f"no entry rises in {STEPS} tokens": rise <= 0,
        },
        method="symbols, and a random system by the recurrence",
        observed=rise,
    )


def _system(key: Tensor, decay: Tensor) -> System:
    return System.from_write_and_read(Diagonal(decay), key, torch.ones_like(key))


def _exact_error(keys: Rows) -> Fraction:
    """The largest difference between the map of :data:`DECAYS` and ``keys`` and :data:`MAP`."""
    off = Fraction(0)
    for t in range(len(MAP)):
        for s in range(t + 1):
            state = [Fraction(part) for part in keys[s]]
            for decays in DECAYS[s + 1 : t + 1]:
                state = [Fraction(a) * h for a, h in zip(decays, state, strict=True)]
            off = max(off, abs(sum(state) - Fraction(MAP[t][s])))
    return off


def _change_is_a_loss(channels: int = 3) -> bool:
    weight, decay = sympy.symbols(f"w:{channels}"), sympy.symbols(f"alpha:{channels}")
    now = sum(weight)
    after = sum(a * w for a, w in zip(decay, weight, strict=True))
    loss = sum(w * (a - 1) for a, w in zip(decay, weight, strict=True))
    return bool(sympy.expand(after - now - loss) == 0)


CLAIMS = (
    Claim(
        id="MLA-8",
        statement=(
            "A linear mixer needs queries to reproduce every softmax map: without Q no bounded "
            "keys and decays do."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=without_queries,
        note=(
            "With q = 1 and signed keys every channel holds what came up to its token and is "
            "then erased; k_s of channel c is p_cs - p_(c+1)s. A 3 x 3 map comes out exactly. "
            "What is true is MLA-9."
        ),
    ),
    Claim(
        id="MLA-9",
        statement=(
            "With q = 1 and keys that are not negative, or one channel only, the weight on a "
            "token never increases from one row to the next."
        ),
        standing=Standing.DERIVED,
        expected=Verdict.PROVED,
        check=never_rises,
    ),
)
