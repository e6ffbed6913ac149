"""``dsf demo``: the embedded models side by side, without a network."""

import pytest

from dsf import models

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
pytestmark = pytest.mark.slow

NO_NETWORK = """
import socket, sys
def refuse(*_, **__): raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse
from dsf.cli import main
main(sys.argv[1:])
"""


def test_the_demo_runs_in_a_process_of_its_own_without_a_network(run_alone, only_object, tmp_path):
    done = run_alone("-c", NO_NETWORK, "demo", "--json")
    assert done.returncode == 0, done.stderr
    found = only_object(done.stdout)
    assert found["seconds"] < 60
    assert min(found["recall"].values()) > 0.9
    assert {layer["name"].split(" · ")[0] for layer in found["layers"]} == set(models.NAMES)
    assert all(layer["formula"] <= layer["tolerance"] for layer in found["layers"])
    assert {record["verdict"] for record in found["verdicts"]} >= {"PROVED", "REFUTED"}
    assert (tmp_path / found["run"] / "checker.py").is_file()
    assert "PROVED" in (tmp_path / found["files"]["report"]).read_text(encoding="utf-8")
    for file in found["files"].values():
        assert (tmp_path / file).stat().st_size > 10_000


def test_the_demo_says_what_to_do_next(run):
    done = run("demo", "--out", "shown")
    assert done.exit_code == 0, done.output
    assert "Next: dsf inspect" in done.stdout
    assert "reproduced" in done.stdout
    again = run("check", "shown/run")
    assert again.exit_code == 0
    assert "certificates accepted" in again.stdout
    assert "\x1b" not in done.stdout
