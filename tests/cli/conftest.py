"""Running the command line in this process and in one of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Runs a command in this process, in an empty folder."""
    from dsf.cli.entry import app

    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, [str(each) for each in arguments])


@pytest.fixture
def run_alone(tmp_path):
    """Runs Python in a process of its own, in an empty folder."""

    def call(*arguments, **environment):
        known = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment}
        return subprocess.run(
            [sys.executable, *map(str, arguments)],
            cwd=tmp_path,
            env=known,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    return call


@pytest.fixture
def only_object():
    """Reads an output that must be exactly one JSON object."""

    def read(text):
        return json.loads(text, parse_constant=pytest.fail)

    return read


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """The folder of a tiny untrained model without a tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
    config = transformers.LlamaConfig(
        vocab_size=32,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "tiny"
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder
