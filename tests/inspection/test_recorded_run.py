"""What a model is run with, and that nothing is listened to that is read as a whole."""

from inspect import signature

import pytest
import torch

import dsf
from dsf.inspection.model_input import without_logits
from dsf.inspection.rebuild import relative_error

transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
IDS = torch.tensor([[1, 2, 3, 4, 5]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes)).eval()


def logits_in(model, **named):
    """The shapes of all logits while a model is inspected."""
    shapes = []
    hook = model.lm_head.register_forward_hook(lambda *given: shapes.append(given[-1].shape))
    dsf.inspect(model, input_ids=IDS, checks="none", **named)
    hook.remove()
    return shapes


def test_logits_of_the_last_token_are_all_that_an_inspection_computes(model):
    assert logits_in(model) == [(1, 1, 30)]
    assert logits_in(model, logits_to_keep=2) == [(1, 2, 30)]


def test_an_inspection_computes_no_loss(model):
    assert logits_in(model, labels=IDS) == [(1, 1, 30)]
    found = dsf.inspect(model, input_ids=IDS, labels=IDS)
    assert not found.unsupported  # a loss joins all tokens, and is no token mixer
    assert without_logits(model, (), {"input_ids": IDS, "labels": IDS}).keys() == {
        "input_ids",
        "labels",
    }


def test_other_models_are_called_as_they_are(model):
    named = {"input_ids": IDS}
    assert without_logits(model.transformer, (), named) == named
    assert without_logits(torch.nn.LSTM(2, 3), (), named) == named
    place = list(signature(model.forward).parameters).index("logits_to_keep")
    assert without_logits(model, (None,) * (place + 1), {}) == {}


def test_every_row_is_read_where_the_number_of_logits_shortens_the_last_layers():
    """Layers of gemma4 that share keys and values compute the tokens alone whose logits are."""
    if not hasattr(transformers, "Gemma4TextConfig"):
        pytest.skip(f"transformers {transformers.__version__} has no gemma4")
    torch.manual_seed(0)
    sizes = {"vocab_size": 30, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0}
    sizes |= {"global_head_dim": 8, "vocab_size_per_layer_input": 30, "bos_token_id": 1}
    sizes |= {"hidden_size_per_layer_input": 4, "num_kv_shared_layers": 2, "eos_token_id": 2}
    kinds = ["sliding_attention", "full_attention"] * 2
    config = transformers.Gemma4TextConfig(**sizes, layer_types=kinds)
    model = transformers.Gemma4ForCausalLM(config).eval()
    inspection = dsf.inspect(model, input_ids=IDS)
    assert [layer.map().shape[-2:] for layer in inspection] == [(5, 5)] * 4
    assert not inspection.unsupported
    asked = dsf.inspect(model, input_ids=IDS, logits_to_keep=1)  # what is asked for is what runs
    assert [layer.map().shape[-2] for layer in asked] == [5, 5, 1, 1]


@pytest.mark.parametrize(("library", "card"), [("fla", False), ("fla", True), ("flavour", False)])
def test_kernels_that_need_a_card_are_named_where_there_is_none(monkeypatch, library, card):
    def forward(_self, _x):
        raise RuntimeError("0 active drivers ([]). There should only be one.")

    monkeypatch.setattr(torch.accelerator, "is_available", lambda: card)
    kind = type(
        "Layer", (torch.nn.Module,), {"forward": forward, "__module__": f"{library}.layers"}
    )
    with pytest.raises(dsf.inspection.InspectionError) as told:
        dsf.inspect(kind(), torch.ones(1, 3, 2))
    assert ("Triton kernels need a card" in str(told.value)) == (library == "fla" and not card)


def test_an_error_of_zero_is_no_negative_zero():
    zeros = torch.zeros(2, 3, dtype=torch.float64)
    assert str(relative_error(zeros, zeros)) == str(relative_error(zeros + 1, zeros + 1)) == "0.0"
