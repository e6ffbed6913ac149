"""``dsf demo``: the embedded models side by side, without a network."""

import re
import resource
from pathlib import Path

import pytest
import torch

from dsf import models
from dsf.cli.demo import PARAGRAPH, PROMPT
from dsf.loading import load_model
from dsf.models import text
from tests.loading.gguf_writing import small_llama, write_gguf

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


@pytest.fixture
def writer(tmp_path):
    """A language model with a tokenizer, in one file."""
    pytest.importorskip("gguf", reason='needs pip install "dsf-toolkit[gguf]"')
    return write_gguf(tmp_path / "model.gguf", small_llama())


def test_a_language_model_on_a_paragraph(run, only_object, writer):
    """Told are the likeliest token, and the sinks as the library's own plain attention has them."""
    done = run("demo", "--model", str(writer), "--out", "shown", "--json")
    assert done.exit_code == 0, done.output
    found = only_object(done.stdout)
    loaded = load_model(writer)
    loaded.model.set_attn_implementation("eager")
    prompt, text = (loaded.tokenizer(words)["input_ids"] for words in (PROMPT, PARAGRAPH))
    with torch.no_grad():
        scores = loaded.model(torch.tensor([prompt])).logits[0, -1].softmax(-1)
        weights = loaded.model(torch.tensor([text]), output_attentions=True).attentions
    token, share = found["continued"][0]
    assert token == loaded.tokenizer.decode([scores.argmax()])
    assert share == pytest.approx(scores.max().item(), rel=1e-5)
    for (_, resting, heads, mean), shown in zip(found["sinks"], weights, strict=True):
        on_first = shown[0, :, 1:, 0].sum(-1) / shown[0, :, 1:].sum((-1, -2))
        assert mean == pytest.approx(on_first.mean().item(), rel=1e-5)
        assert (resting, heads) == (int((on_first > 0.3).sum()), 4)


def test_a_language_model_for_a_person(run, writer):
    done = run("demo", "--model", str(writer), "--out", "shown")
    assert done.exit_code == 0, done.output
    assert "Next after 'The capital of France is': " in done.stdout
    assert "of 8 heads put more than 30% of their weight on the first token" in done.stdout
    assert "reproduced" in done.stdout


def test_a_model_without_a_tokenizer_reads_no_paragraph(run):
    done = run("demo", "--model", str(models.folder("llama")), "--out", "shown")
    assert done.exit_code != 0
    assert "--model" in done.output
    assert "has no tokenizer" in done.output
