"""For every test: all mixers, our own error messages, and a table of what was skipped."""

import sys
from collections import Counter
from importlib.machinery import PathFinder

import jaxtyping
import pytest
import torch

from tests.type_checks import sparing


class Plain:
    """Finds the checker of certificates before the hook that adds shape checks to functions.

    It holds no tensors of torch, and its inner loops take ten times as long with the checks.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        checker = name == "dsf.certificates.checker"
        return PathFinder.find_spec(name, path, target) if checker else None


sys.meta_path.insert(0, Plain)
jaxtyping.jaxtyped = sparing(jaxtyping.jaxtyped)  # where the hook finds it

import dsf  # noqa: E402


@pytest.fixture(params=dsf.mixers.ALL, ids=lambda cls: cls.__name__)
def mixer_class(request):
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def mixer(mixer_class):
    """A random instance of every architecture, nine tokens long."""
    return mixer_class.draw(torch.Generator().manual_seed(0), steps=9)


@pytest.fixture(scope="session", autouse=True)
def home_for_keys(tmp_path_factory):
    """What a program keeps for its user is kept apart from the user who runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture
def our_own_errors():
    """The shape checks of the tests speak before our own errors; here they keep quiet."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter):
    """Last of all: how many tests were skipped, and why."""
    told = yield
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(report.longrepr[2].removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section("skipped")
    for reason, count in sorted(reasons.items(), key=lambda each: (-each[1], each[0])):
        terminalreporter.write_line(f"{count:5} x {reason}")
    return told
