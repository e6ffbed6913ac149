"""Freed memory stays with the process inside of a block, and goes back to the system after it."""

import os

import pytest
import torch

from dsf.runtime import reused_memory
from dsf.runtime.reused_memory import REUSED_MEMORY

LARGE = 2**26
"""Elements of a block that glibc never keeps by itself."""
BYTES = 4 * LARGE


@pytest.fixture(autouse=True)
def resource():
    if reused_memory._glibc() is None:
        pytest.skip("another C library, or one that is told how to allocate")
    return pytest.importorskip("resource")


def blocks_zeroed(resource):
    """How many of three blocks of one size the system has zeroed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        torch.ones(LARGE)
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    return pages * resource.getpagesize() / BYTES


def resident(resource):
    with open("/proc/self/statm", encoding="ascii") as report:
        return int(report.read().split()[1]) * resource.getpagesize()


def test_blocks_of_one_size_are_zeroed_once(resource):
    at_first = resident(resource)
    if blocks_zeroed(resource) < 2.9:
        pytest.skip("the system maps large pages")
    with REUSED_MEMORY:
        torch.ones(LARGE)
        with REUSED_MEMORY:
            assert blocks_zeroed(resource) < 0.1
        assert blocks_zeroed(resource) < 0.1
    assert resident(resource) < at_first + BYTES / 4
    assert blocks_zeroed(resource) > 2.9


def test_an_environment_that_says_how_to_allocate_is_left_alone(monkeypatch):
    monkeypatch.setitem(os.environ, "MALLOC_ARENA_MAX", "2")
    assert reused_memory._glibc.__wrapped__() is None
