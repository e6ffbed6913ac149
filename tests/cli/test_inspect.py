"""Commands that open a model: reports, JSON, exit codes, and refusals in one sentence.

``dsf inspect``: one model, one input, a report; refusals in one sentence.

``support`` says before a run what an inspection finds, without weights.

``dsf audit``: the exit code, and the files that it writes.

``dsf measure``: prompts from a file, the summary, what is refused.

``playground`` writes one page and says where.
"""

import csv
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import dsf
from dsf import models
from dsf.inspection.support_table import WHEN_RUN, support
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models


def test_a_checkpoint_becomes_a_report(run, checkpoint, tmp_path):
    done = run("inspect", checkpoint, "--ids", "1 2,3 4", "--out", "here")
    assert done.exit_code == 0, done.output
    line = "tiny: 2 layers (2 SoftmaxAttention), 4 maps of 4 tokens, all reproduced"
    assert line in done.stdout
    assert sorted(os.listdir(tmp_path / "here")) == ["maps.png", "report.html"]


def test_json_is_one_object_of_this_form(run, checkpoint, only_object):
    done = run("inspect", checkpoint, "--ids", "5 6 7", "--json", "--exact")
    found = only_object(done.stdout)
    assert {name: type(value).__name__ for name, value in found.items()} == {
        "schema_version": "int",
        "command": "str",
        "exit_code": "int",
        "threads": "int",
        "model": "str",
        "layers": "list",
        "checks": "list",
        "unsupported": "list",
        "environment": "dict",
        "forecast": "dict",
        "files": "dict",
        "seconds": "float",
    }
    assert (found["schema_version"], found["command"], found["exit_code"]) == (1, "inspect", 0)
    first = found["layers"][0]
    assert {**first, "error": 0, "formula": 0, "rounding": 0} == {
        "name": "model.layers.0.self_attn",
        "family": "llama",
        "mixer": "SoftmaxAttention",
        "axes": ["sample", "head"],
        "batch": [1, 2],
        "tokens": 3,
        "error": 0,
        "formula": 0,
        "rounding": 0,
        "compared_with": "its module in float64",
        "heads": None,
        "tolerance": 1e-12,
        "share": 1.0,
        "columns": "token",
        "exact": True,
        "checks": first["checks"],
    }
    assert [each["answer"] for each in first["checks"]] == ["all of it", "1 sample, 2 head"]
    assert first["formula"] <= first["tolerance"]
    assert first["error"] == max(first["formula"], first["rounding"])
    assert found["environment"]["weights"].startswith("sha256 ")


def test_check_takes_the_same_choice_and_keeps_each_apart(run, checkpoint, only_object):
    """Into one folder: the verdicts about one head are not those about the other."""
    for head in (0, 1):
        chosen = ("--layers", "*.1.*", "--heads", str(head), "--out", "run")
        done = run("check", checkpoint, "--ids", "5 6 7", *chosen, "--json")
        records = only_object(done.stdout)["verdicts"]
        assert {record["layer"] for record in records} == {"model.layers.1.self_attn"}
        assert {record["head"] for record in records if "head" in record} == {head}
    for option, value in (("--layers", "7"), ("--heads", "5")):
        words = run("check", checkpoint, "--ids", "5 6 7", option, value, "--out", "other")
        same = run("inspect", checkpoint, "--ids", "5 6 7", option, value, "--no-report")
        assert words.exit_code == same.exit_code == 2
        assert words.stderr.removeprefix("dsf check") == same.stderr.removeprefix("dsf inspect")


def test_memory_is_told_before_the_run_or_refused(run, checkpoint, only_object, monkeypatch):
    told = run("inspect", checkpoint, "--ids", "5 6 7", "--no-report", "--memory", "1")
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("memory: about 0.3 GB of 1.0 GB at the peak")
    refused = run(
        "inspect", checkpoint, "--ids", "5 6 7", "--no-report", "--memory", "0.1", "--json"
    )
    found = only_object(refused.stdout)
    assert (refused.exit_code, found["error"]["kind"]) == (3, "InspectionMemoryError")
    assert "0.1 GB are available" in found["error"]["message"]
    assert run("inspect", checkpoint, "--ids", "5", "--memory", "0").exit_code == 2
    monkeypatch.setattr("dsf.report.content.SPARE", 10**9)
    with_report = run("inspect", checkpoint, "--ids", "5 6 7", "--memory", "0.3")
    assert with_report.exit_code == 3
    assert re.search(r"the report takes about .* GB are available.*--no-report", with_report.stderr)
    assert not Path("dsf-report").exists()
    by_block = run("inspect", checkpoint, "--ids", "5", "--memory", "0.1", "--layerwise")
    assert by_block.exit_code == 3
    assert "on 1 tokens takes" in by_block.stderr
    beside = run("inspect", checkpoint, "--ids", "5", "--exact", "--layerwise")
    assert beside.exit_code == 2
    assert "--layerwise and --exact exclude each other" in beside.stderr


