"""Checks of InLine attention (Han et al. 2024, arXiv:2412.06590) and of its released code."""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import sympy
import torch
from jaxtyping import Float
from sympy import MatrixSymbol, OneMatrix, Symbol, ZeroMatrix
from sympy.matrices.expressions.matexpr import MatrixExpr
from torch import Tensor, nn

import dsf
from dsf import measures, mixers
from dsf.certificates import Verdict
from dsf.mixers import ingredients
from papers.drawn import apart, generator, normal, output, weights
from papers.in_line.experiments.digits.figure_one import PANELS, SOFTMAX_SCALE, largest_differences
from papers.tables import read_tables
from papers.verdicts import argued, check, held, shown

NEAR, RECOVERED = 1e-12, 1e-9
TOKENS, WIDTH = 40, 8
FeatureMap = Callable[[Tensor], Tensor]
identity, relu, elu_plus_one = ingredients.identity, ingredients.relu, ingredients.elu_plus_one


def drawn(
    queries: int, *, tokens: int = TOKENS, width: int = WIDTH
) -> tuple[Float[Tensor, "queries key"], Float[Tensor, "tokens key"]]:
    """Standard normal queries and keys, the keys drawn first, always the same."""
    rng = generator()
    key = normal(rng, tokens, width)
    return normal(rng, queries, width), key


def softmax_rows(query: Tensor, key: Tensor, *, scale: float = 1.0) -> Tensor:
    """Softmax weights, ``scale`` on every score."""
    value = torch.ones_like(key[:, :1])
    return weights(
        mixers.SoftmaxAttention(query=query, key=key, value=value, scale=scale, causal=False)
    )


def linear_rows(query: Tensor, key: Tensor, *, feature_map: FeatureMap) -> Tensor:
    """Weights of normalised linear attention."""
    return _rows(mixers.LinearAttention, feature_map(query), feature_map(key))


def in_line_rows(
    query: Tensor, key: Tensor, *, feature_map: FeatureMap = identity, scale: float = 1.0
) -> Tensor:
    """InLine weights, ``scale`` on every product of features."""
    return _rows(mixers.InLineAttention, scale * feature_map(query), feature_map(key))


