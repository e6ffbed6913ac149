"""Machine code on disk is used again, and forgotten when a file it was made from changes."""

import subprocess
import sys
from pathlib import Path
from shutil import copytree

import pytest

import dsf.systems.kernels

LOOP = """
from dsf.systems.kernels.compiling import kernel
from dsf.systems.kernels.planted_part import part

@kernel()
def whole(x):
    return part(x) + 1.0
"""
PART = """
from dsf.systems.kernels.compiling import kernel

@kernel()
def part(x):
    return {factor} * x
"""
PROGRAM = """
from dsf.systems.kernels.planted_whole import whole
answer = whole(1.0)
print(answer, sum(whole.stats.cache_hits.values()))
"""


@pytest.fixture
def package(tmp_path):
    """The compiler of loops in a package of its own, with one loop that inlines another."""
    folder = tmp_path / "dsf" / "systems" / "kernels"
    copytree(Path(dsf.systems.kernels.__file__).parent, folder, ignore=lambda *_: ["__pycache__"])
    (tmp_path / "dsf" / "__init__.py").touch()
    (tmp_path / "dsf" / "systems" / "__init__.py").touch()
    (folder / "__init__.py").write_text("")
    (folder / "planted_whole.py").write_text(LOOP)
    return folder


def test_a_loop_is_forgotten_when_another_file_changes(package):
    def run(factor):
        (package / "planted_part.py").write_text(PART.format(factor=factor))
        command = [sys.executable, "-B", "-c", PROGRAM]
        done = subprocess.run(
            command, cwd=package.parents[2], capture_output=True, text=True, check=True
        )
        answer, used_again = done.stdout.split()
        return float(answer), int(used_again)

    assert run(2.0) == (3.0, 0)
    assert run(2.0) == (3.0, 1)
    assert run(5.0) == (6.0, 0)
