"""Checks of the Dynamical Systems Framework (Sieber et al. 2024, arXiv:2405.15731)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import product

import sympy
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softplus

import dsf
from dsf import System, attention_map, mixers
from papers import exact
from papers.drawn import apart, generator, hankel_rank, normal, output, uniform, weights
from papers.dynamical_systems.forms import (
    NORMALISERS,
    attention_forms,
    every_form,
    gated_forms,
    selective_forms,
    separable,
)
from papers.verdicts import argued, check, held, identical, measured, shown

ROUNDING = 1e-12
elu_plus_one = dsf.mixers.ingredients.elu_plus_one
Normaliser = Callable[[Tensor, Tensor], Tensor]


@check("DSF-1")
def forms_agree(changed=lambda system: system):
    """Compare map and recurrence with the formula, relative to the largest output."""
    errors = {}
    for form in every_form():
        system = changed(form.system)
        by_map = (attention_map(system) @ form.u.flatten()).unflatten(0, form.direct.shape)
        off = max(apart(by_map, form.direct), apart(_response(system, form.u), form.direct))
        errors[form.name] = off / float(form.direct.abs().max())
    met = {name: error <= 1e-10 for name, error in errors.items()}
    return held(met, observed=max(errors.values()), figures=errors)


@check("DSF-3")
def never_reads_ahead(changed=lambda system: system):
    """Look above the diagonal, and at outputs in front of a token that changes."""
    forms = list(every_form())
    systems = [changed(form.system) for form in forms]
    frozen = [
        _keeps_the_past(partial(_response, system), form.u)
        for system, form in zip(systems, forms, strict=True)
    ]

    def following(u: Tensor) -> Tensor:
        """Normalised attention with every coefficient computed from ``u``."""
        rng = generator()
        query, key, value, eta = (u @ normal(rng, u.shape[-1], width) for width in (3, 3, 3, 1))
        mixer = mixers.NormalisedAttention(
            query=query, key=key, value=value, normaliser=eta.exp().squeeze(-1)
        )
        system = changed(mixer.system())
        return dsf.respond(system, mixer.signal(), method="recurrent").squeeze(-2)

    return argued(
        {
            "blocks above the diagonal are zero": all(map(_is_lower, systems)),
            "earlier outputs keep every bit, coefficients frozen": all(frozen),
            "and where coefficients follow the input": _keeps_the_past(following, forms[0].u),
        },
        observed=0.0,
    )


def _is_lower(system: System) -> bool:
    map = attention_map(system)
    rows = torch.arange(map.shape[0]) // system.output_size
    columns = torch.arange(map.shape[1]) // system.input_size
    return not bool(map[columns > rows.unsqueeze(-1)].any())


def _response(system: System, u: Tensor) -> Tensor:
    return dsf.respond(system, u.unsqueeze(-1), method="recurrent").squeeze(-1)


def _keeps_the_past(outputs: Callable[[Tensor], Tensor], u: Tensor) -> bool:
    before, kept = outputs(u), []
    for token in (1, 7, 13):
        other = u.clone()
        other[token] += 1
        kept.append(outputs(other)[:token].equal(before[:token]))
    return all(kept)


@check("DSF-38")
def kernel_is_the_attention_matrix(heads=1):
    """Φ of the paper's system against ζ ⊗ W_V, for every attention with so many heads."""
    errors = {}
    for form in attention_forms((heads,)):
        kernel = attention_map(form.system).unflatten(0, (-1, form.projection.shape[0]))
        kernel = kernel.unflatten(-1, (-1, form.projection.shape[1]))
        expected = torch.einsum("ij,cm->icjm", form.weights[0], form.projection)
        errors[form.name] = apart(kernel, expected)
    return held({name: error <= ROUNDING for name, error in errors.items()}, figures=errors)


