"""Mixers by what their systems allow, so that no test has to pass over a case."""

import pytest
import torch

import dsf

STEPS = 9


def drawn(cls):
    return cls.draw(torch.Generator().manual_seed(0), steps=STEPS)


SYSTEMS = {cls: drawn(cls).system() for cls in dsf.mixers.ALL}
CAUSAL = [cls for cls, s in SYSTEMS.items() if isinstance(s, dsf.System) and not s.runs_backward]
ONE_PORT = [cls for cls in CAUSAL if SYSTEMS[cls].input_size == SYSTEMS[cls].output_size == 1]
REAL = [cls for cls in ONE_PORT if not dsf.attention_map(SYSTEMS[cls]).is_complex()]


def named(cls):
    return cls.__name__


@pytest.fixture(params=CAUSAL, ids=named)
def causal_system(request):
    """The system of every mixer that is one causal system."""
    return SYSTEMS[request.param]


@pytest.fixture(params=ONE_PORT, ids=named)
def one_port_system(request):
    """Those of them with one input and one output, whose map is square."""
    return SYSTEMS[request.param]


@pytest.fixture(params=REAL, ids=named)
def real_system(request):
    """Those of them with a real map."""
    return SYSTEMS[request.param]
