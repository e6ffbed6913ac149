"""Checks of MetaLA (arXiv:2411.10741) and of its released code."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import sympy
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import layer_norm, pad

import dsf
from dsf import System, attention_map, layers, measures, mixers
from papers import exact
from papers.drawn import (
    apart,
    generator,
    hankel_rank,
    normal,
    output,
    softmax_map,
    uniform,
    weights,
)
from papers.meta_linear.experiments.conditions.found import sources
from papers.meta_linear.experiments.conditions.perturbing import classify
from papers.meta_linear.experiments.conditions.printed import PRINTED, agrees
from papers.meta_linear.families import FAMILIES
from papers.tables import mean, read_tables
from papers.verdicts import argued, check, held, identical, measured, refuted, shown

ROUNDING = 1e-12
STEPS = 64


def some_decay(rng: Any, steps: int, key: int) -> Tensor:
    """σ(x)^(1/16) of normal numbers, as the paper's layer has it."""
    return torch.sigmoid(normal(rng, steps, key)) ** (1 / 16)


def some_mixer(steps: int, key: int, channels: int) -> mixers.MetaLinearAttention:
    rng = generator()
    query, decay = normal(rng, steps, key), some_decay(rng, steps, key)
    return mixers.MetaLinearAttention(query=query, decay=decay, value=normal(rng, steps, channels))


def unified(*, query: Tensor, key: Tensor, decay: Tensor, value: Tensor) -> Tensor:
    """S_t = diag(α_t) S_{t-1} + k_tᵀ v_t and o_t = q_t S_t, one number at a time."""
    keys, channels = query.shape[1], value.shape[1]
    state = [[torch.zeros((), dtype=decay.dtype)] * channels for _ in range(keys)]
    rows = []
    for t in range(len(query)):
        for c in range(keys):
            for p in range(channels):
                state[c][p] = decay[t, c] * state[c][p] + key[t, c] * value[t, p]
        row = [sum(query[t, c] * state[c][p] for c in range(keys)) for p in range(channels)]
        rows.append(torch.stack([torch.as_tensor(part) for part in row]))
    return torch.stack(rows)


@check("MLA-2")
def every_model(form=unified, families=FAMILIES):
    """The response of every mixer against the unified form with its extra terms."""
    errors = [apart(*family(form)) for family in families.values()]
    return measured(max(errors), within=1e-10)


Mask = Callable[[Tensor], Tensor]


def parallel(mixer: mixers.MetaLinearAttention, mask: Mask) -> Float[Tensor, "time time"]:
    """((Q ⊙ A)(K / A)ᵀ) ⊙ M with A the running products, as it is printed."""
    passed = mixer.decay.cumprod(dim=0)
    return mask((mixer.query * passed) @ ((1 - mixer.decay) / passed).mT)


@check("MLA-1")
def forms_agree(mask=torch.tril):
    """128 tokens, 16 channels of key, 8 of value, chunks of 16."""
    mixer = some_mixer(128, 16, 8)
    system, signal = mixer.system(), mixer.signal()
    expected = dsf.respond(system, signal, method="recurrent").squeeze(-2)
    chunks = partial(dsf.evaluate.chunkwise, size=16)
    others = (
        parallel(mixer, mask) @ mixer.value,
        dsf.respond(system, signal, method=chunks).squeeze(-2),
        dsf.respond(system, signal, method="scan").squeeze(-2),
        attention_map(system) @ mixer.value,
    )
    return measured(max(apart(other, expected) for other in others), within=ROUNDING)


def _first_row(map: Tensor) -> list[float]:
    return [round(part, 4) for part in map[0].tolist()]


@check("MLA-24")
def printed_softmax(hide=torch.mul):
    """Multiply 8 x 8 logits by the mask, then take the softmax; look at the first row."""
    reach = torch.ones(8, 8, dtype=torch.float64).tril()
    logits = {"drawn": normal(0, 8, 8), "zero": torch.zeros_like(reach)}
    ahead = {
        name: float(hide(each, reach).softmax(dim=-1)[0, 1:].sum()) for name, each in logits.items()
    }
    case = {
        "weight on later tokens in row 1": ahead,
        "logits of row 1": _first_row(logits["drawn"]),
    }
    return shown(ahead["drawn"], beyond=1e-12, case=case)