@check("DSF-39")
def keys_are_input_vectors(steps=(1.0,) * 12):
    """S6 without decay and with equal steps against linear attention with k = b and q = c."""
    rng = generator()
    write, read, value = normal(rng, 12, 3), normal(rng, 12, 3), normal(rng, 12, 1)
    step = torch.tensor(steps, dtype=value.dtype).unsqueeze(-1)
    pole = torch.zeros(1, 3, dtype=value.dtype)
    selective = mixers.SelectiveStateSpace(
        value=value, step=step, pole=pole, write=write, read=read
    )
    linear = mixers.LinearAttention(
        query=read,
        key=write,
        value=value,
        feature_map=dsf.mixers.ingredients.identity,
        normalised=False,
    )
    same = torch.equal(selective.system().C[0], linear.system().C)
    return argued(
        {
            "the output matrices are equal": same,
            "without decay, at steps of 1, so are the maps": (
                apart(weights(selective)[0], weights(linear)) <= ROUNDING
            ),
        }
    )


def projected_tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Twenty tokens of width 6 and their projections, queries and keys of width 4."""
    rng = generator(1)
    u = normal(rng, 20, 6)
    to_query, to_key = 0.5 * normal(rng, 2, 4, 6)
    return u @ to_query.T, u @ to_key.T, u @ normal(rng, 6, 6).T


def row_sums_in_reach(read: Tensor, write: Tensor) -> Float[Tensor, " time"]:
    """The normaliser of linear attention, η_i = Σ_{j<=i} φ_i.ψ_j."""
    return (read * write.cumsum(dim=0)).sum(dim=-1)


def of_token_before(normaliser: Float[Tensor, " time"]) -> Float[Tensor, " time"]:
    """η_{i-1}; for the first token, which has none before it, its own."""
    return torch.cat([normaliser[:1], normaliser[:-1]])


@check("DSF-2")
def write_index(divisor=of_token_before):
    """Build linear attention with this divisor in B and with η_i, and compare their maps."""
    query, key, value = projected_tokens()
    expected = weights(mixers.LinearAttention(query=query, key=key, value=value))
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = row_sums_in_reach(read, write)
    printed = attention_map(separable(read, write, eta, divisor=divisor(eta)))
    own = apart(attention_map(separable(read, write, eta)), expected)
    error = float(((printed - expected) @ value).abs().max())
    return shown(
        error if own < ROUNDING else math.nan,
        beyond=ROUNDING,
        case={
            "weight of token 2 on itself, as printed": float(printed[1, 1]),
            "the same weight of linear attention": float(expected[1, 1]),
            "largest output error": error,
        },
    )


@check("DSF-32")
def normalisers_cancel(divisor=lambda eta, j: eta[j - 1]):
    """Multiply the transitions from j to i with B_j, as printed, for all pairs among six tokens."""
    eta = sympy.IndexedBase("eta", positive=True)
    missed = sympy.S.Zero
    for i in range(2, 7):
        for j in range(2, i + 1):
            ratios = sympy.prod([eta[k - 1] / eta[k] for k in range(j, i + 1)])
            missed += abs(sympy.cancel(ratios / divisor(eta, j) - 1 / eta[i]))
    return identical(missed)


@check("DSF-37")
def swapped_projection(projected=lambda u, _to_key, to_value: u @ to_value):
    """Linear attention with keys W_V u in place of W_K u."""
    rng = generator()
    u = normal(rng, 12, 4)
    to_query, to_key, to_value = normal(rng, 3, 4, 4)
    printed, meant = (
        weights(mixers.LinearAttention(query=u @ to_query, key=key, value=u @ to_value))
        for key in (projected(u, to_key, to_value), u @ to_key)
    )
    rows = {"first rows as printed": printed[1, :2].tolist(), "as meant": meant[1, :2].tolist()}
    return shown(apart(printed, meant), beyond=ROUNDING, case=rows)


def duality_map(step: Tensor, write: Tensor, read: Tensor, *, rate: float) -> Tensor:
    """The map of a state-space duality with one head."""
    mixer = mixers.StateSpaceDuality(
        value=write.unsqueeze(0),
        step=step.unsqueeze(0),
        pole=-step.new_full((1,), rate),
        write=write.unsqueeze(0),
        read=read.unsqueeze(0),
    )
    return weights(mixer)[0]


@check("DSF-12")
def duality_is_separable(normaliser=lambda rate, step: (rate * step.cumsum(dim=0)).exp()):
    """Compare the mixer's map with the separable form, ψ_i = η_i step_i b_i."""
    rng = generator()
    write, read = normal(rng, 2, 12, 3)
    step = softplus(normal(rng, 12))
    eta = normaliser(0.7, step)
    form = separable(read, (eta * step).unsqueeze(-1) * write, eta)
    error = apart(attention_map(form), duality_map(step, write, read, rate=0.7))
    return measured(error, within=ROUNDING)


