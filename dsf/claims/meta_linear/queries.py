"""Maps without queries: what q = 1 can and cannot do.

With signed keys one channel for every token suffices: it accumulates values up to its own token and
is then erased, and every key is the difference of two neighbouring rows of the map.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import sympy
import torch
from jaxtyping import Float
from torch import Tensor

from dsf.certificates import Certificate, Verdict
from dsf.claims.claim import Claim, Standing, Table
from dsf.claims.deciding import argued, refuted
from dsf.claims.meta_linear.random_maps import normal, softmax_map
from dsf.evaluate import attention_map
from dsf.measures import largest_difference
from dsf.systems.system import System
from dsf.systems.transition import Diagonal

STEPS, CHANNELS = 64, 8
ROUNDING = 1e-12
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


def without_queries(keys: Rows = KEYS, *, signed: bool = True) -> Certificate:
    """Three tokens in exact fractions, then a softmax map of 64 tokens by the recurrence.

    Args:
        signed: whether keys may be negative; if not, negative ones are taken as zero.
    """
    target = softmax_map(STEPS)
    key, decay = hold_then_erase(target)
    if not signed:
        key = key.clamp(min=0)
        keys = [[str(max(Fraction(part), Fraction(0))) for part in row] for row in keys]
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


def key_and_decay_suffice(*, signed: bool = True) -> Certificate:
    """The construction without queries, its groups, its bounds, and that its decay is dynamic."""
    target = softmax_map(STEPS)
    key, decay = hold_then_erase(target)
    key = key if signed else key.clamp(min=0)
    error = float(largest_difference(attention_map(_system(key, decay)), target))
    follows = float((decay[1:] - decay[:-1]).abs().max())
    met = error < ROUNDING and follows > 0 and float(key.abs().max()) <= 1
    return refuted(
        "only (Q, Λ_t) meets C0, C1 and C2 with two groups of parameters",
        1.0 if met else 0.0,
        beyond=0.5,
        witness={
            "groups": ["K", "Λ_t"],
            "C0": "the state has n channels, whatever follows",
            "C1": "the decay depends on the token",
            f"C2, error of a softmax map of {STEPS} tokens": error,
            "largest key": float(key.abs().max()),
            "decays": sorted({float(part) for part in decay.unique()}),
        },
        method="the construction of MLA-8; C1 by Proposition A2.1",
    )


def never_rises(*, signed: bool = False) -> Certificate:
    """The change of an entry from one row to the next, with symbols; then two random systems."""
    rng = np.random.default_rng(0)
    key = normal(rng, STEPS, CHANNELS)
    key = key if signed else key.abs()
    decay = torch.sigmoid(normal(rng, STEPS, CHANNELS))
    rise = _rise(attention_map(_system(key, decay)))
    single = attention_map(_system(normal(rng, STEPS, 1), decay[:, :1]))
    return argued(
        "with q = 1 and keys that are not negative a_ts never increases with t; with one channel "
        "its size never does",
        "every channel changes an entry by weight (α - 1), a loss where weights are not negative; "
        "one channel multiplies an entry by α",
        {
            "a_{t+1,s} - a_ts = Σ weight (α - 1)": _change_is_a_loss(),
            "weights are not negative": bool((key >= 0).all()),
            "decays are at most 1": bool((decay <= 1).all()),
            f"no entry rises in {STEPS} tokens": rise <= 0,
            "nor does the size of an entry of one channel, with keys of both signs": (
                _rise(single.abs()) <= 0
            ),
        },
        method="symbols, and random systems by the recurrence",
        observed=rise,
    )


def _rise(map: Float[Tensor, "time time"]) -> float:
    return float((map[1:] - map[:-1]).tril().max())


def rows_are_constant(decay: float = 1.0) -> Certificate:
    """Queries alone: keys 1 and no decay."""
    rng = np.random.default_rng(0)
    query = normal(rng, STEPS, CHANNELS)
    one = torch.ones_like(query)
    system = System.from_write_and_read(Diagonal(decay * one), one, query)
    map = attention_map(system)
    spread = max(float(map[t, : t + 1].max() - map[t, : t + 1].min()) for t in range(STEPS))
    symbols = sympy.symbols("q1:4")
    entries = {sum(part * sympy.Integer(1) for part in symbols) for _ in range(3)}
    return argued(
        "with queries alone, keys 1 and no decay, the weights of a row are all the same",
        "every entry of row t is Σ_c q_tc",
        {
            "one expression for all tokens (symbols)": len(entries) == 1,
            f"the rows of {STEPS} tokens are constant": spread < ROUNDING,
        },
        method="symbols, and a random system by the recurrence",
        observed=spread,
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
        table=Table.PAPER,
        statement=(
            "Without queries no bounded keys and decays approximate a softmax attention map."
        ),
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=without_queries,
        quote=(
            "This means models without Q can not approximate softmax attention map, because "
            "without selection they can only fit one token's attention distribution "
            "theoretically."
        ),
        place='A2.2, after (A22); Prop. A2.2; "indispensable" in A2.4 iii)',
        hypotheses=(
            ("d_k tokens, d_k channels, norms of q and k bounded by constants: (A2), (A3)"),
            "decays with entries in [0, 1]: (A3) prints ‖α_t‖ ∈ [0,1]",
            "no condition on the signs of keys",
        ),
        stands=(
            "For keys that are not negative, or one channel, it stands (MLA-9); hence for the "
            "linear RNNs that the paper names there."
        ),
        note=(
            "With q = 1 and signed keys every channel keeps what came up to its token and is "
            "then erased by a decay of 0; the key of token s in channel c is p_cs - p_(c+1)s. "
            "The 3 x 3 map of the witness comes out exactly, a map of 64 tokens to rounding, "
            "with keys of at most 1 in size."
        ),
    ),
    Claim(
        id="MLA-9",
        table=Table.OWN,
        statement=(
            "With q = 1 and keys that are not negative the weight on a token never increases "
            "from one row to the next; with one channel its size never does."
        ),
        standing=Standing.OWN,
        expected=Verdict.ARGUED,
        check=never_rises,
        note=(
            "This is what stands of MLA-8. One channel with a negative key can rise, from -1 to "
            "-1/2, but only towards zero."
        ),
    ),
    Claim(
        id="MLA-30",
        table=Table.PAPER,
        statement="Only (Q, Λ_t) satisfies C3, the least parameters that meet C0, C1 and C2.",
        standing=Standing.STATED,
        expected=Verdict.REFUTED,
        check=key_and_decay_suffice,
        quote=(
            "Only models with Query and dynamic decay (Q, Λ_t) can satisfy C3 (Least parameter "
            "approximation)."
        ),
        place=(
            'Prop. A2.3; proof: "only models using (Q, K, Λ_t) or (Q, Λ_t) can meet C0, C1 and '
            'C2 simultaneously"'
        ),
        hypotheses=(
            "C0 to C2 as in Definition 4.1",
            "C3 counts the groups Q, K, Λ_t",
            "no condition on the signs of keys",
        ),
        stands=(
            "(Q, Λ_t) does meet all conditions with two groups. For keys that are not negative "
            "it is the only pair that does."
        ),
        note=(
            "(K, Λ_t) has two groups as well: C2 by the construction of MLA-8, C1 by Prop. A2.1, "
            "since its decay is dynamic."
        ),
    ),
    Claim(
        id="MLA-33",
        table=Table.PAPER,
        statement=(
            "With queries alone, keys 1 and no decay, the weights of a row are all the same."
        ),
        standing=Standing.STATED,
        expected=Verdict.ARGUED,
        check=rows_are_constant,
        quote=(
            "(For models with only Q, without decay and k_t = 1 for all t, a token's attentions "
            "to other tokens are all the same, which means such models can only approximate one "
            "special attention map.)"
        ),
        place="end of A2.2",
        hypotheses=("k_t = 1 for all t, no decay",),
    ),
)