@check("MLA-25")
def printed_mask(mask=torch.triu):
    """Build the parallel form with ones where row <= column and compare it with the map."""
    mixer = some_mixer(6, 4, 1)
    built, map = parallel(mixer, mask), weights(mixer)
    case = {
        "built, first row": _first_row(built),
        "map, first row": _first_row(map),
        "largest weight on a later token": float(measures.largest_ahead(built)),
    }
    return shown(apart(built, map), beyond=1e-9, case=case)


ROWS = 6
Step = Callable[[sympy.Matrix, sympy.Matrix, sympy.Matrix, sympy.Matrix], sympy.Matrix]


def one_token(
    state: sympy.Matrix, decay: sympy.Matrix, key: sympy.Matrix, value: sympy.Matrix
) -> sympy.Matrix:
    """S <- diag(decay) S + key value, written with symbols."""
    return sympy.diag(*decay) * state + key * value


def _full_state() -> tuple[sympy.Matrix, sympy.Matrix]:
    state = sympy.Matrix(ROWS, ROWS, sympy.symbols(f"s:{ROWS * ROWS}"))
    return state, sympy.Matrix(1, ROWS, sympy.symbols(f"v:{ROWS}"))


@check("MLA-3")
def what_is_left(step=one_token):
    """Write one value over a full symbolic state by a fixed, no and a dynamic decay."""
    state, value = _full_state()
    key, fixed = sympy.ones(ROWS, 1), sympy.Symbol("alpha")
    cases = {
        fixed: sympy.ones(ROWS, 1) * fixed,
        sympy.S.One: sympy.ones(ROWS, 1),
        sympy.S.Zero: sympy.Matrix([0] + [1] * (ROWS - 1)),
    }
    missed = sympy.S.Zero
    for left, decay in cases.items():
        row = step(state, decay, key, value)[0, :]
        missed += sum(abs(part) for part in (row - value - left * state[0, :]).expand())
    return identical(missed)


@check("MLA-4")
def only_dynamic_decay(step=one_token):
    """Solve for the decay that leaves nothing of the first row; the state is full and arbitrary."""
    state, value = _full_state()
    alpha = sympy.Symbol("alpha")
    decay = sympy.Matrix([alpha] + [1] * (ROWS - 1))
    row = (step(state, decay, sympy.ones(ROWS, 1), value)[0, :] - value).expand()
    roots = [sympy.solve(part, alpha) for part in row]
    return argued(
        {"the equation for every entry has the one solution α = 0": roots == [[0]] * ROWS}
    )


def _values(count: int) -> Tensor:
    rng = torch.Generator().manual_seed(0)
    return torch.randn(count, ROWS, generator=rng, dtype=torch.float64)


@check("MLA-5")
def others_move(tied=False):
    """Overwrite the first row by the dynamic decay and look at the others."""
    decay = torch.ones(1, ROWS, dtype=torch.float64)
    decay[0, 0] = 0
    *old, new = _values(ROWS + 1)
    old = torch.stack(old)
    moved = {}
    for name, key in (("key 1", torch.ones_like(decay)), ("key 1 - α", 1 - decay)):
        A = dsf.systems.transition.Diagonal(decay)
        system = System(A, key.unsqueeze(-1), key.unsqueeze(-2), initial=old)
        after = system.states(new.expand(1, 1, ROWS), at=[-1])[0]
        moved[name] = float((after[1:] - old[1:]).norm(dim=-1).max() / new.norm())
    return shown(
        moved["key 1 - α" if tied else "key 1"],
        beyond=1e-12,
        case={"decay": decay[0].tolist(), "largest change of another row over |v|": moved},
    )


@check("MLA-42")
def delta_rule_overwrites(rate=1.0):
    """Let a delta rule, which has no decay, write the first key again."""
    key = torch.eye(ROWS, dtype=torch.float64)
    key, rates = torch.cat([key, key[:1]]), torch.ones(ROWS + 1, dtype=torch.float64)
    rates[-1] = rate
    mixer = mixers.DeltaNet(query=key, key=key, value=_values(ROWS + 1), rate=rates)
    after = mixer.system().states(mixer.signal(), at=[-1])[0]
    new, old = mixer.value[-1], mixer.value[:-1]
    left = float((after[0] - new).norm() / old[0].norm())
    moved = apart(after[1:], old[1:])
    return shown(
        1 - max(left, moved),
        beyond=1 - 1e-12,
        case={"rate": rate, "old row left": left, "other rows moved": moved},
    )


