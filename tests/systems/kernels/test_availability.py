"""When compiled loops run: never where something is to be differentiated, mapped over or traced."""

import subprocess
import sys

import pytest
import torch
from torch.autograd import forward_ad

from dsf.systems import kernels as availability
from dsf.systems.kernels import applies, compiling, found, why_off

WORK = availability.WORTH


@pytest.fixture(autouse=True)
def _switched_on(monkeypatch):
    monkeypatch.delenv("DSF_KERNELS", raising=False)


def test_plain_numbers_of_one_type():
    part = torch.ones(3)
    assert applies(part, part, work=WORK)
    assert applies(torch.nn.Parameter(part, requires_grad=False), work=WORK)
    assert not applies(part, work=WORK - 1)
    assert not applies(part, part.double(), work=WORK)
    assert not applies(part.half(), work=WORK)
    assert not applies(part.to("meta"), work=WORK)


def test_gradients_are_left_to_the_plain_path():
    wanted = torch.ones(3, requires_grad=True)
    assert not applies(torch.ones(3), wanted, work=WORK)
    with torch.no_grad():
        assert applies(torch.ones(3), wanted, work=WORK)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_forward_derivatives_and_function_transforms_as_well():
    part = torch.ones(3)
    with forward_ad.dual_level():
        assert not applies(forward_ad.make_dual(part, part), work=WORK)
    seen = []

    def look(each):
        seen.append(applies(each, work=WORK))
        return each

    torch.func.vmap(look)(part)
    assert seen == [False]


@pytest.mark.parametrize("word", ["0", "off", "False"])
def test_the_switch(monkeypatch, word):
    monkeypatch.setenv("DSF_KERNELS", word)
    assert f"DSF_KERNELS={word.lower()}" in why_off()
    assert found().startswith("off")
    assert not applies(torch.ones(3), work=WORK)


@pytest.mark.parametrize("word", ["", "1", " ON "])
def test_the_switch_leaves_loops_on(monkeypatch, word):
    monkeypatch.setenv("DSF_KERNELS", word)
    assert why_off() == ""


def test_the_switch_refuses_other_words(monkeypatch):
    monkeypatch.setenv("DSF_KERNELS", "flash")
    with pytest.raises(ValueError, match="DSF_KERNELS"):
        applies(torch.ones(3), work=WORK)


def test_without_the_compiler(monkeypatch):
    def missing(name):
        raise availability.PackageNotFoundError(name)

    monkeypatch.setattr(availability, "version", missing)
    availability._is_installed.cache_clear()
    assert why_off() == "numba is not installed"
    availability._is_installed.cache_clear()


def test_the_first_compilation_is_announced_once(caplog):
    """Of a loop that has no file, so that nothing is kept on disk and it does compile."""
    compiling._log_compiling.cache_clear()
    space = {"__name__": "dsf.systems.kernels.example"}
    exec("def twice(x):\n    return 2 * x\n", space)
    twice = compiling.kernel()(space["twice"])

    def said():
        return sum("compiles loops" in line for line in caplog.messages)

    assert twice(2) == 4
    first = said()
    assert first >= 1
    assert twice(2.5) == 5.0
    assert said() == first


def test_nothing_is_compiled_or_loaded_at_import():
    code = "import dsf.evaluate, dsf.mixers, sys; print('numba' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "False"
