"""The environment of the packages: their own code in front of what dsf itself is installed with.

Every package is pinned and installed without what it asks for; whatever is needed of that is in the
list, too. Nothing has to be compiled.
"""

import hashlib
import subprocess
import sys
from pathlib import Path

import setup_environment as set_up
from benchmarks.releases.environments import share

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".venv-any-code"
PINS = Path(__file__).with_name("packages.txt")


def python_with_packages() -> Path:
    """An interpreter that has all packages of the list; made once and kept."""
    python, stamp = set_up.python_in(FOLDER), FOLDER / "set-up-finished"
    wanted = hashlib.sha256(PINS.read_bytes() + str(sys.prefix).encode()).hexdigest()
    if set_up.runs(python) and stamp.is_file() and stamp.read_text() == wanted:
        return python
    if not set_up.runs(python):
        share(FOLDER)
    command = [str(python), "-m", "pip", "install", "--no-input", "--no-deps", "--quiet"]
    if subprocess.run([*command, "--requirement", str(PINS)], cwd=ROOT, check=False).returncode:
        sys.exit("any_code: the packages could not be installed; see what pip says above.")
    for file in FOLDER.glob("lib/*/site-packages/torchaudio/lib/*.so"):
        file.unlink()  # linked to CUDA: the package would not be imported, and is whole without
    stamp.write_text(wanted)
    return python