def test_memory_that_runs_out_inside_of_torch_is_a_limit_and_no_fault(run, checkpoint, monkeypatch):
    def fails(*_, **__):
        raise RuntimeError(
            "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 9999999999999 bytes. Error code 12"
        )

    monkeypatch.setattr("dsf.cli.inspect_model.layer_facts", fails)
    done = run("inspect", checkpoint, "--ids", "5 6 7", "--no-report", "--quiet")
    assert done.exit_code == 3, done.output
    assert re.search(r"memory of this machine ran out .*Give a shorter input", done.stderr)
    assert "fault of dsf" not in done.stderr


def test_the_same_input_gives_the_same_fingerprint(run, checkpoint, only_object):
    prints = [
        only_object(run("inspect", checkpoint, "--ids", ids, "--json").stdout)["environment"]
        for ids in ("5 6 7", "5,6,7", "5 6 8")
    ]
    assert prints[0]["input"] == prints[1]["input"] != prints[2]["input"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "exactly one of --text, --ids and --file"),
        (["--ids", "1", "--text", "a"], "got 2"),
        (["--ids", "1 x"], "--ids"),
        (["--ids", ""], "one or more numbers from 0 to 31"),
        (["--ids", "1 32"], "one or more numbers from 0 to 31"),
        (["--text", "hello"], "no tokenizer"),
        (["--file", "nowhere.txt"], "--file"),
    ],
)
def test_a_wrong_input_is_usage_with_a_cure(run, checkpoint, options, words):
    done = run("inspect", checkpoint, *options)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_a_missing_folder_is_refused_in_json_too(run, only_object):
    done = run("inspect", "/no/such/folder", "--ids", "1", "--json", "--offline")
    assert done.exit_code == 2
    found = only_object(done.stdout)
    assert found["exit_code"] == 2
    assert "neither an existing folder nor a hub id" in found["error"]["message"]


def test_verbose_adds_the_traceback(run, checkpoint):
    done = run("inspect", checkpoint, "--ids", "99", "-v")
    assert "Traceback" in done.stderr
    assert done.exit_code == 2


def test_a_layer_that_is_not_reproduced_fails(run, checkpoint, monkeypatch):
    from dsf.inspection import ReconstructionError

    def refuse(*_, **__):
        raise ReconstructionError("layer 0 is off by \x1b[31m1e-2\u202e")

    monkeypatch.setattr("dsf.cli.run_model.inspect", refuse)
    done = run("inspect", checkpoint, "--ids", "1")
    assert done.exit_code == 1
    assert done.stderr == "dsf inspect: layer 0 is off by \\x1b[31m1e-2\\u202e\n"


def test_too_large_is_a_limit_and_a_fault_of_ours_stays_loud(run, checkpoint, monkeypatch):
    from dsf.evaluate import MapTooLarge

    for error, code in ((MapTooLarge("no room"), 3), (ZeroDivisionError("ours"), 1)):
        monkeypatch.setattr("dsf.cli.run_model.inspect", raising(error))
        done = run("inspect", checkpoint, "--ids", "1")
        assert done.exit_code == code
    assert isinstance(done.exception, ZeroDivisionError)


def raising(error):
    def fail(*_, **__):
        raise error

    return fail


