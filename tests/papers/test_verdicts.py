"""The ways a statement is decided: what each verdict needs, and that nan decides nothing."""

import pytest
import sympy

from papers.verdicts import (
    CHECKS,
    argued,
    check,
    held,
    identical,
    measured,
    refuted,
    shown,
    unknown,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("found", "verdict"),
    [
        (measured(1e-13, within=1e-12), "HOLDS_NUMERICALLY"),
        (measured(1e-11, within=1e-12), "REFUTED"),
        (measured(NAN, within=1e-12), "UNKNOWN"),
        (held({"a": True, "b": True}, observed=1.0), "HOLDS_NUMERICALLY"),
        (held({"a": True, "b": False}, observed=1.0), "REFUTED"),
        (held({"a": True}, observed=NAN), "UNKNOWN"),
        (refuted(0.2, beyond=0.1, witness={"x": 1}), "REFUTED"),
        (refuted(0.1, beyond=0.1, witness={"x": 1}), "UNKNOWN"),
        (refuted(NAN, beyond=0.1, witness={"x": 1}), "UNKNOWN"),
        (shown(0.2, beyond=0.1, case={"x": 1}), "ARGUED"),
        (shown(0.1, beyond=0.1, case={"x": 1}), "UNKNOWN"),
        (shown(NAN, beyond=0.1, case={"x": 1}), "UNKNOWN"),
        (identical(sympy.S.Zero), "ARGUED"),
        (identical(sympy.Symbol("x")), "UNKNOWN"),
        (argued({"h": True}), "ARGUED"),
        (argued({"h": True, "k": False}), "UNKNOWN"),
        (unknown("a cluster"), "UNKNOWN"),
    ],
)
def test_verdicts(found, verdict):
    assert found.verdict.value == verdict


def test_what_failed_is_kept():
    assert measured(0.5, within=0.1).witness == {"error": 0.5, "allowed": 0.1}
    assert held({"a": True, "b": False}, figures={"x": 2}).witness == {"failed": ["b"], "x": 2}
    assert argued({"h": True, "k": False}).limits == {"failed": ["k"]}
    assert identical(sympy.Symbol("x")).limits == {"residual": "x"}
    assert shown(0.2, beyond=0.1, case={"x": 1}).evidence == {"case": {"x": 1}}


@pytest.mark.parametrize(
    "decide", [lambda: argued({}), lambda: held({}), lambda: measured(-5.0, within=1e-9)]
)
def test_what_was_not_checked_is_refused(decide):
    with pytest.raises(ValueError, match="got"):
        decide()


@pytest.mark.parametrize("residual", [False, sympy.false])
def test_a_truth_value_is_no_residual(residual):
    with pytest.raises(TypeError, match="'residual'"):
        identical(residual)


def test_an_id_has_one_check():
    import papers

    papers.decide(papers.chosen(ids=("INL-9",))[0])
    assert "INL-9" in CHECKS
    with pytest.raises(ValueError, match="'INL-9'"):
        check("INL-9")(lambda: unknown("nothing"))