def _rows(mixer: Callable[..., Any], query: Tensor, key: Tensor) -> Tensor:
    """Queries in stacks of as many as there are keys, the last one repeated to fill up."""
    tokens = len(key)
    stacks = -(-len(query) // tokens)
    filling = query[-1:].expand(stacks * tokens - len(query), -1)
    keys = key.expand(stacks, *key.shape)
    built = mixer(
        query=torch.cat([query, filling]).unflatten(0, (stacks, tokens)),
        key=keys,
        value=torch.ones_like(keys[..., :1]),
        feature_map=identity,
        causal=False,
    )
    return weights(built).flatten(0, 1)[: len(query)]


def full_rank(key: Float[Tensor, "tokens key"]) -> bool:
    """Whether [K, 1] has one more independent column than keys have entries."""
    found = measures.key_rank(key)
    return int(found.rank) == found.full


@check("INL-1")
def injective_iff_full_rank(condition=full_rank):
    """Compare the condition with exact verdicts, and the exact directions with real rows."""
    logits = sympy.symbols("s1:4", real=True)
    total = sum(sympy.exp(s) for s in logits)
    ratio = sympy.log(sympy.exp(logits[0]) / total) - sympy.log(sympy.exp(logits[1]) / total)
    residual = sympy.simplify(sympy.expand_log(ratio, force=True) - logits[0] + logits[1])
    generic = drawn(1)[1]
    whole = torch.tensor(generator().integers(-4, 5, (TOKENS, WIDTH))).double()
    cases = [generic, generic[:WIDTH]]  # the second are too few
    for level in (3, 0):  # keys with K 1 = 3 and with K 1 = 0
        keys = whole.clone()
        keys[:, -1] = level - keys[:, :-1].sum(dim=-1)
        cases.append(keys)
    agrees, returned, colliding = True, 0.0, 0.0
    for key in cases:
        query = drawn(1)[0]
        certificate = dsf.certify.injective(key, first_row=len(key) - 1)
        agrees &= condition(key) == (certificate.verdict is Verdict.PROVED)
        if certificate.witness is None:  # log w = [K, 1] (q, -log total)
            columns = torch.cat([key, torch.ones_like(key[:, :1])], dim=-1)
            logs = softmax_rows(query, key)[0].log().unsqueeze(-1)
            found = torch.linalg.lstsq(columns, logs).solution[:-1, 0]
            returned = max(returned, apart(found, query[0]))
        else:
            null = certificate.witness["null"]
            largest = max(map(abs, null))
            other = query + 3 * query.new_tensor([entry / largest for entry in null[:-1]])
            colliding = max(colliding, apart(softmax_rows(query, key), softmax_rows(other, key)))
    return argued(
        {
            "log w_1/w_2 = s_1 - s_2, with symbols": residual == 0,
            "the condition agrees with the exact rank of each key matrix": agrees,
            "with full rank the query comes back from its row": returned <= RECOVERED,
            "without it the exact null direction moves no weight": colliding <= NEAR,
        },
        observed=colliding,
        figures={"query recovered within": returned},
    )


@check("INL-8")
def early_causal_rows_collide(tokens=3):
    """Move a query along the normal of the keys that row ``tokens`` (from 1) reads; d = 3."""
    query, key = drawn(TOKENS, width=3)
    direction = torch.linalg.cross(key[1] - key[0], key[2] - key[0])
    moved = query + direction / direction.norm()
    maps = [
        weights(mixers.SoftmaxAttention(query=part, key=key, value=key, scale=1.0))
        for part in (query, moved)
    ]
    difference = apart(maps[0][tokens - 1], maps[1][tokens - 1])
    refuted = dsf.certify.injective(key, first_row=tokens - 1).verdict is Verdict.REFUTED
    return shown(
        (moved - query)[tokens - 1].norm().item() if difference <= NEAR and refuted else 0.0,
        beyond=0.5,
        case={
            "row": tokens,
            "direction": direction.tolist(),
            "row moves by": difference,
            "row 4 moves by": apart(maps[0][3], maps[1][3]),
            "injective from row 4 on": dsf.certify.injective(key).verdict.value,
        },
    )


MAPS: dict[str, FeatureMap] = {
    "identity": identity,
    "relu": relu,
    "elu_plus_one": elu_plus_one,
    "exp": ingredients.exp,
    "softplus": ingredients.softplus,
}


def by_factor(query: Tensor, feature_map: str) -> Tensor:
    """Queries whose features are 2.5 times those of ``query``."""
    return measures.colliding_query(query, feature_map=feature_map)


@check("INL-3")
def never_injective_up_to_width(collide=by_factor, maps=MAPS):
    """Rows of two queries with proportional features, by linear, softmax and InLine attention."""
    query, key = drawn(1)
    moved: dict[str, list[float]] = {"linear": [], "softmax": [], "InLine": []}
    for name, feature_map in maps.items():
        other = collide(query, name)
        for kind, rows in {
            "linear": partial(linear_rows, key=key, feature_map=feature_map),
            "softmax": partial(softmax_rows, key=key),
            "InLine": partial(in_line_rows, key=key, feature_map=feature_map),
        }.items():
            moved[kind].append(apart(rows(query), rows(other)))
    verdicts = {
        dsf.certify.linear_injective(key, feature_map=name).verdict
        for name in ("identity", "relu", "elu_plus_one")
    }
    scores, factor = sympy.symbols("s1:4", positive=True), sympy.Symbol("c", positive=True)
    scaled = factor * scores[0] / sum(factor * s for s in scores)
    return argued(
        {
            "a factor on the features cancels, with symbols": (
                sympy.cancel(scores[0] / sum(scores) - scaled) == 0
            ),
            "no feature map widens": all(f(key).shape[-1] <= WIDTH for f in maps.values()),
            "the two queries get one linear row": max(moved["linear"]) <= NEAR,
            "softmax tells them apart": min(moved["softmax"]) > 1e-2,
            "InLine tells them apart": min(moved["InLine"]) > 1e-2,
            "pairs as fractions": verdicts == {Verdict.REFUTED},
        },
        observed=max(moved["linear"]),
        figures={"feature maps": list(maps), **moved},
    )


def both_exponentials(x: Tensor) -> Tensor:
    """``[e^x, e^-x]``, positive, twice as many features as entries."""
    return torch.cat([x.exp(), (-x).exp()], dim=-1)


@check("INL-4")
def more_features_can_be_injective(feature_map=both_exponentials):
    """Recover the query from its row: the row gives the features up to a factor.

    With ``[e^x, e^-x]`` the factor is known, since the two features of an entry have product 1.
    """
    query, key = drawn(1)
    rows = partial(linear_rows, key=key, feature_map=feature_map)
    row = rows(query)[0].unsqueeze(-1)
    up, down = torch.linalg.lstsq(both_exponentials(key), row).solution[:, 0].chunk(2)
    missed = apart((up / down).log() / 2, query[0])
    rank = int(measures.jacobian_rank(lambda single: rows(single.unsqueeze(0))[0], query)[0])
    return shown(
        float(rank - (WIDTH - 1)) if missed <= RECOVERED else 0.0,
        beyond=0.5,
        case={
            "features": "[e^x, e^-x]",
            "inverse": "q = log(z[:d] / z[d:]) / 2 where [e^K, e^-K] z is the row",
            "query recovered within": missed,
            "Jacobian rank, d = 8": rank,
        },
    )


def undone_elu(y: Tensor) -> Tensor:
    """The inverse of elu + 1."""
    return torch.where(y > 1, y - 1, y.clamp(max=1).log())


WITH_INVERSE = ((identity, identity), (elu_plus_one, undone_elu))


@check("INL-6")
def injective_with_such_features(maps=WITH_INVERSE):
    """Exact rank of [phi(K), 1], and twenty queries back from their rows."""
    query, key = drawn(20)
    verdicts, missed = set(), 0.0
    for feature_map, inverse in maps:
        features = feature_map(key)
        verdicts.add(dsf.certify.injective(features, first_row=len(key) - 1).verdict)
        rows = in_line_rows(query, key, feature_map=feature_map)
        columns = torch.cat([features, torch.ones_like(features[:, :1])], dim=-1)
        found = torch.linalg.lstsq(columns, rows.mT).solution[:-1].mT
        missed = max(missed, apart(inverse(found), query))
    return argued(
        {
            "[phi(K), 1] has full rank, exactly": verdicts == {Verdict.PROVED},
            "phi has an inverse, and queries come back from their rows": missed <= 1e-9,
        },
        observed=missed,
    )


@check("INL-25")
def not_injective_with_relu(feature_map=relu):
    """Rows of a query and of the same query with its negative entries doubled."""
    query, key = drawn(1)
    other = torch.where(query < 0, 2 * query, query)
    rows = [in_line_rows(q, key, feature_map=feature_map) for q in (query, other)]
    return shown(
        (query - other).norm().item() if torch.equal(*rows) else 0.0,
        beyond=0.5,
        case={
            "feature map": "ReLU",
            "query": query[0].tolist(),
            "other": other[0].tolist(),
            "largest difference of the rows": apart(*rows),
        },
    )


N = Symbol("n", integer=True, positive=True)
ONES = OneMatrix(N, 1)
SCALE = Symbol("c", positive=True)
SymbolicRow = Callable[[MatrixExpr], MatrixExpr]


def in_line_row(scores: MatrixExpr) -> MatrixExpr:
    """The row of InLine attention from the scores of one query: centred, plus 1/n."""
    return scores - ONES * (ONES.T * scores) / N + ONES / N


def in_linear_time(scores: MatrixExpr, value: MatrixExpr) -> MatrixExpr:
    """One output from the two sums that all queries share: over keys and values, over keys."""
    total = scores.T * value
    return total - (scores.T * ONES) * (ONES.T * value) / N + (ONES.T * value) / N


def _tokens(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    rng = generator()
    return normal(rng, tokens, 8), normal(rng, tokens, 8), normal(rng, tokens, 8)


@check("INL-10")
def linear_time_form(form=in_linear_time):
    """Sum weights times values in the other order, with symbols; the library does both."""
    scores, value = (MatrixSymbol(name, N, 1) for name in "sv")
    left = (form(scores, value) - in_line_row(scores).T * value).expand().doit()
    query, key, values = _tokens(40)
    mixer = mixers.InLineAttention(
        query=query, key=key, value=values, feature_map=elu_plus_one, causal=False
    )
    by_map = weights(mixer) @ values
    read, write = elu_plus_one(query), elu_plus_one(key)
    share = (read @ write.sum(dim=0) - 1).unsqueeze(-1)
    by_sums = read @ (write.mT @ values) - share * values.mean(dim=0)
    off = max(
        float((each - by_map).norm() / by_map.norm())
        for each in (by_sums, output(mixer).squeeze(-2))
    )
    return argued(
        {
            "equal with symbols, for any number of tokens": left == ZeroMatrix(1, 1),
            "equal in the library and by the formula, within 1e-12": off <= NEAR,
        },
        observed=off,
    )


def released(scores: MatrixExpr) -> MatrixExpr:
    """The released row: c/n on every score, and (1 - c mean score)/n on every value."""
    return SCALE * scores / N + ONES / N - SCALE * ONES * (ONES.T * scores) / N**2


@check("INL-11")
def released_code(row=released):
    """The released row against InLine of scaled queries, with symbols and with numbers."""
    scores = MatrixSymbol("s", N, 1)
    left = (row(scores) - in_line_row(SCALE * scores / N)).expand().doit()
    query, key, value = _tokens(40)
    scale = query.shape[-1] ** -0.5
    mixer = mixers.InLineAttention(
        query=query * scale / len(key), key=key, value=value, feature_map=identity, causal=False
    )
    share = 1 - scale * (query @ key.mean(dim=0)).unsqueeze(-1)
    as_released = query @ (key.mT @ value * (scale / len(key))) + share * value.mean(dim=0)
    off = apart(as_released, weights(mixer) @ value)
    return argued(
        {
            "equal with symbols, for any number of tokens": left == ZeroMatrix(N, 1),
            "equal in the library, within 1e-12": off <= NEAR,
        },
        observed=off,
    )


OFFICIAL_SCALE = WIDTH**-0.5 / TOKENS


@check("INL-9")
def rows_sum_to_one(row=in_line_row):
    """Sum the row with symbols, for any number of tokens; count signs over 1000 queries."""
    scores = MatrixSymbol("s", N, 1)
    total = (ONES.T * row(scores)).expand().doit()
    query, key = drawn(1000)
    rows = [in_line_rows(query, key, scale=scale) for scale in (1.0, OFFICIAL_SCALE)]
    off = max(float((part.sum(dim=-1) - 1).abs().max()) for part in rows)
    negative = [float((part < 0).double().mean()) for part in rows]
    return argued(
        {
            "the row sums to one, with symbols": total == sympy.Identity(1),
            "rows of the library's mixer do, within 1e-10": off <= 1e-10,
            "negative weights occur": min(negative) > 0,
        },
        observed=off,
        figures={"share of negative weights at scale 1 and d^-1/2 / N": negative},
    )


@check("INL-17")
def uniform_mass(printed=Fraction(9, 197)):
    """Count the patches of each window on the grid, and weigh them by softmax at zero scores."""
    side, tokens = 14, 14 * 14 + 1
    windows = {}
    for i, j in product(range(side), repeat=2):
        rows, columns = (range(max(0, at - 1), min(side, at + 2)) for at in (i, j))
        windows[i, j] = [row * side + column for row in rows for column in columns]
    sizes = {len(windows[i, j]) for i, j in product(range(1, side - 1), repeat=2)}
    mean = Fraction(sum(map(len, windows.values())), side * side * tokens)
    zero = torch.zeros(tokens, 1, dtype=torch.float64)
    uniform = softmax_rows(zero, zero)
    masses = [uniform[i * side + j, places].sum() for (i, j), places in windows.items()]
    inside = measures.uniform_neighbourhood(grid=(side, side), edge_aware=False, extra_tokens=1)
    return argued(
        {
            "every window inside the grid has the printed mass, exactly": (
                {Fraction(size, tokens) for size in sizes} == {printed}
            ),
            "so says the measure": abs(inside - float(printed)) <= NEAR,
            "softmax at zero scores has the mean over all windows": (
                abs(float(torch.stack(masses).mean()) - float(mean)) <= NEAR
            ),
        },
        figures={"interior": inside, "mean over all windows": float(mean)},
    )


@check("INL-15")
def figure_uses_the_factors(scale=SOFTMAX_SCALE):
    """Weights of panel (a) with ``scale`` on every score, and with scale 1."""

    def distances(softmax: float, in_line: float) -> list[float]:
        found = largest_differences(PANELS["a"], softmax_scale=softmax, in_line_scale=in_line)
        return [found["softmax"], found["in_line"]]

    off, bare = distances(scale, scale / 4), distances(1.0, 1.0)
    return held(
        {
            "with the factors the weights are the printed ones": max(off) <= 0.01,
            "without they are not": min(bare) > 0.01,
        },
        observed=max(off),
        figures={"distance of softmax and InLine with the factors": off, "without": bare},
    )


SIZES = {
    "InLine-DeiT-T": {"width": 192, "heads": 6, "image": 224, "stated": 6.5},
    "InLine-DeiT-S": {"width": 320, "heads": 10, "image": 288, "stated": 16.7},
    "InLine-DeiT-B": {"width": 384, "heads": 12, "image": 448, "stated": 23.8},
}
"""The models of the family, and their parameters as the README rounds them, in millions."""


def vision_transformer(*, width: int, heads: int, image: int) -> nn.Module:
    """The parameters of a vision transformer with InLine attention; it is counted, never run."""
    side = image // 16

    def block() -> list[nn.Module]:
        residual = dsf.layers.LocalResidual(width, heads=heads, grid=(side, side), class_token=True)
        return [
            nn.LayerNorm(width),
            dsf.layers.InLineAttention(width, heads=heads, causal=False, residual=residual),
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        ]

    model = nn.ModuleList(part for _ in range(12) for part in block())
    model += [nn.Conv2d(3, width, 16, stride=16), nn.LayerNorm(width), nn.Linear(width, 1000)]
    model.class_token = nn.Parameter(torch.empty(width))
    model.positions = nn.Parameter(torch.empty(side * side + 1, width))
    return model


@check("INL-19")
def counted(sizes=SIZES):
    """Build the three models without memory, count, and round as the README does."""
    counts, met = {}, {}
    for name, size in sizes.items():
        parts = dict(size)
        stated = parts.pop("stated")
        with torch.device("meta"):
            model = vision_transformer(**parts)
        counts[name] = sum(part.numel() for part in model.parameters())
        met[f"{name} rounds to {stated} million"] = round(counts[name] / 1e6, 1) == stated
    return argued(met, figures={"parameters": counts})


README = {"CSwin-T": 25, "CSwin-S": 43, "CSwin-B": 96}
FIGURE = {"CSwin-T": 21, "CSwin-S": 33, "CSwin-B": 73}
"""InLine-CSwin, in millions, as the README and as the classification figure have them."""


@check("INL-23")
def readme_and_figure_differ(readme=README, figure=FIGURE):
    """Compare the two lists; a million is left to rounding."""
    return shown(
        float(max(abs(readme[name] - figure[name]) for name in readme)),
        beyond=1.0,
        case={"README, millions": dict(readme), "figure, millions": dict(figure)},
    )


@check("INL-28")
def ahead_of_softmax(ours="InLine-", theirs=""):
    """Both columns of every pair."""
    table = read_tables(Path(__file__).with_name("tables.toml"))["classification"]
    met = {}
    for name in (row for row in table.rows if row.startswith("CSwin")):
        pair = f"{ours}{name}", [f"{theirs}{name}"]
        met[f"{name}, accuracy"] = table.margin(*pair, column="accuracy") > 0
        met[f"{name}, fewer parameters"] = table.margin(*pair, column="millions") < 0
    return held(met)