def _spread(row: Tensor) -> float:
    """Largest less smallest weight, over the weight of the token itself."""
    return float((row.max() - row.min()) / row[-1].abs())


def equal_tokens() -> tuple[Tensor, Tensor, float]:
    """Twelve equal keys and queries, and the spread of a row of separable attention over them."""
    write, read = (part.expand(12, 3) for part in normal(0, 2, 1, 3))
    linear = mixers.LinearAttention(query=read, key=write, value=write)
    return write, read, _spread(weights(linear)[-1])


@check("DSF-13")
def key_alone_does_not_suffice(rate=0.7):
    """On a constant input a separable row is constant; look at the rows of a duality."""
    write, read, of_separable = equal_tokens()
    map = duality_map(write.new_full((12,), 0.5), write, read, rate=rate)
    spread = [_spread(map[row - 1, :row]) for row in (2, 6, 10)]
    return shown(
        spread[-1] if of_separable < ROUNDING else math.nan,
        beyond=ROUNDING,
        case={
            "rows": [2, 6, 10],
            "largest less smallest weight over the last one": spread,
            "the same for a separable attention": of_separable,
        },
    )


Entry = Callable[[Sequence[sympy.Symbol], int, int], sympy.Expr]


def of_selective(step: Sequence[sympy.Symbol], i: int, j: int) -> sympy.Expr:
    """Π Λ_k B_j of S6 with one state: exp(-a Σ Δ_k) Δ_j."""
    return sympy.exp(-sympy.Symbol("a", positive=True) * sum(step[j + 1 : i + 1])) * step[j]


def of_attention(eta: Sequence[sympy.Symbol], i: int, j: int) -> sympy.Expr:
    """Π Λ_k B_j of attention: ratios of normalisers, over the one of token j."""
    return sympy.prod([eta[k - 1] / eta[k] for k in range(j + 1, i + 1)]) / eta[j]


@check("DSF-33")
def step_does_not_cancel(entry=of_selective):
    """Which steps an entry depends on, with symbols; then one step of a mixer changed."""
    symbols = sympy.symbols("x0:5", positive=True)
    seen = sympy.simplify(entry(symbols, 4, 1)).free_symbols & set(symbols)
    kept = sympy.simplify(of_attention(symbols, 4, 1)).free_symbols & set(symbols)
    rng = generator()
    write, read = normal(rng, 2, 6, 3)
    step = uniform(rng, 6, 1, low=0.2, high=1.0)
    mixer = mixers.SelectiveStateSpace(
        value=write[:, :1],
        step=step,
        pole=-torch.tensor([[1.0, 2.0, 3.0]], dtype=step.dtype),
        write=write,
        read=read,
    )
    other = step.clone()
    other[3] += 0.5
    moved = float((weights(replace(mixer, step=other)) - weights(mixer))[0, 4, 1].abs())
    return shown(
        moved if set(symbols[1:]) == seen and kept == {symbols[4]} else 0.0,
        beyond=1e-3,
        case={
            "entry of tokens 4 and 1, S6, depends on": sorted(map(str, seen)),
            "of attention": sorted(map(str, kept)),
            "weight of S6 moved by the step of token 3": moved,
        },
    )


