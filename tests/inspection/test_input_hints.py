"""A model that could not be run on its token numbers: the error says what is wrong with them."""

import numpy as np
import pytest
import torch

import dsf
from dsf.inspection import InspectionError
from dsf.models import folder, recall

pytestmark = pytest.mark.usefixtures("our_own_errors")
IDS = recall.draw(torch.Generator().manual_seed(0), samples=1).tokens


@pytest.fixture(scope="module")
def model():
    from dsf.loading import load_model

    return load_model(folder("llama")).model


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, r"pass input_ids=torch\.tensor\(\[\[1, 2\]\]\)"),
        ({"input_id": IDS}, r"pass input_ids="),
        ({"input_ids": None}, r"pass input_ids="),
        ({"input_ids": [[1, 2]]}, r"must be a tensor, such as .*, but it is list\."),
        ({"input_ids": np.array([[1, 2]])}, r"but it is ndarray\."),
        ({"input_ids": IDS.float()}, r"whole numbers, but they are fractions: .*\.long\(\)"),
        ({"input_ids": IDS[:, :0]}, r"one token at least, but the shape is \(1, 0\)"),
        ({"input_ids": IDS + 10**6}, r"must be numbers from 0 to \d+, but there is 10000\d\d"),
        ({"input_ids": -1 - IDS}, r"must be numbers from 0 to \d+, but there is -\d+"),
    ],
    ids=str,
)
def test_what_is_wrong_is_said(model, given, words):
    for call in (dsf.inspect, dsf.stack):
        with pytest.raises(InspectionError, match=words):
            call(model, **given)


def test_numbers_of_one_sample_without_its_axis():
    with pytest.raises(InspectionError, match=r"input_ids\[None\]"):
        dsf.inspect(folder("qwen3_next"), input_ids=IDS[0])


def test_other_inputs_are_not_blamed(model):
    with pytest.raises(InspectionError, match="call the model"):
        dsf.inspect(model, inputs_embeds="x")
    with pytest.raises(InspectionError, match="call the model"):
        dsf.inspect(torch.nn.Linear(2, 3), torch.ones(1, 4, 5))


@pytest.mark.parametrize("text", ["", 3, [], ["a", ""], ["a", 3]])
def test_a_text_that_is_none(text):
    with pytest.raises(InspectionError, match="'text'"):
        dsf.inspect(folder("text_mamba"), text=text)


def test_two_inputs_are_one_too_many():
    with pytest.raises(InspectionError, match="'text' and 'input_ids'"):
        dsf.inspect(folder("text_mamba"), text="a", input_ids=IDS)


@pytest.mark.parametrize("memory", ["1GB", float("nan"), -1, [8]])
def test_a_memory_that_is_no_number_of_bytes(model, memory):
    with pytest.raises(ValueError, match="'memory'"):
        dsf.inspect(model, input_ids=IDS, memory=memory)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("layer", "layers"), ("head", "heads"), ("tolerence", "tolerance"), ("edit", "edits")],
)
def test_a_misspelt_argument_is_not_ignored(model, name, meant):
    words = f"no input of .* is called '{name}'.*Did you mean '{meant}'"
    for call in (dsf.inspect, dsf.stack, dsf.intervene):
        with pytest.raises(InspectionError, match=f"^{call.__name__}: {words}"):
            call(model, input_ids=IDS, **{name: 0})


def test_what_the_model_may_know_is_passed_on(model):
    assert len(dsf.inspect(model, input_ids=IDS, output_attentions=True, nonsense=1)) == 2


def test_a_model_without_a_table_of_embeddings_says_its_own_error(model, monkeypatch):
    def unknown():
        raise NotImplementedError("not of this model")

    monkeypatch.setattr(model, "get_input_embeddings", unknown)
    with pytest.raises(InspectionError, match="index out of range"):
        dsf.inspect(model, input_ids=IDS + 10**6)


def test_a_model_is_called_with_arguments_that_it_takes():
    from transformers import PreTrainedModel, T5Config, T5ForConditionalGeneration

    class Series(PreTrainedModel):
        config_class = T5Config

        def __init__(self, config):
            super().__init__(config)
            self.inner = T5ForConditionalGeneration(config)

        def get_decoder(self):
            return self.inner.decoder

        def forward(self, context):
            numbers = self.inner.shared(context.long())
            hidden = self.inner.encoder(inputs_embeds=numbers)[0]
            begin = torch.zeros(len(context), 1, dtype=torch.long)
            return self.inner.decoder(input_ids=begin, encoder_hidden_states=hidden)[0]

    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1}
    model = Series(T5Config(vocab_size=20, decoder_start_token_id=0, **sizes)).eval()
    inspection = dsf.inspect(model, torch.tensor([[1, 2, 3, 4]]))
    assert any("encoder" in layer.name for layer in inspection)