Decay = Callable[[Any, Any], Any]
"""α_s from the sums of the row up to the token before and up to this one, in any number type."""


def share_kept(before: Any, now: Any) -> Any:
    """α_s = S_{s-1} / S_s; zero as long as nothing was summed up."""
    return before / now if now != 0 else now


def decays_of(row: Sequence[Any], decay: Decay = share_kept) -> list[Any]:
    """The decays that let one channel make ``row``."""
    sums = [sum(row[:s], 0 * row[0]) for s in range(len(row) + 1)]
    return [decay(before, now) for before, now in pairwise(sums)]


def weights_of(decays: Sequence[Any]) -> list[Any]:
    """The last row of a channel with query 1 and key 1 - α."""
    row, kept = [], 1
    for decay in reversed(decays):
        row.append((1 - decay) * kept)
        kept = kept * decay
    return row[::-1]


@check("MLA-6")
def any_row(decay=share_kept):
    """Rows of symbols, a row of 64 fractions, one-hot rows; the decays stay between 0 and 1."""
    drawn_row = torch.softmax(3 * normal(0, STEPS), dim=0).tolist()
    whole = sum(map(Fraction, drawn_row))
    fractions = [Fraction(part) / whole for part in drawn_row]
    one_hot = [[Fraction(int(s == t)) for s in range(6)] for t in range(6)]
    decays = decays_of(fractions, decay)

    def symbols_return(tokens: int) -> bool:
        free = list(sympy.symbols(f"p1:{tokens}", positive=True))
        row = [*free, 1 - sum(free, sympy.S.Zero)]
        found = weights_of(decays_of(row, decay))
        return all(sympy.cancel(a - b) == 0 for a, b in zip(found, row, strict=True))

    found = weights_of(decays_of(drawn_row, decay))
    return argued(
        {
            "symbols, up to 6 tokens": all(map(symbols_return, range(1, 7))),
            "64 tokens in fractions": weights_of(decays) == fractions,
            "one-hot rows": all(weights_of(decays_of(row, decay)) == row for row in one_hot),
            "decays between 0 and 1": all(0 <= part <= 1 for part in decays),
        },
        observed=max(abs(a - b) for a, b in zip(found, drawn_row, strict=True)),
    )


@check("MLA-7", "MLA-43")
def any_map(query=None):
    """One channel for every row: the query selects it, and the key or the decay makes the row."""
    target = softmax_map(STEPS)
    pick = torch.eye(STEPS, dtype=target.dtype) if query is None else query
    decay, value = torch.ones_like(target), torch.ones_like(target[:, :1])
    for row in range(STEPS):
        decay[: row + 1, row] = target.new_tensor(decays_of(target[row, : row + 1].tolist()))
    tied = mixers.MetaLinearAttention(query=pick, decay=decay, value=value)
    keyed = mixers.LinearAttention(
        query=pick, key=target.mT, value=value, feature_map=nn.Identity(), normalised=False
    )
    errors = {
        "(Q, Λ_t), a softmax map of 64 tokens": apart(weights(tied), target),
        "(Q, K), the same map": apart(weights(keyed), target),
    }
    met = {name: error <= ROUNDING for name, error in errors.items()}
    return argued(met, observed=max(errors.values()))


@check("MLA-10")
def depends_on_later_rows(third=(0.6, 0.1, 0.3)):
    """Two maps that agree up to the second token, and the decay that channel 3 has there."""
    rows = ((0.2, 0.3, 0.5), third)
    found = [decays_of(row)[1] for row in rows]
    case = {"third rows": [list(row) for row in rows], "α_2 of channel 3": found}
    return shown(abs(found[0] - found[1]), beyond=1e-9, case=case)


