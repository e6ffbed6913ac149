"""Work on several threads: every piece once, in order, with its share of torch's threads."""

import os
import subprocess
import sys
import threading

import pytest
import torch

from dsf.runtime import threads
from dsf.runtime.threads import each_in_parallel, in_parallel, limited_to

RANKS = """
from dsf.measures.hankel import numerical_ranks
found = numerical_ranks(matrices, 1e-10)
assert found.tolist() == [256] * 6, found
"""
BASES = """
from dsf.systems.algebra import change_of_basis
from dsf.systems.system import System
from dsf.systems.transition import Dense
steps = torch.zeros(5, 256, 256, dtype=torch.float64)
ones = torch.ones(5, 1, 256, dtype=torch.float64)
system = System(A=Dense(steps), B=ones.mT, C=ones)
found = change_of_basis(system, matrices)
assert torch.allclose(found.C @ matrices[1:], ones)
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_every_piece_is_worked_on_once(threads):
    with limited_to(threads):
        done = []
        in_parallel(done.append, range(7))
        assert sorted(done) == list(range(7))
        with pytest.raises(ZeroDivisionError):
            in_parallel(lambda piece: 1 // piece, [1, 0])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_order(threads):
    with limited_to(threads):
        assert list(each_in_parallel(lambda piece: piece**2, range(9))) == [
            piece**2 for piece in range(9)
        ]
        assert torch.get_num_threads() == threads


def test_the_threads_of_torch_are_shared_out():
    """And whoever works on a piece differentiates where the caller does."""
    together = threading.Barrier(2, timeout=60)

    def work(_):
        together.wait()
        return torch.get_num_threads(), torch.is_grad_enabled()

    with limited_to(4), torch.no_grad():
        assert list(each_in_parallel(work, range(2))) == [(2, False)] * 2
    with limited_to(5):
        assert list(each_in_parallel(work, range(2))) == [(2, True)] * 2
        assert torch.get_num_threads() == 5


def test_no_more_at_a_time_than_allowed():
    at_work, most = [], []

    def work(piece):
        at_work.append(piece)
        most.append(len(at_work))
        at_work.remove(piece)

    with limited_to(4):
        list(each_in_parallel(work, range(20), most=1))
    assert max(most) == 1


def test_the_first_error_ends_the_work():
    """What was not begun by then is not, and the threads of torch are as before."""
    begun = []

    def work(piece):
        begun.append(piece)
        if piece == 0:
            raise ZeroDivisionError
        threading.Event().wait(0.05)

    with limited_to(2):
        with pytest.raises(ZeroDivisionError):
            list(each_in_parallel(work, range(50)))
        assert len(begun) < 10
        assert torch.get_num_threads() == 2


@pytest.mark.parametrize("work", [RANKS, BASES], ids=["ranks", "bases"])
def test_several_factorisations_return_after_torch_was_given_threads(work):
    """Several of 200 rows or more at once never do in torch 2.13 (see ``dsf.runtime.threads``)."""
    begin = """
import torch
torch.set_num_threads(2)
torch.manual_seed(0)
matrices = torch.randn(6, 256, 256, dtype=torch.float64)
"""
    runs(begin + work * 5)


@pytest.mark.parametrize("mkl", [{}, {"MKL_NUM_THREADS": "2"}], ids=["", "by the environment"])
def test_those_of_a_user_return_after_work_on_several_threads(mkl):
    """The default of torch is not touched, on which that depends."""
    code = """
import torch
from dsf.runtime.threads import each_in_parallel, limited_to
assert torch.get_num_threads() == 2
matrices = torch.randn(6, 256, 256, dtype=torch.float64)
found = list(each_in_parallel(lambda _: torch.get_num_threads(), range(6)))
assert found == [1] * 6, found
with limited_to(1):
    assert torch.get_num_threads() == 1
assert torch.get_num_threads() == 2
for _ in range(5):
    torch.linalg.inv(matrices)
"""
    runs(code, **mkl)


def test_mkl_takes_as_many_threads_as_torch_in_every_piece():
    """Also after torch was told a number, which MKL keeps to in new threads."""
    runs("""
import torch
from dsf.runtime.threads import _of_mkl, each_in_parallel, limited_to
def seen(_=None):
    return torch.get_num_threads(), _of_mkl() or torch.get_num_threads()
for told in (None, 4):
    if told:
        torch.set_num_threads(told)
    every = told or 2
    assert seen() == (every, every), seen()
    found = list(each_in_parallel(seen, range(2)))
    assert found == [(every // 2, every // 2)] * 2, found
    with limited_to(1):
        assert seen() == (1, 1), seen()
    assert seen() == (every, every), seen()
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(1) as alone:
        assert alone.submit(seen).result() == (every, every), told
""")


def runs(code, **more):
    """Run a program with two threads, which is to end in time and say nothing."""
    plain = {name: value for name, value in os.environ.items() if name != "MKL_NUM_THREADS"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=plain | {"OMP_NUM_THREADS": "2"} | more,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_without_a_known_openmp_pieces_are_done_one_by_one(monkeypatch):
    monkeypatch.setattr(threads, "_can_be_shared", lambda: False)
    with limited_to(4):
        found = list(each_in_parallel(lambda _: threading.current_thread(), range(3)))
    assert found == [threading.main_thread()] * 3
