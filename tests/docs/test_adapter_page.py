"""The page about adapters runs, its adapter is short, its entry point is found once installed."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.docs.test_readme import blocks, run

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adapters.md"


@pytest.mark.usefixtures("our_own_errors")
def test_the_page_runs(capsys):
    assert run(PAGE) == 6
    told = capsys.readouterr().out
    assert told.count("HOLDS_NUMERICALLY") == 6
    assert "0 fading (2, 3, 9, 9)" in told
    assert "linear (superposition error" in told


def test_an_adapter_takes_less_than_thirty_lines():
    adapter = blocks(PAGE)[1][1]
    lines = [line for line in adapter.splitlines() if line.strip()]
    assert "dsf.Adapter(" in adapter
    assert len(lines) < 30


USE = """
import torch
import dsf
from your_package.adapters import Fading

layer, = dsf.inspect(Fading(), torch.randn(1, 5, 12))
print(layer.family, layer.error < 1e-5)
"""


def test_the_adapter_of_an_installed_package_is_found(tmp_path):
    """The page's own blocks as a package, with the entry point it shows in its metadata."""
    (snippet,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    points = tomllib.loads(snippet)["project"]["entry-points"]["dsf.adapters"]
    code = "\n".join(block for _, block in blocks(PAGE)[:2])
    package, metadata = tmp_path / "your_package", tmp_path / "your_package-1.0.dist-info"
    package.mkdir()
    metadata.mkdir()
    (package / "__init__.py").touch()
    (package / "adapters.py").write_text(code)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: your-package\nVersion: 1.0\n")
    listed = "\n".join(f"{name} = {place}" for name, place in points.items())
    (metadata / "entry_points.txt").write_text(f"[dsf.adapters]\n{listed}\n")
    place = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    done = python(place + USE)
    assert done.stdout.split() == ["fading", "True"], done.stderr


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_a_broken_entry_names_its_package(tmp_path):
    metadata = tmp_path / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[dsf.adapters]\nmine = json:dumps\n")
    place = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
    use = "import dsf, torch\ndsf.inspect(torch.nn.GRU(2, 2), torch.ones(3, 1, 2))"
    done = python(place + use)
    assert "broken: its entry 'mine' (json:dumps) must be a dsf.inspection.Adapter" in done.stderr
