"""The ways a claim is decided: what each verdict needs, and that nan decides nothing."""

import pytest
import sympy

from dsf.certificates import Verdict
from dsf.claims.deciding import argued, held, identical, measured, out_of_reach, refuted, shown

NAN = float("nan")


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(1e-13, "HOLDS_NUMERICALLY"), (1e-11, "REFUTED"), (NAN, "UNKNOWN")],
)
def test_measured(error, verdict):
    certificate = measured("c", error, within=1e-12, method="m")
    assert certificate.verdict is Verdict[verdict]


def test_a_measured_error_is_the_witness():
    certificate = measured("c", 0.5, within=0.1, method="m")
    assert certificate.witness == {"error": 0.5, "allowed": 0.1}


@pytest.mark.parametrize(
    ("met", "observed", "verdict"),
    [(True, 1.0, "HOLDS_NUMERICALLY"), (False, 1.0, "REFUTED"), (True, NAN, "UNKNOWN")],
)
def test_held(met, observed, verdict):
    certificate = held("c", {"first": True, "second": met}, method="m", observed=observed)
    assert certificate.verdict is Verdict[verdict]


def test_what_failed_is_the_witness():
    certificate = held("c", {"a": True, "b": False}, method="m", figures={"x": 2})
    assert certificate.witness == {"failed": ["b"], "x": 2}


@pytest.mark.parametrize(
    ("violation", "verdict"), [(0.2, "REFUTED"), (0.1, "UNKNOWN"), (NAN, "UNKNOWN")]
)
def test_refuted_needs_a_violation(violation, verdict):
    certificate = refuted("c", violation, beyond=0.1, witness={"x": 1}, method="m")
    assert certificate.verdict is Verdict[verdict]


@pytest.mark.parametrize(
    ("difference", "verdict"), [(0.2, "ARGUED"), (0.1, "UNKNOWN"), (NAN, "UNKNOWN")]
)
def test_one_case_shows_a_difference(difference, verdict):
    certificate = shown("c", difference, beyond=0.1, case={"x": 1}, method="m")
    assert certificate.verdict is Verdict[verdict]
    assert certificate.evidence.get("case") == ({"x": 1} if verdict == "ARGUED" else None)


@pytest.mark.parametrize(
    "decide",
    [
        lambda: argued("P = NP", "trust me", {}, method="m"),
        lambda: held("nothing asked", {}, method="m"),
        lambda: measured("the error is small", -5.0, within=1e-9, method="m"),
    ],
)
def test_what_was_not_checked_is_refused(decide):
    with pytest.raises(ValueError, match=r"nothing was checked|an error is a size"):
        decide()


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("residual", [False, sympy.false])
def test_a_truth_value_is_no_residual(residual):
    with pytest.raises(TypeError, match="truth value False came"):
        identical("x", residual, method="m")


def test_symbols_show_zero_and_nothing_else():
    x = sympy.Symbol("x")
    assert identical("c", sympy.expand((x + 1) ** 2 - x**2 - 2 * x - 1), method="m").verdict is (
        Verdict.ARGUED
    )
    open_case = identical("c", x, method="m")
    assert open_case.verdict is Verdict.UNKNOWN
    assert open_case.limits == {"residual": "x"}


def test_an_argument_stands_on_its_hypotheses():
    assert argued("c", "because", {"h": True}, method="m").verdict is Verdict.ARGUED
    failed = argued("c", "because", {"h": True, "k": False}, method="m")
    assert failed.verdict is Verdict.UNKNOWN
    assert failed.limits == {"failed": ["k"]}


def test_what_is_out_of_reach_says_why():
    assert out_of_reach("c", "a cluster").limits == {"scale": "a cluster"}
