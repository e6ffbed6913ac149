"""The layers of flash-linear-attention on a machine without a card: in Triton's interpreter."""

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

INTERPRETED = Path(__file__).with_name("test_fla_layers_interpreted.py")
PACKAGES = Path(__file__).parents[2] / ".fla"


@pytest.mark.slow
@pytest.mark.pipeline
@pytest.mark.skipif(torch.cuda.is_available(), reason="its kernels run on the graphics card")
@pytest.mark.skipif(
    find_spec("triton") is None or not PACKAGES.exists(),
    reason="flash-linear-attention and Triton were not fetched: make pipeline does",
)
def test_in_the_interpreter():
    """A process of its own: installed for all, its kernels would be called where no card is."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(PACKAGES)}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-3000:]
