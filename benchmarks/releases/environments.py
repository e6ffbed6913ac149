"""One environment for every release of transformers, made once and kept.

An environment holds that release, with the tokenizers and the hub client that it wants, in front of
everything that is installed here: torch and the rest are shared through one ``.pth`` line, which
costs 100 MB and seconds rather than gigabytes. It needs the Python it was made with, so one whose
interpreter is gone is made again. ``full`` makes an environment that shares nothing.
"""

import os
import subprocess
import sys
import sysconfig
from importlib.metadata import version
from pathlib import Path

import setup_environment as set_up

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "transformers"


def newest() -> str:
    """The newest release that pip can see."""
    command = [sys.executable, "-m", "pip", "index", "versions", LIBRARY]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    if said.returncode != 0:
        sys.exit(f"pip could not list the releases of {LIBRARY}: {said.stderr.strip()}")
    return said.stdout.split("(", maxsplit=1)[1].split(")", maxsplit=1)[0]


def python_with(release: str, *, full: bool = False) -> Path:
    """An interpreter that has this release; the one that runs if that is what it has."""
    if release == version(LIBRARY):
        return Path(sys.executable)
    folder = ROOT / f".venv-{LIBRARY}-{release}"
    python = set_up.python_in(folder)
    if _release_of(python) != release:
        wanted = f"{LIBRARY}=={release}"
        if full:
            script = [sys.executable, "setup_environment.py", "--venv", str(folder)]
            subprocess.run([*script, "--with", wanted], cwd=ROOT, check=True)
        else:
            share(folder)
            set_up.pip_install(folder, wanted)
    return python


def share(folder: Path) -> None:
    """An empty environment that finds here what it does not have itself."""
    bare = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    subprocess.run(bare, check=True)
    (packages,) = (
        *folder.glob("lib/python*/site-packages"),
        *folder.glob("Lib/site-packages"),
    )
    here = sysconfig.get_paths()["purelib"]
    (packages / "shared.pth").write_text(f"{here}\n", encoding="utf-8")


def _release_of(python: Path) -> str:
    """What this interpreter has, as pip would count it; empty where it does not start."""
    if not set_up.runs(python):
        return ""
    question = f"from importlib.metadata import version; print(version({LIBRARY!r}))"
    answer = subprocess.run(
        [str(python), "-c", question], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip()


def run_in(python: Path, *arguments: str) -> int:
    """Run a module of this checkout there, one thread, warnings of the library left out."""
    threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
    return subprocess.run(
        [str(python), "-m", *arguments], cwd=ROOT, env=os.environ | threads, check=False
    ).returncode