@check("DSF-15")
def channels_have_maps_of_their_own(rates=((1.0, 2.0, 3.0), (0.5, 1.0, 4.0))):
    """Fit the map of one channel of a selective state space by a multiple of the other's."""
    rng = generator()
    write, read = normal(rng, 2, 12, 3)
    step = softplus(normal(rng, 12))
    mixer = mixers.SelectiveStateSpace(
        value=normal(rng, 12, 2),
        step=step.unsqueeze(-1).expand(12, 2),
        pole=-torch.tensor(rates, dtype=step.dtype),
        write=write,
        read=read,
    )
    first, second = weights(mixer)
    factor = (first * second).sum() / first.square().sum()
    missed = float((second - factor * first).norm() / second.norm())
    return shown(
        missed,
        beyond=ROUNDING,
        case={"best factor": float(factor), "what it leaves, relative": missed},
    )


def one_over_factorial(powers: tuple[int, ...]) -> sympy.Rational:
    """The square of the factor of a monomial feature."""
    return sympy.Rational(1, math.prod(map(math.factorial, powers)))


@check("DSF-29")
def series_of_features(factor=one_over_factorial):
    """Products of monomial features with symbols, degree by degree; the remainder of the series."""
    equal = True
    for width in (1, 2, 3):
        query, key = (sympy.symbols(f"{name}1:{width + 1}") for name in "qk")
        scores = sum(a * b for a, b in zip(query, key, strict=True))
        for degree in range(5):
            features = sum(
                factor(powers)
                * math.prod((a * b) ** n for a, b, n in zip(query, key, powers, strict=True))
                for powers in product(range(degree + 1), repeat=width)
                if sum(powers) == degree
            )
            equal &= sympy.expand(features - scores**degree / math.factorial(degree)) == 0
    p, x = sympy.Symbol("p", integer=True, positive=True), sympy.Symbol("x", positive=True)
    remainder = sympy.limit(x ** (p + 1) / sympy.factorial(p + 1) * sympy.exp(x), p, sympy.oo)
    return argued(
        {
            "features of degree p give (q.k)^p/p!, p up to 4, width up to 3 (symbols)": bool(equal),
            "the remainder goes to zero": remainder == 0,
        }
    )


