"""Make ``.venv`` from a bare machine: Python 3.11 or later and nothing else.

    python3 setup_environment.py [--venv FOLDER] [--with NAME==VERSION ...] [--group NAME ...]

``make`` calls this before every target. A finished set-up leaves a stamp that holds the hash of
``pyproject.toml`` and ``constraints.txt``: while both stay as they are the next call does nothing
and needs no network. A group is added to what is there, and stays for calls without it. An
interrupted set-up is taken up where it stopped. The environment variable ``DSF_TORCH_INDEX`` may
hold the address of an index of small, CPU-only builds of torch.
"""

import argparse
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent
OLDEST_PYTHON = (3, 11)
if sys.version_info < OLDEST_PYTHON:
    sys.exit(f"dsf needs Python 3.11 or later, and {sys.executable} is {sys.version.split()[0]}.")

OLDEST_PIP = (25, 1)  # the first that installs dependency groups
PIP_WHEEL = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"
PROBE_SECONDS = 5
MISSING = 3  # what the doctor returns when it runs and misses something
LARGE = re.compile(r"^Downloading .*\((\d\d[\d.]* M|[\d.]* G)B\)$")
# Another transformers release needs other releases of these, so their pins do not hold there.
TIED_TO_TRANSFORMERS = {"huggingface-hub", "tokenizers", "transformers"}


def main() -> None:
    parser = argparse.ArgumentParser(description="Set up the development environment of dsf.")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", metavar="FOLDER")
    parser.add_argument("--with", dest="extra", nargs="*", default=[], metavar="NAME==VERSION")
    parser.add_argument("--group", dest="groups", nargs="*", default=[], metavar="NAME")
    options = parser.parse_args()
    venv = options.venv.absolute()
    stamp, wanted = venv / "set-up-finished", fingerprint(options.extra)
    there = groups_there(stamp, wanted)
    if there is not None and there.issuperset(options.groups) and runs(python_in(venv)):
        return
    groups = sorted({*options.groups, *(there or ())})
    stamp.unlink(missing_ok=True)
    make_environment(venv)
    forget_half_installed(venv)
    renew_pip(venv)
    forget_former_name(venv)
    install(venv, [*options.extra, *(part for name in groups for part in ("--group", name))])
    look_around(venv)
    stamp.write_text("\n".join([wanted, *groups]))