@check("MLA-32")
def one_is_redundant(factor=1):
    """Two decays of one channel for one weight; the key makes up for the second."""
    q, k, a, b, c = sympy.symbols("q k alpha beta c", positive=True)
    other = q * (c * a) * b * (k / c) * factor
    return identical(sympy.simplify(q * a * b * k - other))


@check("MLA-11")
def states_that_it_takes(target=None):
    """The rank of the middle block of a softmax map, exactly; then all blocks, measured.

    Without feedthrough the block ``a[t:, :t+1]`` passes through the state after token t. It is the
    Hankel block of the map that is written one token later.
    """
    map = softmax_map(STEPS) if target is None else target
    middle = (len(map) - 1) // 2
    found = exact.rank([exact.whole(row) for row in map[middle:, : middle + 1]])

    def largest(map: Tensor) -> int:
        return hankel_rank(pad(map, (0, 1, 1, 0)))

    return argued(
        {
            f"32 rows of the middle block are independent modulo {exact.PRIME}": found == 32,
            "no block measured has a larger rank": largest(map) <= 32,
            "the blocks of a mixer with 5 states have rank 5": (
                largest(weights(some_mixer(STEPS, 5, 1))) == 5
            ),
        },
        observed=float(largest(map)),
    )


Rows = Sequence[Sequence[str]]
MAP: Rows = (("1", "0", "0"), ("0.2", "0.8", "0"), ("0.7", "0.1", "0.2"))
KEYS: Rows = (("0.8", "-0.5", "0.7"), ("0", "0.7", "0.1"), ("0", "0", "0.2"))
DECAYS: Rows = (("1", "1", "1"), ("0", "1", "1"), ("1", "0", "1"))


def hold_then_erase(target: Float[Tensor, "time time"]) -> tuple[Tensor, Tensor]:
    """Keys and decays that make ``target`` without queries, one channel for every token.

    A channel accumulates values up to its own token and is then erased, and every key is the
    difference of two neighbouring rows of the map.
    """
    following = torch.cat([target[1:], torch.zeros_like(target[:1])])
    decay = torch.ones_like(target)
    own = torch.arange(len(target) - 1)
    decay[own + 1, own] = 0
    return (target - following).tril().mT, decay


def map_without_queries(key: Tensor, decay: Tensor) -> Tensor:
    A = dsf.systems.transition.Diagonal(decay)
    return attention_map(System.from_write_and_read(A, key, torch.ones_like(key)))


def _held_then_erased(*, signed: bool) -> tuple[Tensor, Tensor, float]:
    target = softmax_map(STEPS)
    key, decay = hold_then_erase(target)
    key = key if signed else key.clamp(min=0)
    return key, decay, apart(map_without_queries(key, decay), target)


@check("MLA-8")
def without_queries(keys=KEYS, *, signed=True):
    """Three tokens in exact fractions, then a softmax map of 64 tokens by the recurrence.

    Args:
        signed: whether keys may be negative; if not, negative ones are taken as zero.
    """
    key, _, error = _held_then_erased(signed=signed)
    if not signed:
        keys = [[str(max(Fraction(part), Fraction(0))) for part in row] for row in keys]
    off = Fraction(0)
    for t in range(3):
        for s in range(t + 1):
            state = [Fraction(part) for part in keys[s]]
            for decays in DECAYS[s + 1 : t + 1]:
                state = [Fraction(a) * h for a, h in zip(decays, state, strict=True)]
            off = max(off, abs(sum(state) - Fraction(MAP[t][s])))
    return refuted(
        1 - max(float(off), error),
        beyond=1 - 1e-12,
        witness={
            "map": [list(row) for row in MAP],
            "q_t": ["1", "1", "1"],
            "k_t": [list(row) for row in keys],
            "α_t": [list(row) for row in DECAYS],
            "error of the map, exact": str(off),
            "error at 64 tokens": error,
            "smallest key at 64 tokens": float(key.min()),
            "largest key at 64 tokens": float(key.abs().max()),
        },
    )


