"""A job of three processes, killed at random times, ends with the files of one that never was."""

import multiprocessing
import os
import random
import signal
import sys
import time

import pytest

import dsf
from dsf.jobs.prompts import _loaded
from dsf.jobs.storage import Running
from tests.jobs.test_jobs import MODEL, QUANTITIES, equal_trees

PROMPTS = [[k, k + 1, 2 * k + 1, 7, 3] for k in range(12)]
KILLS, WORKERS = 5, 3


def forked(do, units):
    """Three processes that share what is imported and loaded; one model less to wait for."""
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        yield from pool.imap_unordered(do, units)


def job(place, executor=dsf.jobs.in_process):
    dsf.jobs.measure_prompts(MODEL, PROMPTS, place, quantities=QUANTITIES, executor=executor)


def leader(place):
    os.setsid()
    job(place, forked)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="forks and kills process groups")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_killed_five_times_it_ends_with_the_same_bytes(tmp_path):
    _loaded(str(MODEL), Running(), mapped=False)
    started = time.monotonic()
    job(tmp_path / "whole")
    whole = time.monotonic() - started
    pause, kills, context = random.Random(0), 0, multiprocessing.get_context("fork")
    for _ in range(KILLS):
        process = context.Process(target=leader, args=(tmp_path / "killed",))
        process.start()
        process.join(pause.uniform(0.1, 0.5) * whole)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        process.join()
    assert kills > 0
    job(tmp_path / "killed")
    assert equal_trees(tmp_path / "whole", tmp_path / "killed")