def fingerprint(extra: list[str]) -> str:
    """What a finished set-up depends on, as one line."""
    parts = [(ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt")]
    # The package is installed in place: a moved checkout needs a new set-up.
    parts += [str(ROOT).encode(), *(name.encode() for name in extra)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def groups_there(stamp: Path, wanted: str) -> set[str] | None:
    """The groups that the set-up this stamp tells of has added; None if it was another set-up."""
    lines = stamp.read_text().split() if stamp.is_file() else []
    return set(lines[1:]) if lines[:1] == [wanted] else None


def python_in(venv: Path) -> Path:
    return venv / ("Scripts" if os.name == "nt" else "bin") / "python"


def runs(python: Path) -> bool:
    """Whether this interpreter starts at all and is new enough."""
    question = f"import sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    return python.exists() and call(python, "-c", question, quiet=True) == 0


def call(python: Path | str, *arguments: str, quiet: bool = False) -> int:
    silence = subprocess.DEVNULL if quiet else None
    command = [str(python), *arguments]
    return subprocess.run(command, stdout=silence, stderr=silence, check=False).returncode


def make_environment(venv: Path) -> None:
    """Create the folder, or keep it when its interpreter and its pip still run."""
    python = python_in(venv)
    if not runs(python):
        say(f"making {venv.name} with Python {sys.version.split()[0]}")
        bare = [] if importlib.util.find_spec("ensurepip") else ["--without-pip"]
        if call(sys.executable, "-m", "venv", "--clear", *bare, str(venv)) != 0:
            stop(f"Python could not make {venv}. Is the disk full, or the folder read-only?")
    if call(python, "-m", "pip", "--version", quiet=True) != 0:
        bring_pip(python)


def bring_pip(python: Path) -> None:
    """Install pip without ensurepip: by another pip of this machine, else from a checked wheel."""
    for other in (sys.executable, *filter(None, map(shutil.which, ["python3", "pip3", "pip"]))):
        pip = [other] if Path(other).name.startswith("pip") else [other, "-m", "pip"]
        if call(*pip, "--python", str(python), "install", "--quiet", "pip", quiet=True) == 0:
            return
    with tempfile.TemporaryDirectory() as folder:
        wheel = Path(folder) / PIP_WHEEL
        wheel.write_bytes(fetch_pip())
        if call(python, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)) != 0:
            stop(f"{PIP_WHEEL} was fetched but would not install itself.")


def fetch_pip() -> bytes:
    """The pinned pip wheel from the index this machine is set to use."""
    index = os.environ.get("PIP_INDEX_URL", "").rstrip("/") + "/"
    if index == "/":
        stop(
            "This Python has no ensurepip and no pip is at hand. Install your system's "
            "python3-venv package, or set PIP_INDEX_URL to a package index, and try again."
        )
    page_at = urllib.parse.urljoin(index, "pip/")
    try:
        with urllib.request.urlopen(page_at, timeout=30) as page:
            links = re.findall(r"""href=["']([^"']+)["']""", page.read().decode())
        link = next(each for each in links if PIP_WHEEL in each)
        with urllib.request.urlopen(urllib.parse.urljoin(page_at, link), timeout=60) as file:
            content: bytes = file.read()
    except (OSError, StopIteration) as error:
        stop(f"Could not fetch {PIP_WHEEL} from {page_at}: {error!r}.")
    if hashlib.sha256(content).hexdigest() != PIP_SHA256:
        stop(f"{PIP_WHEEL} from {page_at} is not the file that was pinned: its SHA-256 differs.")
    return content


def forget_half_installed(venv: Path) -> None:
    """Make pip install again what an interrupted run left behind.

    Pip unpacks the wheel, its list of files included, and writes ``INSTALLER`` after the last one.
    """
    for record in venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (record / "INSTALLER").is_file():
            say(f"{record.name.removesuffix('.dist-info')} was half installed, doing it again")
            shutil.rmtree(record)


def renew_pip(venv: Path) -> None:
    version = "tuple(map(int, pip.__version__.split('.')[:2]))"
    question = f"import pip, sys; sys.exit({version} < {OLDEST_PIP})"
    if call(python_in(venv), "-c", question, quiet=True) != 0:
        pip_install(venv, "--upgrade", "pip")


def forget_former_name(venv: Path) -> None:
    """Uninstall what is called ``dsf``: this package before it was renamed, or a stranger's.

    Before the installation, since they would share the command or the files of the package.
    """
    if call(python_in(venv), "-m", "pip", "show", "dsf", quiet=True) == 0:
        say("uninstalling the distribution dsf, whose name is not that of this package")
        call(python_in(venv), "-m", "pip", "uninstall", "--yes", "dsf", quiet=True)


def install(venv: Path, extra: list[str]) -> None:
    """Torch first, since its source may differ, then this package in place with its tools."""
    torch = pinned_torch()
    if call(python_in(venv), "-m", "pip", "show", "torch", quiet=True) != 0:
        pip_install(venv, *torch_source(venv), torch)
    # With the builder inside, a later change of pyproject.toml alone needs no network.
    pip_install(venv, "hatchling", "editables")
    pip_install(venv, "--no-build-isolation", "--editable", str(ROOT), "--group", "dev", *extra)


def look_around(venv: Path) -> None:
    """Let the doctor of the fresh install speak, if there is something to say."""
    dsf = python_in(venv).with_name("dsf")
    if call(dsf, "doctor", "--quiet", quiet=True) != 0 and call(dsf, "doctor") != MISSING:
        stop(f"dsf was installed but does not start: see what {dsf} doctor says.")


def pinned_torch() -> str:
    import tomllib  # older Pythons have none and must reach the sentence above

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return next(each for each in project["dependencies"] if each.startswith("torch>"))


def torch_source(venv: Path) -> list[str]:
    """Options for pip that choose where torch comes from. Speaks up before a large download."""
    index = os.environ.get("DSF_TORCH_INDEX")
    if index and answers(index):
        say(f"torch comes from {index}")
        return ["--index-url", index]
    if index:
        say(f"DSF_TORCH_INDEX ({index}) did not answer within {PROBE_SECONDS} s, passing it over")
    if configured(venv):
        say("torch comes from where pip is configured to look")
    elif sys.platform == "linux":
        say(
            "the default build of torch on Linux brings CUDA along, a download of about 3 GB. "
            "For a small one stop here and set DSF_TORCH_INDEX to PyTorch's index of CPU builds"
        )
    return []


def answers(index: str) -> bool:
    try:
        with urllib.request.urlopen(index.rstrip("/") + "/torch/", timeout=PROBE_SECONDS):
            return True
    except OSError:
        return False


def configured(venv: Path) -> bool:
    """Whether an index, a folder of wheels or a constraint is set for pip on this machine."""
    command = [str(python_in(venv)), "-m", "pip", "config", "list"]
    settings = subprocess.run(command, capture_output=True, text=True, check=False).stdout
    return bool(re.search(r"\.(index-url|extra-index-url|find-links|constraint)=", settings))


def pip_install(venv: Path, *what: str) -> None:
    """Run pip under the constraints. A failure ends in one sentence that names the package."""
    constraints = venv / "constraints-in-use.txt"
    constraints.write_text(constraints_for(what))
    command = [str(python_in(venv)), "-m", "pip", "install", "--no-input", "--progress-bar", "off"]
    command += ["--constraint", str(constraints), *what]
    last, complaint = "the packages that pyproject.toml asks for", ""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as pip:
        for line in pip.stdout or ():
            said = line.strip()
            if said.startswith(("Collecting ", "Downloading ", "Using cached ")):
                last = said.split()[1 if said.startswith(("Coll", "Down")) else 2]
            if said.startswith("ERROR:"):
                complaint = complaint or said.removeprefix("ERROR:").strip()
            if LARGE.search(said) or said.startswith(("Installing collected", "ERROR:")):
                print(f"  {said}", flush=True)
    if pip.returncode != 0:
        stop(
            f"Could not install {last}: {complaint or 'pip gave no reason'} Check the network and "
            "the free disk space, then run the same command again: it goes on where it stopped."
        )


def constraints_for(what: tuple[str, ...]) -> str:
    """The pins, less those that a release asked for by name takes the place of."""
    named = {each.partition("==")[0] for each in what if "==" in each}
    free = named | TIED_TO_TRANSFORMERS if "transformers" in named else named
    lines = (ROOT / "constraints.txt").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if line.partition("==")[0] not in free)


def say(sentence: str) -> None:
    print(f"set-up: {sentence}.", flush=True)


def stop(sentence: str) -> NoReturn:
    sys.exit(f"set-up: {sentence}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nset-up: stopped. Run the same command again: it goes on where it stopped.")
