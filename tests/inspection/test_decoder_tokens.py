"""Maps of a decoder are of the tokens that it got, whoever made them."""

import pytest
import torch

import dsf
from dsf.report import selection

transformers = pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')
IDS = torch.tensor([[5, 6, 7, 8, 9, 2]])
LABELS = torch.tensor([[11, 12, 13, 2]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, max_position_embeddings=32,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16,
        decoder_ffn_dim=16, init_std=0.5,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config).eval()


@pytest.mark.parametrize("more", [{}, {"labels": LABELS}, {"decoder_input_ids": LABELS}])
def test_texts_of_the_encoder_stay_in_the_encoder(model, more):
    texts = [[f"text {number}" for number in IDS[0].tolist()]]
    hooks = len(model.get_decoder()._forward_pre_hooks)
    found = dsf.inspect(model, input_ids=IDS, tokens=texts, **more)
    sources = [(layer.row_input, layer.column_input) for layer in found]
    of = "decoder_input_ids"
    assert sources == [("input_ids", "input_ids"), (of, of), (of, "input_ids")]
    rows = [selection.texts_of(found, layer, layer.row_input) for layer in found]
    keys = [selection.texts_of(found, layer, layer.column_input) for layer in found]
    assert (rows, keys) == ([True, False, False], [True, False, True])
    assert len(model.get_decoder()._forward_pre_hooks) == hooks


def test_the_decoder_gets_what_the_model_makes(model):
    """The oracle is BART's rule, written out: the first token is 2, and the last one falls away."""
    for more, made in (({}, [[2, 5, 6, 7, 8, 9]]), ({"labels": LABELS}, [[2, 11, 12, 13]])):
        expected = dsf.inspect(model, input_ids=IDS, decoder_input_ids=torch.tensor(made))
        for ours, theirs in zip(dsf.inspect(model, input_ids=IDS, **more), expected, strict=True):
            assert torch.equal(ours.map(), theirs.map())


def texts_of(numbers):
    return [f"text {number}" for number in numbers]


@pytest.mark.parametrize("more", [{}, {"labels": LABELS}])
def test_a_loss_is_no_mixer_that_is_not_read(model, more):
    assert not dsf.inspect(model, input_ids=IDS, **more).unsupported


class Tokenizer:
    def __len__(self):
        return 40

    def convert_ids_to_tokens(self, numbers):
        return texts_of(numbers)

    def convert_tokens_to_string(self, names):
        return "".join(names)


def test_a_tokenizer_gives_them_to_every_token(model):
    found = dsf.inspect(model, input_ids=IDS, tokens=Tokenizer(), labels=LABELS)
    assert found.decoder_tokens == (tuple(texts_of([2, 11, 12, 13])),)
    assert dsf.inspect(model, input_ids=IDS).decoder_tokens is None


def test_the_report_and_the_picture_show_them(model, tmp_path):
    import json

    from dsf.report import draw_grid
    from dsf.report.content import content

    found = dsf.inspect(model, input_ids=IDS, tokens=Tokenizer())
    layers = content(found)["layers"]
    assert [layer["row_texts"] for layer in layers] == [True, "decoder", "decoder"]
    assert [layer["key_texts"] for layer in layers] == [True, "decoder", True]
    draw_grid(found, tmp_path / "maps.svg")
    drawn = (tmp_path / "maps.svg").read_text()
    assert json.dumps(drawn).count("text 2") > 0
