"""What a user installs holds the whole package: models, templates and scripts besides the code."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import dsf

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        yield archive


def test_it_bears_the_name_that_is_ours(wheel):
    assert Path(wheel.filename).name.startswith(f"dsf_toolkit-{dsf.__version__}-")


def test_every_file_of_the_package_is_inside(wheel):
    inside = {name for name in wheel.namelist() if name.startswith("dsf/")}
    on_disk = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "dsf").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert on_disk == inside


def test_the_command_and_the_licence_are_inside(wheel):
    about = {Path(name).name: name for name in wheel.namelist() if ".dist-info/" in name}
    assert "dsf = dsf.cli:main" in wheel.read(about["entry_points.txt"]).decode()
    assert "MIT License" in wheel.read(about["LICENSE"]).decode()


def test_types_are_marked_as_shipped(wheel):
    assert "dsf/py.typed" in wheel.namelist()
