"""The built pages, made once for all tests of this folder."""

import fcntl
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the pages as ``make docs`` builds them: a warning is an error.

    DSF_SITE names a folder that is built already, such as that of ``make docs`` with the results of
    the notebooks.
    """
    if os.environ.get("DSF_SITE"):
        return Path(os.environ["DSF_SITE"]).resolve()
    for needed in ("sphinx", "furo", "myst_nb", "sphinx_copybutton", "latex2mathml"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"building the pages needs {needed}: pip install 'dsf-toolkit[docs]'")
    # One folder for all processes of a run: a second build would write to docs/_generated, too.
    alone = "PYTEST_XDIST_WORKER" not in os.environ
    place = tmp_path_factory.getbasetemp() if alone else tmp_path_factory.getbasetemp().parent
    with (place / "site.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (place / "site.built").exists():
            built(place / "site")
            (place / "site.built").touch()
    return place / "site"


def built(out):
    build = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-n", "-q", "docs", str(out)]
    quiet = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run(
        build, check=False, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr[-4000:]
