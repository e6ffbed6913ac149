"""Fixtures for every test: all mixers, and our own error messages."""

import jaxtyping
import pytest
import torch

import dsf


@pytest.fixture(params=dsf.mixers.ALL, ids=lambda cls: cls.__name__)
def mixer_class(request):
    """Every architecture in turn."""
    return request.param


@pytest.fixture
def mixer(mixer_class):
    """A random instance of every architecture, nine tokens long."""
    return mixer_class.draw(torch.Generator().manual_seed(0), steps=9)


@pytest.fixture
def our_own_errors():
    """The shape checks of the tests speak before our own errors; here they keep quiet."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
