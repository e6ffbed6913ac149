"""Every layer of the laws in turn."""

import pytest

from tests.layers import attention_cases, recurrent_cases

CASES = {**attention_cases.CASES, **recurrent_cases.CASES}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request):
    """A layer with its options, and what is known of it."""
    return CASES[request.param]


@pytest.fixture
def layer(case):
    """The layer in float64, no parameter near its initial value."""
    return case.drawn()


@pytest.fixture
def x(case):
    """Two sequences for it."""
    return case.tokens()