@check("MLA-30")
def key_and_decay_suffice(*, signed=True):
    """The construction without queries, its groups, its bounds, and that its decay is dynamic."""
    key, decay, error = _held_then_erased(signed=signed)
    follows = apart(decay[1:], decay[:-1])
    met = error < ROUNDING and follows > 0 and float(key.abs().max()) <= 1
    return refuted(
        1.0 if met else 0.0,
        beyond=0.5,
        witness={
            "groups": ["K", "Λ_t"],
            "C2, error of a softmax map of 64 tokens": error,
            "largest key": float(key.abs().max()),
            "decays": sorted({float(part) for part in decay.unique()}),
        },
    )


@check("MLA-9")
def never_rises(*, signed=False):
    """The change of an entry from one row to the next, with symbols; then two random systems."""
    rng = generator()
    key = normal(rng, STEPS, 8)
    key = key if signed else key.abs()
    decay = torch.sigmoid(normal(rng, STEPS, 8))

    def rise(map: Tensor) -> float:
        return float((map[1:] - map[:-1]).tril().max())

    risen = rise(map_without_queries(key, decay))
    single = rise(map_without_queries(normal(rng, STEPS, 1), decay[:, :1]).abs())
    w, a = sympy.symbols("w:3"), sympy.symbols("alpha:3")
    change = sum(x * y for x, y in zip(a, w, strict=True)) - sum(w)
    loss = sum(y * (x - 1) for x, y in zip(a, w, strict=True))
    return argued(
        {
            "a_{t+1,s} - a_ts = Σ weight (α - 1)": bool(sympy.expand(change - loss) == 0),
            "weights are not negative": bool((key >= 0).all()),
            "decays are at most 1": bool((decay <= 1).all()),
            "no entry rises in 64 tokens": risen <= 0,
            "nor does the size of an entry of one channel, with keys of both signs": single <= 0,
        },
        observed=risen,
    )


@check("MLA-33")
def rows_are_constant(decay=1.0):
    """Queries alone: keys 1 and no decay."""
    query = normal(0, STEPS, 8)
    one = torch.ones_like(query)
    A = dsf.systems.transition.Diagonal(decay * one)
    map = attention_map(System.from_write_and_read(A, one, query))
    spread = max(float(map[t, : t + 1].max() - map[t, : t + 1].min()) for t in range(STEPS))
    entries = {sum(part * sympy.Integer(1) for part in sympy.symbols("q1:4")) for _ in range(3)}
    return argued(
        {
            "one expression for all tokens (symbols)": len(entries) == 1,
            "the rows of 64 tokens are constant": spread < ROUNDING,
        },
        observed=spread,
    )


@check("MLA-15")
def griffin_sums(gain=torch.ones_like):
    """200 decays between 0.8 and 0.99; the last row's sum, and the sum of its squares."""
    decay = uniform(generator(), 200, low=0.8, high=0.99).unsqueeze(-1)
    mixer = mixers.RGLRU(value=torch.ones_like(decay), decay=decay, input_gate=gain(decay))
    row = weights(mixer)[0, -1]
    expected = float(1 - decay.prod())
    case = {
        "sum of the weights": float(row.sum()),
        "1 - Π α": expected,
        "sum of their squares": float(row.square().sum()),
        "1 - Π α²": float(1 - decay.square().prod()),
    }
    return shown(abs(float(row.sum()) - expected), beyond=1e-9, case=case)


Faded = Callable[[sympy.Expr, sympy.Expr], sympy.Expr]


def exponential(decay: sympy.Expr, lag: sympy.Expr) -> sympy.Expr:
    """What a fixed decay leaves after ``lag`` tokens."""
    return decay**lag


@check("MLA-13")
def key_bound(faded=exponential):
    """Solve for the key, and read the faded weights off the map of a retention layer."""
    decay, lag, weight, query = sympy.symbols("alpha lag p C_q", positive=True)
    key = weight / (faded(decay, lag) * query)
    slope = sympy.diff(sympy.expand_log(sympy.log(key), force=True), lag)
    one, alpha = torch.ones(512, 1, dtype=torch.float64), torch.tensor(0.96875).double()
    bounds = 1 / weights(mixers.Retention(query=one, key=one, value=one, decay=alpha))[-1].flip(0)
    growth = bounds.log().diff()
    solved = sympy.simplify(key * query * exponential(decay, lag) - weight)
    return argued(
        {
            "the key solves the equation": solved == 0,
            "its logarithm grows by -ln α": sympy.simplify(slope + sympy.log(decay)) == 0,
            "so does the map's": apart(growth, -alpha.log().expand_as(growth)) < ROUNDING,
        },
        observed=float(-alpha.log()),
        figures={"keys at 64 and 512 tokens, α = 0.96875": [float(bounds[63]), float(bounds[511])]},
    )


