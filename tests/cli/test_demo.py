"""``dsf demo``: the embedded models side by side, without a network."""

import re
import resource
from pathlib import Path

import pytest

from dsf import models
from dsf.models import text

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]

NO_NETWORK = """
import socket
def refuse(*_, **__): raise OSError("no network here")
socket.socket.connect = socket.create_connection = refuse
import dsf.cli.demo as demo
from dsf.cli import main

computed, answers = demo.of_package, []
def once(*given, **named):
    answers[:] = answers or [computed(*given, **named)]
    return answers[0]
demo.of_package = once

for form in ([], ["--json"]):
    try:
        main(["demo", *form])
    except SystemExit as left:
        if left.code: raise
    print("\\f", flush=True)
"""
"""The answer is computed once and given in both forms."""


def seconds_of_children():
    """Of work: other programs on the machine do not count."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_demo_runs_in_a_process_of_its_own_without_a_network(
    run, run_alone, only_object, tmp_path
):
    before = seconds_of_children()
    done = run_alone("-c", NO_NETWORK)
    assert done.returncode == 0, done.stderr
    assert seconds_of_children() - before < 60
    told, found, rest = done.stdout.split("\f")
    assert rest.strip() == ""
    says_what_is_in_it(only_object(found), tmp_path)
    says_what_to_do_next(told)
    again = run("check", "dsf-demo/run")
    assert again.exit_code == 0
    assert "accepted by the checker" in again.stdout
    assert "root hash of the run: sha256" in again.stdout


def says_what_is_in_it(found, place):
    assert min(found["recall"].values()) > 0.9
    assert {layer["name"].split(" · ")[0] for layer in found["layers"]} == set(models.NAMES)
    assert all(layer["formula"] <= layer["tolerance"] for layer in found["layers"])
    told = found["text"]
    assert max(told["bits_per_byte"].values()) < 3.5
    assert {layer["name"].split(" · ")[0] for layer in told["layers"]} == set(models.TEXT_NAMES)
    assert all(layer["formula"] <= layer["tolerance"] for layer in told["layers"])
    assert "".join(told["tokens"]) == text.PASSAGE.replace("\n", text.LINE_BREAK)
    assert {record["verdict"] for record in found["verdicts"]} >= {"PROVED", "REFUTED"}
    assert not list((place / found["run"]).rglob("*.py"))
    report = (place / found["files"]["report"]).read_text(encoding="utf-8")
    assert "PROVED" in report
    assert '" should"' in report
    assert "\\u0120" not in report
    for file in found["files"].values():
        assert (place / file).stat().st_size > 10_000


def says_what_to_do_next(told):
    assert "Next: dsf inspect" in told
    assert "reproduced" in told
    assert "\x1b" not in told
    page = " ".join((ROOT / "docs/newcomer.md").read_text(encoding="utf-8").split())
    written = re.search(r"(\d+) statements are proved, (\d+) refuted, and (\d+) do not", page)
    proved, refuted, apart = written.groups()
    assert f"{apart} NOT APPLICABLE, {proved} PROVED, {refuted} REFUTED" in told