@check("DSF-5")
def no_state_serves_every_length(numerators=lambda query, key: torch.exp2(query @ key.T)):
    """Exact ranks of Hankel blocks whose numerators are whole numbers.

    Dividing a row by its sum changes no rank, so the blocks of softmax attention have these ranks.
    Queries 0, 1, 2 ... and keys 0, 1, 2 ... make the numerators powers of distinct nodes at any
    length.
    """
    same, full = [], []
    for steps in (8, 16, 20, 32, 64):
        drawn = torch.from_numpy(generator(steps).integers(-3, 4, (2, steps, 4))).double()
        query, key = drawn
        map = numerators(query, key).tril()
        mixer = mixers.SoftmaxAttention(query=query, key=key, value=key, scale=math.log(2))
        same.append(apart(weights(mixer), map / map.sum(dim=-1, keepdim=True)) < ROUNDING)
        for i in range(1, steps) if steps == 20 else (steps // 2,):
            block = [exact.whole(row) for row in map[i:, :i]]
            full.append(exact.rank(block) == min(i, steps - i))
    count = torch.arange(20, dtype=torch.float64)
    nodes = numerators(count.unsqueeze(-1), count.unsqueeze(-1))
    powers = nodes[:, 1:2] ** count
    return argued(
        {
            "the numerators are those of the softmax mixer": all(same),
            "every drawn block has full rank": all(full),
            "queries and keys 0, 1, 2 ... give powers of distinct nodes": (
                bool((nodes[:, 1].diff() > 0).all()) and bool((nodes == powers).all())
            ),
        },
        observed=32.0,
    )


def power(rows: int, columns: int) -> int:
    """2^(q k) for the whole numbers q and k: the kernel of softmax attention at key width 1."""
    return int(2 ** (rows * columns))


@check("DSF-30")
def features_of_one_token(kernel=power):
    """Exact ranks of the kernel of the queries and keys 0, 1, 2 ... at more points than features.

    The second row of a map of two tokens already shows the kernel: the ratio of its weights is the
    kernel of query and first key, times what depends on the second token alone.
    """
    ranks = {
        n: exact.rank([[kernel(q, k) for k in range(n + 1)] for q in range(n + 1)])
        for n in (1, 2, 5, 10, 20)
    }
    met = {
        f"{n} features: {n + 1} queries and keys give rank {n + 1}": rank == n + 1
        for n, rank in ranks.items()
    }
    return argued(met, observed=float(max(ranks.values())))


@check("DSF-6")
def prefix_needs_half(mixer=mixers.SoftmaxAttention):
    """The cache is an exact system of L states; the smallest system has half as many."""
    query, key, value = normal(0, 3, 20, 4)
    cache = mixer(query=query, key=key, value=value, scale=2.0).system()
    scores = (2.0 * query @ key.T).exp().tril()
    map = scores / scores.sum(dim=-1, keepdim=True)
    small = dsf.evaluate.realise(map, tolerance=1e-10)
    errors = [apart(attention_map(each), map) for each in (cache, small)]
    return held(
        {
            "the cache is exact": errors[0] < ROUNDING,
            "so is the smallest system": errors[1] < ROUNDING,
            "which has 10 states": small.state_size == 10,
        },
        observed=float(small.state_size),
        figures={"errors of the cache and of the smallest system": errors},
    )


@check("DSF-21")
def rank_is_not_the_state(*, causal=True):
    """Rank of the map of linear attention, masked or not, against the states it needs."""
    query, key, value = normal(0, 3, 20, 4)
    mixer = mixers.LinearAttention(query=query, key=key, value=value, causal=causal)
    needed = hankel_rank(weights(replace(mixer, causal=True)))
    rank = int(torch.linalg.matrix_rank(weights(mixer), rtol=1e-10))
    case = {"tokens": 20, "features": 4, "rank of the map": rank, "Hankel rank": needed}
    return shown(float(abs(rank - needed)), beyond=0.0, case=case)


def random_bases(steps: int, states: int) -> Tensor:
    """An invertible matrix between any two tokens: the identity plus a Gaussian part."""
    drawn = normal(0, steps + 1, states, states)
    return torch.eye(states, dtype=drawn.dtype) + 0.3 * drawn


@check("DSF-17")
def spectrum_depends_on_the_basis(bases=random_bases):
    """Linear attention in other states: random ones, and those that make A the identity."""
    query, key, _ = projected_tokens()
    read, write = elu_plus_one(query), elu_plus_one(key)
    eta = row_sums_in_reach(read, write)
    system = separable(read, write, eta)
    one = torch.eye(system.state_size, dtype=eta.dtype)
    turned, still = (
        dsf.systems.algebra.change_of_basis(system, to)
        for to in (
            bases(system.steps, system.state_size),
            torch.cat([eta[:1], eta])[:, None, None] * one,
        )
    )
    map = attention_map(system)
    change = max(apart(map, attention_map(other)) for other in (turned, still))
    identity = apart(still.A.dense(), one)
    moduli = [
        dsf.measures.transition_eigenvalues(each).abs().sort(dim=-1).values
        for each in (system, turned)
    ]
    return shown(
        apart(*moduli) if max(change, identity) < ROUNDING else math.nan,
        beyond=ROUNDING,
        case={
            "largest difference of the maps": change,
            "largest difference of the moduli of the eigenvalues, random basis": apart(*moduli),
            "distance of A from the identity in the basis η": identity,
        },
    )


def normalised(scores: Tensor) -> Tensor:
    """Rows over their sums, as linear attention normalises."""
    return scores / scores.sum(dim=-1, keepdim=True)


@check("DSF-19")
def stability_by_normalisation(normalise=normalised):
    """Largest eigenvalues of state-space models and gates, ratios of normalisers, and row sums."""
    largest = {
        form.name: float(dsf.measures.transition_eigenvalues(form.system).abs().max())
        for form in (*selective_forms(), *gated_forms())
    }
    ratios, sums, plain = [], [], []
    for tokens in (64, 256, 1024):
        query, key = normal(tokens, 2, tokens, 4)
        scores = (elu_plus_one(query) @ elu_plus_one(key).T).tril()
        eta = scores.sum(dim=-1)
        ratios.append(float((eta[:-1] / eta[1:]).max()))
        sums.append(float((normalise(scores).sum(dim=-1) - 1).abs().max()))
        plain.append(float(eta.max()))
    return held(
        {
            "state-space models and gates stay below 1": max(largest.values()) < 1,
            "attention has eigenvalues above 1": min(ratios) > 1,
            "normalised rows sum to 1 at every length": max(sums) < ROUNDING,
            "rows without normaliser grow with the length": plain[-1] > 4 * plain[0],
        },
        observed=max(ratios),
        figures={"η_{i-1}/η_i of attention": ratios, "eigenvalues of the others": largest},
    )


@check("DSF-18")
def normaliser_is_a_gate(gate=lambda normaliser: 1 / normaliser):
    """Maps for three normalisers, and a permuted past."""
    rng = generator()
    query, key, value = normal(rng, 3, 12, 4)
    pre, order = normal(rng, 12), torch.tensor([*rng.permutation(11), 11])
    plain = (query @ key.mT).tril()
    gated, shuffled = [], []
    for g in NORMALISERS.values():
        mixer = mixers.NormalisedAttention(query=query, key=key, value=value, normaliser=g(pre))
        gated.append(apart(weights(mixer), gate(g(pre)).unsqueeze(-1) * plain))
        other = replace(mixer, key=key[order], value=value[order])
        shuffled.append(apart(output(other)[-1], output(mixer)[-1]))
    return argued(
        {
            "the maps are the gated ones, for exp, softplus and sigmoid": max(gated) < ROUNDING,
            "permuting past pairs leaves the output": max(shuffled) < ROUNDING,
        },
        observed=max(gated + shuffled),
    )


@check("DSF-16")
def zero_padding(entry=0):
    """Add a state that is fed ``entry`` times the input, with any decay and any read: symbols."""

    def matrices(name: str, rows: int, columns: int) -> list[sympy.Matrix]:
        count = rows * columns
        return [sympy.Matrix(rows, columns, sympy.symbols(f"{name}{t}_:{count}")) for t in range(3)]

    A, B, C = matrices("A", 2, 2), matrices("B", 2, 1), matrices("C", 1, 2)
    added, read = matrices("X", 1, 1), matrices("Y", 1, 1)
    missed = sympy.S.Zero
    for i in range(3):
        for j in range(i + 1):
            small, large = B[j], B[j].col_join(sympy.Matrix([[entry]]))
            for t in range(j + 1, i + 1):
                small, large = A[t] * small, sympy.diag(A[t], added[t]) * large
            missed += sympy.expand((C[i] * small - C[i].row_join(read[i]) * large)[0]) ** 2
    return argued({"the maps agree with symbols (3 tokens, 2 and 3 states)": missed == 0})


@check("DSF-31")
def wider_layer(weight=0.0):
    """Two more features whose weights are ``weight``: normalised attention, S6, elu + 1.

    Features elu + 1 are positive and cannot be zero: there the weights go to minus infinity.
    """
    rng = generator()
    query, key, value = normal(rng, 3, 12, 4)
    eta = uniform(rng, 12, low=0.5, high=2)
    pole, step = -uniform(rng, 4, 6, low=0.2, high=2), uniform(rng, 12, 4, low=0.1, high=1)
    builds: dict[str, Callable[[Tensor, Tensor], mixers.Mixer]] = {
        "normalised": lambda read, write: mixers.NormalisedAttention(
            query=read, key=write, value=value, normaliser=eta
        ),
        "S6": lambda read, write: mixers.SelectiveStateSpace(
            value=value, step=step, pole=pole[:, : read.shape[-1]], write=write, read=read
        ),
        "elu + 1": lambda read, write: mixers.LinearAttention(query=read, key=write, value=value),
    }

    def change(name: str, weight: float) -> float:
        extra = torch.full((12, 2), weight, dtype=torch.float64)
        wide = [torch.cat([part, extra], dim=-1) for part in (query, key)]
        return apart(weights(builds[name](*wide)), weights(builds[name](query, key)))

    kept = max(change("normalised", weight), change("S6", weight))
    positive = {weight: change("elu + 1", weight) for weight in (0.0, -10.0, -20.0)}
    return argued(
        {
            "normalised attention and S6 keep their maps": kept <= ROUNDING,
            "elu + 1 approaches its map": positive[-20.0] < 1e-15,
            "and does not have it at weights of zero": positive[0.0] > 1e-2,
        },
        observed=kept,
        figures={"change of the map of elu + 1, by weight": positive},
    )


@check("DSF-11")
def softplus_is_a_power(sign=-1):
    """With symbols, and on rates up to 4 and |z| up to 40 in float64."""
    a, z = sympy.symbols("a z", real=True)
    log_sigmoid = sympy.expand_log(sympy.log(1 / (1 + sympy.exp(-sign * z))), force=True)
    difference = -a * sympy.log(1 + sympy.exp(z)) - a * log_sigmoid
    rng = generator()
    at, rate = uniform(rng, 10_000, low=-40.0, high=40.0), uniform(rng, 10_000, low=0.0, high=4.0)
    decay = (-rate * torch.logaddexp(at, torch.zeros_like(at))).exp()  # torch's drops e^-z above 20
    error = apart(decay, (sign * at).sigmoid() ** rate)
    return argued(
        {
            "the logarithms are equal (symbols)": sympy.simplify(difference) == 0,
            "10,000 drawn pairs agree to 1e-14": error <= 1e-14,
        },
        observed=error,
    )


@check("DSF-20")
def reversed_gate(power=1.0):
    """Bit by bit: W and b with the variant's gate, -W and -b with the plain one."""
    rng = generator()
    u, W, b = normal(rng, 20, 6), normal(rng, 6, 6), normal(rng, 6)
    gates = {"value": u, "input": (u @ normal(rng, 6, 6)).sigmoid(), "output": u.sigmoid()}
    turned, plain = u @ W.T + b, u @ (-W).T + (-b)
    variant = mixers.QuasiLSTM(forget=(-turned).sigmoid() ** power, **gates)
    lstm = mixers.QuasiLSTM(forget=plain.sigmoid(), **gates)
    maps = weights(variant), weights(lstm)
    return argued(
        {
            "the logits differ in sign only": plain.equal(-turned),
            "the maps have equal bits": maps[0].equal(maps[1]),
            "the outputs have equal bits": output(variant).equal(output(lstm)),
        },
        observed=apart(*maps),
    )


@check("DSF-24")
def first_steps(executed=dsf.layers.as_executed):
    """S6 on an input of zeros, initialised as intended and as executed."""
    x = torch.zeros(1, 1, 64)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        layer = dsf.layers.SelectiveStateSpace(64, state_size=8)
        intended = layer.mixer(x).step
        executed(layer)
        mixer = layer.mixer(x)
        decay = mixer.system().A.dense().diagonal(dim1=-2, dim2=-1)
    halves, near = 0.5 ** torch.arange(1.0, 9.0), 1e-6
    from_to = [float(intended.min()), float(intended.max())]
    return held(
        {
            "as executed the step is log 2": float((mixer.step - math.log(2)).abs().max()) < near,
            "as executed state s decays by 2^-s": apart(decay, halves) < near,
            "as intended steps lie in [0.001, 0.1]": (
                from_to[0] >= 1e-3 * (1 - near) and from_to[1] <= 0.1 * (1 + near)
            ),
        },
        observed=float(mixer.step.mean()),
        figures={"intended steps from, to": from_to},
    )


@check("DSF-26")
def runs_in_the_grids(rates_of_the_lstm=1):
    """Count the released grids, and look for the product that gives the announced number."""
    main, lstm = 5 * 4 * 4 * 4 * 4, 2 * 3 * 4 * 4
    return argued(
        {
            "320 and 24 settings, as Appendix J says": (main, lstm) == (4 * 320, 4 * 24),
            "4 x 320 + 24 = 1304": 4 * 320 + rates_of_the_lstm * 24 == 1304,
            "4 x (320 + 24) is not 1304": main + lstm != 1304,
        },
        figures={"announced": 1304, "runs": main + lstm},
    )
