"""The text models that come with the package: small, finite, exact, able to predict a text."""

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import dsf
from dsf import models
from dsf.models import text

transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

MOST_BYTES = 3_000_000
RECORD = json.loads(Path(text.__file__).with_name("text.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module", params=models.TEXT_NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    return transformers.AutoModelForCausalLM.from_pretrained(models.folder(name))


@pytest.fixture(scope="module")
def tokenizer(name):
    return transformers.AutoTokenizer.from_pretrained(models.folder(name))


def test_weights_are_a_million_finite_numbers_of_half_precision(name):
    file = models.folder(name) / "model.safetensors"
    weights = load_file(file)
    assert file.stat().st_size < MOST_BYTES
    assert 900_000 < sum(weight.numel() for weight in weights.values()) < 1_100_000
    assert {weight.dtype for weight in weights.values()} == {torch.float16}
    assert all(weight.isfinite().all() for weight in weights.values())


def test_a_configuration_names_its_class_and_no_machine(name):
    configuration = json.loads((models.folder(name) / "config.json").read_text())
    assert configuration["model_type"] == name.removeprefix("text_")
    assert configuration["vocab_size"] == 1024
    assert "_name_or_path" not in configuration
    assert "/" not in json.dumps(configuration)


def test_it_computes_in_float32(model):
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_all_models_have_one_tokenizer():
    files = [models.folder(name) / "tokenizer.json" for name in models.TEXT_NAMES]
    assert len({file.read_bytes() for file in files}) == 1


@pytest.mark.parametrize("words", [text.PASSAGE, "Zoë: 漢字\t– 1 , 2 .\n\n\n  x ", " "])
def test_tokens_spell_any_text(tokenizer, words):
    tokens = tokenizer(words)["input_ids"]
    assert tokenizer.decode(tokens) == words


def test_every_layer_is_read_exactly_on_words(name):
    inspection = dsf.inspect(models.folder(name), text="And all our yesterdays")
    assert not inspection.unsupported
    assert len(inspection) == {"text_llama": 3, "text_qwen3_next": 3}.get(name, 5)
    assert all(layer.formula < 1e-12 for layer in inspection)
    assert "".join(inspection.tokens[0]) == "And all our yesterdays"
    assert " our" in inspection.tokens[0]


def bits_token_by_token(model, tokenizer, words):
    """Each token from all before it, the model run anew for each, in plain Python."""
    tokens = [*tokenizer("\n")["input_ids"], *tokenizer(words)["input_ids"]]
    bits = 0.0
    for at in range(1, len(tokens)):
        with torch.inference_mode():
            scores = model(torch.tensor([tokens[:at]]), use_cache=False).logits[0, -1].tolist()
        highest = max(scores)
        total = sum(math.exp(score - highest) for score in scores)
        bits -= (scores[tokens[at]] - highest - math.log(total)) / math.log(2)
    return bits / len(words.encode("utf-8"))


def test_bits_per_byte_are_the_surprise_of_every_token(model, tokenizer):
    words = "Out, out, brief candle! – so"  # a dash of three bytes
    expected = bits_token_by_token(model, tokenizer, words)
    assert text.bits_per_byte(model, tokenizer, words) == pytest.approx(expected, rel=1e-5)


def test_windows_forget_what_was_before_them(model, tokenizer):
    """With windows of one token, every token is predicted from the one before it alone."""
    words = "and to-morrow, and to-morrow"
    tokens = torch.tensor([*tokenizer("\n")["input_ids"], *tokenizer(words)["input_ids"]])
    with torch.inference_mode():
        scores = model(tokens[:-1, None], use_cache=False).logits[:, -1].double()
    shares = scores.log_softmax(-1).gather(1, tokens[1:, None])
    expected = -shares.sum().item() / math.log(2) / len(words)
    found = text.bits_per_byte(model, tokenizer, words, context=1)
    assert found == pytest.approx(expected, rel=1e-5)
    assert found != pytest.approx(text.bits_per_byte(model, tokenizer, words), rel=1e-2)


def test_the_mode_of_the_model_is_restored(model, tokenizer):
    model.train()
    text.bits_per_byte(model, tokenizer, "so")
    assert model.training
    model.eval()


def test_recorded_bits_are_those_of_the_stored_model(model, tokenizer, name):
    record = RECORD["models"][name]
    assert text.bits_per_byte(model, tokenizer, text.PASSAGE) == pytest.approx(
        record["passage_bits_per_byte"], abs=1e-3
    )
    assert model.num_parameters() == record["parameters"]


def test_it_predicts_better_than_pairs_of_bytes(model, tokenizer, name):
    pairs = RECORD["text"]["bigram_bits_per_byte"]
    assert RECORD["models"][name]["bits_per_byte"] < pairs - 0.5
    here = text.bits_per_byte(model, tokenizer, text.PASSAGE)
    assert here < RECORD["text"]["passage_bigram_bits_per_byte"] - 0.5


def test_it_predicts_words_in_their_order(model, tokenizer):
    reversed_words = " ".join(reversed(text.PASSAGE.split(" ")))
    forwards = text.bits_per_byte(model, tokenizer, text.PASSAGE)
    assert text.bits_per_byte(model, tokenizer, reversed_words) > forwards + 0.1


def test_a_line_break_is_spelled_visibly(tokenizer):
    tokens = tokenizer("out\nto the")["input_ids"]
    assert text.spell(tokenizer, torch.tensor(tokens)) == ["out", "↵", "to", " the"]


def test_a_text_that_cannot_be_counted_is_refused(model, tokenizer):
    with pytest.raises(ValueError, match="'text'"):
        text.bits_per_byte(model, tokenizer, "")

    class Deaf:
        def __call__(self, words):
            return {"input_ids": tokenizer(words.lower())["input_ids"]}

        def decode(self, tokens):
            return tokenizer.decode(tokens)

    with pytest.raises(ValueError, match="'Out'"):
        text.bits_per_byte(model, Deaf(), "Out")
