"""The benchmark for graphics cards, as far as it goes without one."""

import time

import pytest
import torch

from benchmarks import gpu

CASES = gpu.cases("cpu", share=64)


def clock(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_built_and_its_methods_agree(name):
    case = CASES[name]()
    case.others.pop("torch.compile", None)
    made = gpu.rows(name, case, clock=clock)
    assert [row["method"] for row in made] == ["dsf", "dsf, torch", *case.others]
    assert all(row["error"] < 1e-5 for row in made)


def test_a_method_that_fails_is_told_and_left_out(capsys):
    case = CASES["Softmax, 4096 tokens"]()
    case.others["broken"] = lambda: 1 / 0
    made = gpu.rows("softmax", case, clock=clock)
    assert "broken" not in {row["method"] for row in made}
    assert "ZeroDivisionError" in capsys.readouterr().out
    record = {"card": "none", "torch": "2", "kernels": {"maps": "active"}, "rows": made}
    assert "| softmax | SDPA |" in gpu.page(record)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_without_a_card_it_says_so(capsys):
    assert gpu.main([]) == 2
    assert capsys.readouterr().err == gpu.NO_CARD + "\n"
    with pytest.raises(SystemExit):
        gpu.main(["--unknown"])
