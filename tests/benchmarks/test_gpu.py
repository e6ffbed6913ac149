"""The benchmark for graphics cards, as far as it goes without one."""

import time

import pytest
import torch

from benchmarks import fla_calls, gpu, layers
from tests.systems.kernels import fla_stand_in

CASES = gpu.cases("cpu", share=64)
LAYERS = {
    "gated delta rule": lambda: layers.gated_delta(8, 2, 16),
    "gla": lambda: layers.gated_linear(8, 2, 16, 32),
    "mamba 2": lambda: layers.dual(8, 2, 16, 16),
}


def clock(work):
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@pytest.mark.parametrize("name", CASES)
def test_every_case_is_built_and_its_methods_agree(name):
    case = CASES[name]()
    case.others.pop("torch.compile", None)
    for method in ("fla", "fla, bfloat16", "dsf, fla"):
        case.others.pop(method, None)
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


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_library_is_given_the_layer(layer, monkeypatch):
    fla_stand_in.installed(monkeypatch)
    monkeypatch.setattr(fla_calls, "find_spec", lambda _: True)
    case = gpu.response(layer(), "cpu")
    torch.testing.assert_close(case.others["fla"](), case.work(case.system))
    assert {"fla, bfloat16", "dsf, fla"} <= set(case.others)


def test_the_library_has_nothing_for_a_selective_scan():
    assert fla_calls.call(layers.selective(8, 4)) is None
    assert fla_calls.works(layers.selective(8, 4)) == {}
