"""Weights that were fetched, or a reason to skip."""

import pytest

from tests.pretrained.fetch import found


@pytest.fixture(scope="module")
def weights(request):
    """The folder with the files that a test module names in WEIGHTS."""
    name = request.module.WEIGHTS
    folder = found(name)
    if folder is None:
        pytest.skip(f"the weights of {name} were not fetched: run make pretrained")
    return folder