def of_the_layer(x: Tensor) -> Tensor:
    """The decay that the layer of width 8 gives such tokens."""
    return layers.MetaLinearAttention(8).mixer(x).decay


@check("MLA-21")
def slow_decay(temperature=16, decay=of_the_layer):
    """Exact values of sigmoid(x)^(1/16) at 0 and at -10, and the layer's at 0."""
    at_zero = sympy.Rational(1, 2) ** sympy.Rational(1, temperature)
    at_least = (1 / (1 + sympy.exp(10))) ** sympy.Rational(1, temperature)
    with torch.no_grad():
        of_layer = float(decay(torch.zeros(1, 2, 8)).min())
    return argued(
        {
            "half is left after 16 tokens": sympy.simplify(at_zero**16 - sympy.Rational(1, 2)) == 0,
            "the value at -10 is above 0.535": bool(at_least > sympy.Rational(535, 1000)),
            "the value at -10 is below 0.536": bool(at_least < sympy.Rational(536, 1000)),
            "the layer has the value at 0": abs(of_layer - float(at_zero)) < 1e-6,
        },
        observed=float(at_least),
        figures={"at -10": float(at_least), "at 0": float(at_zero), "half-life at 0, tokens": 16},
    )


@check("MLA-40")
def entries_are_meant(size=6):
    """The decay that the paper's own proof takes, and its norm."""
    decay = torch.ones(size, dtype=torch.float64)
    decay[0] = 0
    norm = float(decay.norm())
    between = bool(((decay >= 0) & (decay <= 1)).all())
    return argued({"entries between 0 and 1": between, "norm above 1": norm > 1}, observed=norm)


def _augmented() -> tuple[mixers.MetaLinearAttention, mixers.MetaLinearAttention]:
    """A mixer with augmentation, and the same without."""
    rng = generator()
    query, decay = normal(rng, 32, 16), some_decay(rng, 32, 16)
    plain = mixers.MetaLinearAttention(query=query, decay=decay, value=normal(rng, 32, 8))
    return replace(plain, augmentation=normal(rng, 16)), plain


def _own_term(mixer: mixers.MetaLinearAttention) -> Tensor:
    """q_t.(w ⊙ (1 - α_t)) v_t: what the augmentation adds to the linear response."""
    return (output(mixer) - output(replace(mixer, augmentation=None))).squeeze(-2)


def _layer(kind: str | None, strength: float = 0.0) -> layers.MetaLinearAttention:
    """The same random weights for all kinds; ``strength`` fills the augmentation."""
    layer = layers.MetaLinearAttention(16, augmentation=kind).double().requires_grad_(False)
    rng = generator(3)
    for name, weight in layer.named_parameters():
        if name == "augmentation":
            weight.fill_(strength)
        else:
            weight.copy_(normal(rng, *weight.shape) / 2)
    return layer


@check("MLA-16")
def parallel_form_is_not_the_layer(printed="linear"):
    """The layer, and the same weights with the augmentation as (A38) prints it."""
    x = normal(2, 1, 32, 16)
    difference = apart(_layer("sigmoid", 1.0)(x), _layer(printed, 1.0)(x))
    case = {"largest difference of the outputs": difference, "sigmoid at zero": 0.5}
    return shown(difference, beyond=1e-3, case=case)


@check("MLA-18")
def scaled_query_is_seen(*, augmented=True):
    """Multiply q by d_k^{-1/2} in the state's response only, then LayerNorm; the later half."""
    mixer, without = _augmented()
    plain, own = output(without).squeeze(-2), _own_term(mixer).sigmoid()
    difference = {
        name: apart(
            layer_norm(16**-0.5 * plain + extra, (8,))[16:], layer_norm(plain + extra, (8,))[16:]
        )
        for name, extra in (("with augmentation", own), ("without", torch.zeros_like(own)))
    }
    return shown(
        difference["with augmentation" if augmented else "without"],
        beyond=1e-2,
        case={"largest difference after LayerNorm": difference, "factor": 16**-0.5},
    )


