"""``support`` says before a run what an inspection finds, without weights."""

import json

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection.support_table import WHEN_RUN
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

RECURRENT = ("zamba", "falcon_h1", "nemotron_h", "kimi_linear", "recurrent_gemma", "rwkv", "lfm2")
SOFTMAX = ("llama", "gemma2", "gpt_oss", "bert", "t5", "vit")


def told(model):
    return {(one.name, one.mixer, one.exact) for one in dsf.support(model)}


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

    one, other, cell = dsf.support(nn.ModuleList([Block()]))
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
