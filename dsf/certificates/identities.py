"""Identities shown by computer algebra, for every size where it allows that, else at one size.

Each function returns a certificate whose claim says what it quantifies over. If the residual does
not simplify to zero, the verdict is UNKNOWN, else ARGUED, since the checker cannot read it. Some
functions take the expression as an argument, so that a false identity can be tried.
"""

from collections.abc import Callable

import sympy
from sympy import Identity, MatrixSymbol, OneMatrix, Symbol, ZeroMatrix
from sympy.matrices.expressions.matexpr import MatrixExpr

from dsf.certificates.certificate import Certificate, Level, Verdict

TOKENS = Symbol("n", integer=True, positive=True)
Row = Callable[[MatrixExpr], MatrixExpr]


def in_line_row(scores: MatrixExpr) -> MatrixExpr:
    """The row of InLine attention from the scores of one query: centred, plus 1/n."""
    ones = OneMatrix(TOKENS, 1)
    return scores - ones * (ones.T * scores) / TOKENS + ones / TOKENS


def centred_row(scores: MatrixExpr) -> MatrixExpr:
    """The first-order part of zero-sum attention: scores minus their mean."""
    ones = OneMatrix(TOKENS, 1)
    return scores - ones * (ones.T * scores) / TOKENS


def in_line_sums_to_one(row: Row = in_line_row) -> Certificate:
    """Rows of InLine attention sum to one, for any number of tokens and any scores."""
    return _row_sum("rows of InLine attention sum to 1", row, Identity(1))


def centred_sums_to_zero(row: Row = centred_row) -> Certificate:
    """Centred scores sum to zero, for any number of tokens and any scores."""
    return _row_sum("centred scores sum to 0", row, ZeroMatrix(1, 1))


def basis_leaves_the_map(tokens: int = 3, states: int = 2) -> Certificate:
    """The change of basis h -> T_t h leaves every entry of the map unchanged, at a stated size.

    Checked entry by entry on C T_i^-1 (T_i A_i T_{i-1}^-1) ... T_j B with symbolic 2 x 2 (or
    larger) matrices; that T_t are invertible is an assumption.
    """
    A, T = _matrices("A", tokens, states), _matrices("T", tokens, states)
    B = [sympy.Matrix(states, 1, sympy.symbols(f"b{t}_:{states}")) for t in range(tokens)]
    C = [sympy.Matrix(1, states, sympy.symbols(f"c{t}_:{states}")) for t in range(tokens)]
    missed = sympy.S.Zero
    for i in range(tokens):
        for j in range(i + 1):
            plain, turned = B[j], T[j] * B[j]
            for t in range(j + 1, i + 1):
                plain = A[t] * plain
                turned = T[t] * A[t] * T[t - 1].inv() * turned
            difference = (C[i] * plain - C[i] * T[i].inv() * turned)[0]
            missed += sympy.Abs(sympy.cancel(difference))
    claim = f"a change of state basis leaves the map alone ({tokens} tokens, {states} states)"
    return _decided(claim, missed, "symbolic entries, cancelled")


def separable_attention_telescopes(tokens: int = 4) -> Certificate:
    """A_t = (eta_{t-1}/eta_t) I and B_t = k_t/eta_t give the entry q_i.k_j/eta_i, at a stated size.

    B_t needs the normaliser of its *own* token.
    """
    eta = sympy.symbols(f"eta1:{tokens + 1}", positive=True)
    missed = sympy.S.Zero
    for i in range(tokens):
        for j in range(i + 1):
            product = sympy.prod([eta[t - 1] / eta[t] for t in range(j + 1, i + 1)])
            missed += sympy.Abs(sympy.cancel(product / eta[j] - 1 / eta[i]))
    claim = f"separable attention telescopes to one over its own normaliser ({tokens} tokens)"
    return _decided(claim, missed, "symbolic products, cancelled")


def softplus_decay_is_a_power() -> Certificate:
    """exp(-a log(1 + e^z)) = (1 + e^z)^-a: the decay of S6 is a power of a sigmoid of -z."""
    a, z = sympy.symbols("a z", real=True)
    sigmoid = 1 / (1 + sympy.exp(z))
    left = sympy.exp(-a * sympy.log(1 + sympy.exp(z)))
    missed = sympy.simplify(sympy.expand_log(sympy.log(left / sigmoid**a), force=True))
    return _decided("exp(-a softplus(z)) = sigmoid(-z)^a for all real a, z", missed, "symbolic")


def delta_step_overwrites(states: int = 3) -> Certificate:
    """With |k| = 1 and rate 1, reading at the key after a delta step returns the new value."""
    k = sympy.Matrix(states, 1, sympy.symbols(f"k:{states}", real=True))
    state = sympy.Matrix(states, 1, sympy.symbols(f"s:{states}", real=True))
    value = Symbol("v", real=True)
    after = state - k * (k.T * state)[0] + k * value
    left = sympy.expand((k.T * after)[0] - value)
    size = sum(part**2 for part in k)
    unit = sympy.Poly(left, *k).div(sympy.Poly(size - 1, *k))[1].as_expr()
    claim = f"a delta step of rate 1 with a unit key stores the new value ({states} states)"
    return _decided(claim, sympy.simplify(unit), "polynomial remainder modulo |k|^2 - 1")


IDENTITIES: tuple[Callable[[], Certificate], ...] = (
    in_line_sums_to_one,
    centred_sums_to_zero,
    basis_leaves_the_map,
    separable_attention_telescopes,
    softplus_decay_is_a_power,
    delta_step_overwrites,
)


def _row_sum(claim: str, row: Row, expected: MatrixExpr) -> Certificate:
    scores = MatrixSymbol("s", TOKENS, 1)
    total = (OneMatrix(TOKENS, 1).T * row(scores)).expand().doit()
    missed = sympy.S.Zero if total == expected else sympy.S.One
    return _decided(f"{claim}, for any number of tokens", missed, "matrix symbols of any size")


def _matrices(name: str, tokens: int, states: int) -> list[sympy.Matrix]:
    return [
        sympy.Matrix(states, states, sympy.symbols(f"{name}{t}_:{states * states}"))
        for t in range(tokens)
    ]


def _decided(claim: str, missed: sympy.Expr, method: str) -> Certificate:
    proved = missed == 0
    return Certificate(
        claim=claim,
        verdict=Verdict.ARGUED if proved else Verdict.UNKNOWN,
        level=Level.REAL,
        method=method,
        assumptions=("sympy simplifies correctly",),
        limits={} if proved else {"residual": str(missed)[:200]},
    )
