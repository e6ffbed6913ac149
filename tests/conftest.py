"""For every test: all mixers, our own errors, what waits for the night, and what was skipped."""

import gc
import sys
from collections import Counter, defaultdict
from importlib.machinery import PathFinder
from zlib import crc32

import jaxtyping
import pytest
import torch
from hypothesis import settings

from tests import type_checks


class Plain:
    """Finds the checker of certificates before the hook that adds shape checks to functions.

    It holds no tensors of torch, and its inner loops take ten times as long with the checks.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        checker = name == "dsf.certificates.checker"
        return PathFinder.find_spec(name, path, target) if checker else None


sys.meta_path.insert(0, Plain)
jaxtyping.jaxtyped = type_checks.sparing(jaxtyping.jaxtyped)  # where the hook finds it

# Where it is found, a checker of JSON compiles 38 grammars of addresses, 5 seconds for nothing.
sys.modules.setdefault("rfc3987_syntax", None)

import dsf  # noqa: E402

settings.register_profile("ci", settings.get_profile("ci"), max_examples=20, deadline=None)
settings.register_profile("night", settings.get_profile("ci"), max_examples=1000)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A test marked ``sampled`` keeps by day one case for each value of the parameters it names.

    The case is another one for each value and each test, so that all parameters take their turns.
    With ``count`` so many cases stay instead of one. The others are left to the night.
    """
    tests = defaultdict(lambda: defaultdict(list))
    for item in items:
        if {"browser", "chromium", "weights"} & {*getattr(item, "fixturenames", ())}:
            item.add_marker("pipeline")
        mark = item.get_closest_marker("sampled")
        if mark:
            value = tuple(str(item.callspec.params[name]) for name in mark.args)
            tests[item.nodeid.partition("[")[0]][value].append(item)
    for name, groups in tests.items():
        for turn, cases in enumerate(groups.values(), crc32(name.encode())):
            count = min(cases[0].get_closest_marker("sampled").kwargs.get("count", 1), len(cases))
            by_day = {(turn + n * len(cases) // count) % len(cases) for n in range(count)}
            for place in {*range(len(cases))} - by_day:
                cases[place].add_marker("nightly")


def pytest_collection_finish():
    """What was imported stays: the collector of garbage need not look at it before every test."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup():
    type_checks.begin()


def pytest_unconfigure():
    gc.unfreeze()  # or libraries that count their objects at the end find all of them


@pytest.fixture(params=dsf.mixers.ALL, ids=lambda cls: cls.__name__)
def mixer_class(request):
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def one_thread():
    """One thread for torch: sums of several differ in rounding from run to run."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def threads(request):
    """Number of threads that torch has in a test, by ``parametrize(..., indirect=True)``."""
    with dsf.runtime.threads.limited_to(request.param):
        yield request.param


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
