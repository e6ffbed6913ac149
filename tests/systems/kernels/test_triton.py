"""The kernels for CUDA on a machine without a card: interpreted, and otherwise left alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dsf.evaluate.compiled import compiled
from dsf.mixers import SelectiveStateSpace

INTERPRETED = Path(__file__).with_name("test_triton_interpreted.py")


@pytest.mark.slow
@pytest.mark.pipeline
def test_in_the_interpreter():
    """A process of its own: Triton decides when it is imported whether it interprets."""
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(INTERPRETED)]
    env = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    assert re.search(r"^\d+ passed in", done.stdout, re.MULTILINE), done.stdout[-3000:]


def test_what_is_on_a_processor_meets_no_kernel(monkeypatch):
    monkeypatch.setattr("dsf.evaluate.compiled.answered_on_cuda", lambda *_: 1 / 0)
    mixer = SelectiveStateSpace.draw(torch.Generator().manual_seed(0), steps=9)
    compiled(mixer.system(), mixer.signal())