def test_quiet_prints_nothing(run, checkpoint):
    done = run("inspect", checkpoint, "--ids", "1 2", "--quiet")
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_text_goes_through_the_models_own_tokenizer(run, checkpoint, tmp_path, only_object):
    """A word-level tokenizer with a token that is markup, a formula and a terminal code."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"<unk>": 0, "[red]</script>": 1, "\x1b[31mk": 2, "=cmd": 3}
    model = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "worded"
    folder.mkdir()
    for file in checkpoint.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    transformers.PreTrainedTokenizerFast(tokenizer_object=model).save_pretrained(folder)
    text = tmp_path / "text.txt"
    text.write_text("[red]</script> \x1b[31mk =cmd other")
    done = run("inspect", folder, "--file", text, "--json")
    assert only_object(done.stdout)["layers"][0]["tokens"] == 4
    page = (tmp_path / "dsf-report" / "report.html").read_text()
    content = page.split('id="content">')[1].split("</script>")[0]
    tokens = json.loads(content)["models"][0]["tokens"]
    assert tokens == [["[red]</script>", "\\x1b[31mk", "=cmd", "<unk>"]]


RECURRENT = ("zamba", "falcon_h1", "nemotron_h", "kimi_linear", "recurrent_gemma", "rwkv", "lfm2")
SOFTMAX = ("llama", "gemma2", "gpt_oss", "bert", "t5", "vit")


def told(model):
    return {(one.name, one.mixer, one.exact) for one in support(model)}


def found(model, given):
    layers = dsf.inspect(model, **given)
    # RWKV-4's feed-forward layers shift tokens, which only a run shows.
    assert all("feed_forward" in each.name for each in layers.unsupported)
    return {
        (layer.name.partition(" (call")[0], type(layer.mixer).__name__, "yes") for layer in layers
    }


DRY = ("inspect", "--dry-run")


@pytest.mark.parametrize("family", RECURRENT)
def test_what_is_told_is_found_in_every_recurrent_family(family):
    model = tiny_models.build(family)
    assert told(model) == found(model, tiny_models.inputs(4))


@pytest.mark.parametrize("name", SOFTMAX)
def test_what_is_told_is_found_in_softmax_models(name):
    model = softmax_models.build(name)
    assert told(model) == found(model, softmax_models.inputs(name))


def test_a_model_without_weights_is_told_alike():
    model = tiny_models.build("qwen3_next")
    with torch.device("meta"):
        empty = type(model)(model.config)
    assert told(empty) == told(model)


class OwnSoftmax(nn.Module):
    def forward(self, x):
        return (x @ x.mT).softmax(dim=-1) @ x


class OwnAttention(OwnSoftmax):
    pass


class StrangeMixer(nn.Module):
    def forward(self, x):
        return x.cumsum(dim=1)


def test_what_only_a_run_can_tell_and_what_nobody_knows():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.mixer, self.memory = (
                OwnAttention(),
                StrangeMixer(),
                nn.GRUCell(2, 2),
            )

    one, other, cell = support(nn.ModuleList([Block()]))
    assert (one.name, one.mixer, one.exact) == ("0.attention", "SoftmaxAttention", WHEN_RUN)
    assert (other.name, other.mixer, other.exact) == ("0.mixer", "", WHEN_RUN)
    assert "probes it where it is linear in its values" in other.how
    assert (cell.name, cell.mixer, cell.exact) == ("0.memory", "GRU", "yes")


def test_the_command_needs_the_settings_alone(run, only_object, tmp_path):
    settings = tiny_models.build("jamba").config.to_dict()
    settings["architectures"] = ["JambaForCausalLM"]
    (tmp_path / "config.json").write_text(json.dumps(settings))
    done = run(*DRY, tmp_path)
    assert done.exit_code == 0, done.output
    assert "3 token mixers, 3 read exactly" in done.stdout
    answer = only_object(run(*DRY, tmp_path, "--json").stdout)
    assert [(one["name"], one["mixer"]) for one in answer["mixers"]] == [
        ("model.layers.0.mamba", "SelectiveStateSpace"),
        ("model.layers.1.self_attn", "SoftmaxAttention"),
        ("model.layers.2.mamba", "SelectiveStateSpace"),
    ]


def test_the_command_refuses_in_words(run, tmp_path):
    assert run(*DRY, tmp_path).exit_code == 2
    (tmp_path / "config.json").write_text('{"model_type": "no_such_family"}')
    done = run(*DRY, tmp_path)
    assert done.exit_code == 2
    assert "no family 'no_such_family'" in done.stderr or 'no family "no_such' in done.stderr


def test_only_some_mixers(run, checkpoint, only_object):
    everything = only_object(run(*DRY, checkpoint, "--json").stdout)["mixers"]
    some = only_object(run(*DRY, checkpoint, "--layers", "1:", "--json").stdout)["mixers"]
    assert some == everything[1:]
    refused = run(*DRY, checkpoint, "--layers", "99")
    assert (refused.exit_code, "99 is none of the" in refused.output) == (2, True)


pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')


def test_an_audit_of_a_healthy_model_accuses_nobody(run, checkpoint, only_object):
    done = run("audit", checkpoint, "--ids", "1 2 3 4", "--decode", "2", "--json")
    assert done.exit_code == 0, done.output
    ledger = only_object(done.stdout)
    assert ledger["healthy"]
    assert abs(ledger["residual"]) <= 0.01 * abs(ledger["actual"])
    assert {"layer", "stage", "own", "share"} <= ledger["rows"][0].keys()


def test_an_audit_ends_with_1_where_a_stage_is_accused(run, checkpoint, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, "spoiled")
    weights = load_file("spoiled/model.safetensors")
    weights["model.layers.1.self_attn.o_proj.weight"] *= 1.01
    save_file(weights, "spoiled/model.safetensors", metadata={"format": "pt"})
    asked = ("audit", checkpoint, "--ids", "1 2 3 4", "--suspect", "spoiled", "--out")
    for name in ("ledger.xml", "ledger.png"):
        done = run(*asked, name)
        assert done.exit_code == 1, done.output
        assert done.stdout.startswith("layer 1 self_attn, output: explains")
        assert (tmp_path / name).stat().st_size
    assert 'failures="1"' in (tmp_path / "ledger.xml").read_text()


def test_a_file_of_prompts_is_measured_and_goes_on(run, checkpoint, tmp_path, only_object):
    (tmp_path / "prompts.txt").write_text("1 2 3\n\n4, 5, 6\n")
    asked = ("measure", checkpoint, "prompts.txt", "--ids", "--quantity", "negative_share")
    result = run(*asked, "--batch", 2, "--json")
    assert result.exit_code == 0, result.output
    facts = only_object(result.stdout)
    written = (tmp_path / "dsf-job" / "summary.csv").read_text()
    rows = list(csv.DictReader(written.splitlines()))
    assert len(facts["summary"]) == len(rows) > 0
    assert {row["count"] for row in rows} == {"2"}
    assert {row["quantity"] for row in rows} == {"negative_share"}
    again = run(*asked, "--batch", 2)
    assert again.exit_code == 0
    assert "summary.csv has all" in again.stdout


def test_what_makes_no_sense_is_refused(run, checkpoint, tmp_path):
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "words.txt").write_text("some words\n")
    for arguments, words in (
        (("empty.txt", "--ids"), "PROMPTS"),
        (("words.txt",), "has no tokenizer"),
        (("words.txt", "--ids"), "line 1"),
        (("words.txt", "--ids", "--workers", 2, "--slurm", "logs"), "exclude each other"),
    ):
        result = run("measure", checkpoint, *arguments)
        assert result.exit_code == 2, result.output
        assert words in result.stderr


def test_it_writes_the_page(run, tmp_path):
    done = run("demo", "--playground", "delta_net", "--out", "here.html")
    assert (done.exit_code, done.stdout) == (0, "here.html\n")
    assert (tmp_path / "here.html").read_text("utf-8") == dsf.report.playground("delta_net").html


def test_it_speaks_json(run, only_object):
    told = only_object(run("demo", "--playground", "delta_net", "--json").stdout)
    assert told["files"] == {"playground": "playground.html"}


def test_an_unknown_architecture_is_refused(run, tmp_path):
    done = run("demo", "--playground", "mamba")
    assert done.exit_code == 2
    assert "--playground" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_report_names_the_heads_to_look_at(run, tmp_path):
    """The last layer of the model of the package reads what followed each key."""
    pairs = "1 17 2 18 3 19 4 20 5 21 3 1 5 2 4"
    done = run("inspect", models.folder("llama"), "--ids", pairs, "--out", "here")
    assert done.exit_code == 0, done.output
    assert "induction: model.layers.1.self_attn head" in done.stdout
    page = (tmp_path / "here/report.html").read_text(encoding="utf-8")
    assert re.search(r"<dt>Look at</dt><dd[^>]*>[^<]*induction: model.layers.1.self_attn", page)