@check("MLA-34")
def only_the_diagonal_moves(without=lambda mixer: replace(mixer, augmentation=None)):
    """The map of the layer's mixer with and without the augmentation, entry by entry."""
    mixer = _layer("linear", 1.0).mixer(normal(2, 1, 32, 16))
    moved = (weights(mixer) - weights(without(mixer))).abs()
    own = moved.diagonal(dim1=-2, dim2=-1)
    others = moved - torch.diag_embed(own)
    return argued(
        {
            "the weight of every token on itself moves": float(own.min()) > ROUNDING,
            "all other weights keep every bit": float(others.max()) == 0,
        },
        observed=float(others.max()),
    )


@check("MLA-41")
def as_printed(kinds=layers.ALL):
    """Find the letters of the mixers in the table by perturbation, and compare them with it.

    Args:
        kinds: the layers through which mixers are looked at, where there is one.
    """
    found = {
        mixer.__name__: classify(source.draw, source.computed).letters
        for mixer, source in sources(kinds)
        if mixer.__name__ in PRINTED
    }
    same = {name: agrees(found[name], row.letters) for name, row in PRINTED.items()}
    return held(same, observed=sum(same.values()) / len(same), figures=found)


@check("MLA-19")
def counted(build=layers.MetaLinearAttention):
    """Build the layers at two widths and count; RetNet's from the shapes of its projections."""

    def matrices(layer: nn.Module) -> int:
        return sum(part.weight.numel() for part in layer.modules() if isinstance(part, nn.Linear))

    def everything(layer: nn.Module) -> int:
        return sum(weight.numel() for weight in layer.parameters())

    formulas: dict[str, Callable[[int], bool]] = {
        "MetaLA, matrices: 4 d²": lambda d: matrices(build(d)) == 4 * d**2,
        "MetaLA, everything: 4 d² + 5.5 d": lambda d: 2 * everything(build(d)) == 8 * d**2 + 11 * d,
        "softmax attention: 4 d²": lambda d: matrices(layers.SoftmaxAttention(d)) == 4 * d**2,
        "GLA: 4 d² + 24 d": lambda d: matrices(layers.GatedLinearAttention(d)) == 4 * d**2 + 24 * d,
        "RetNet: 8 d²": lambda d: 2 * d * d + 3 * d * 2 * d == 8 * d**2,
    }
    return argued({name: holds(64) and holds(512) for name, holds in formulas.items()})


TABLES = read_tables(Path(__file__).with_name("tables.toml"))


@check("MLA-27")
def key_does_not_help(full="MetaLA", other="with key"):
    """Average and tasks of the ablation with the key, with and without BoolQ."""
    table = TABLES["8"]
    rest = [
        mean(part for k, part in enumerate(table.tasks(row)) if k != 2) for row in (full, other)
    ]
    return held(
        {
            "the average is not higher with the key": table.margin(full, [other]) >= 0,
            "nor is it without BoolQ": rest[1] <= rest[0],
            "fewer than half of the tasks are better with the key": table.better(other, full) < 4,
        },
        observed=float(-table.margin(full, [other])),
        figures={"averages without BoolQ": [round(float(part), 2) for part in rest]},
    )


@check("MLA-31")
def additions_help(full="MetaLA", bare="without self-augmentation"):
    """Averages with and without both additions."""
    table = TABLES["8"]
    return held(
        {
            "with self-augmentation": table.margin(full, [bare]) > 0,
            "with the convolution": table.margin(full, ["without convolution"]) > 0,
        },
        observed=float(table.margin(full, [bare])),
        figures={"averages": {name: float(table.at(name)) for name in table.rows}},
    )


LEVELS: Mapping[str, tuple[str, ...]] = {
    "MetaLA 0.36B, 15B tokens": (
        "Pythia 0.41B, 15B tokens",
        "Mamba 0.37B, 15B tokens",
        "GLA 0.36B, 15B tokens",
    ),
    "MetaLA 1.3B, 100B tokens": (
        "HGRN 1B, 100B tokens",
        "Mamba 1.4B, 100B tokens",
        "RetNet 1.3B, 100B tokens",
        "GLA 1.3B, 100B tokens",
    ),
    "MetaLA 1.4B, 300B tokens": ("Pythia 1.4B, 300B tokens",),
}
"""Which rows are compared: those of about one size, trained on as many tokens."""


@check("MLA-29")
def ahead_over_the_tables(numbers=("4", "5")):
    """MetaLA's printed averages over so many tables against those of its size and tokens."""

    def average(name: str) -> Fraction:
        return mean(TABLES[number].at(name) for number in numbers)

    margins, figures = {}, {}
    for ours, others in LEVELS.items():
        margins[ours] = average(ours) - max(map(average, others))
        figures[ours] = {name: round(float(average(name)), 3) for name in (ours, *others)}
    return held(
        {f"{name} has the highest average": margin > 0 for name, margin in margins.items()},
        observed=float(min(margins.values())),
        figures=figures,
    )


@check("MLA-35")
def comparable_on_long_range(method="MetaLA"):
    """How far the best average of Table 7 is."""
    margin = TABLES["7"].margin(method)
    return held({"at most 2 points behind": margin >= -2}, observed=float(-margin))


@check("MLA-36")
def ahead_on_images(model="MetaLA"):
    """Accuracies of the linear models at both sizes."""
    table = TABLES["6"]
    return held(
        {size: table.margin(model, column=size) >= 0 for size in table.columns},
        figures={name: list(map(float, row)) for name, row in table.rows.items()},
    )


@check("MLA-37")
def best_on_mad(model="MetaLA"):
    """Averages, and the tasks on which the second best is ahead."""
    table = TABLES["A6"]
    return held(
        {"the best average": table.margin(model) >= 0},
        observed=float(table.at(model)),
        figures={
            "averages": {name: float(table.at(name)) for name in table.rows},
            "tasks behind Multihead Hyena, of six": table.better("Multihead Hyena", model),
        },
    )


@check("MLA-38")
def ahead_on_needle(model="MetaLA"):
    """Both averages of Table A8 at three sizes against the one other linear model."""
    table, other = TABLES["A8"], "HGRN2" if model == "MetaLA" else "MetaLA"
    met, short = {}, {}
    for size in ("0.4B", "1B", "3B"):
        ahead = {
            column: table.margin(f"{model} {size}", [f"{other} {size}"], column=column)
            for column in table.columns
        }
        met[f"both averages at {size}"] = ahead["average"] > 0 and ahead["weighted average"] > 0
        short[size] = [ahead["to 4K"] < 0, ahead["to 8K"] < 0]
    return held(met, figures={f"behind {other} up to 4K, up to 8K": short})


@check("MLA-39")
def linear_ahead_of_softmax(linear="MetaLA"):
    """One zero-shot table and the long-range arena."""
    zero_shot, long_range = TABLES["4"], TABLES["7"]
    margins = {
        "Table 4, 0.4B": zero_shot.margin(
            f"{linear} 0.36B, 15B tokens", ["Pythia 0.41B, 15B tokens"]
        ),
        "Table 4, 1.4B": zero_shot.margin("MetaLA 1.4B, 300B tokens", ["Pythia 1.4B, 300B tokens"]),
        "Table 7": long_range.margin("MetaLA", ["Transformer"]),
    }
    return held({name: margin > 0 for name, margin in margins.items()})


@check("MLA-45")
def first_in_both(model="MetaLA"):
    """Averages of Table A9, its three sizes apart, and accuracies of Table A7 against Mamba."""
    recall, names = TABLES["A7"], list(TABLES["A9"].rows)
    met = {}
    for three in (names[start : start + 3] for start in range(0, len(names), 3)):
        (ours,) = (name for name in three if name.startswith(model))
        met[ours] = TABLES["A9"].margin(ours, three) > 0
    for width in recall.columns:
        met[f"Mamba at {width}"] = recall.margin("MetaLA", ["Mamba"], column=width) > 0
        met[f"attention at {width}"] = recall.margin("MetaLA", ["Transformer"], column=width) < 0
    return held(met)
