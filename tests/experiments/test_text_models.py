"""How the text models are made, in small: the text, the tables, the loop, the stored files."""

import json
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch

pytest.importorskip("transformers", reason='needs pip install "dsf-toolkit[hf]"')

import transformers

from dsf.models import text as told
from experiments.page import BEGIN, END
from experiments.text_models import page, sampling, scan, tables, text, tokens, train
from experiments.text_models.fit import Schedule, fit

LETTERS = "to be or not to be that is the question, whether 'tis nobler in the mind – to suffer\n"
TINY = Schedule(steps=6, context=8, batch=2, warm_up=2, report_every=2)


def tiny(kind):
    torch.manual_seed(0)
    shared = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 1, "use_cache": False}
    if kind == "llama":
        configuration = transformers.LlamaConfig(
            **shared, num_attention_heads=2, intermediate_size=16, tie_word_embeddings=True
        )
    else:
        configuration = transformers.MambaConfig(**shared, state_size=3)
    return transformers.AutoModelForCausalLM.from_config(configuration)


def numbers(count):
    return torch.randint(0, 64, (count,), generator=torch.Generator().manual_seed(1))


def trained(kind, checkpoint, *, stopped_after=None):
    model = tiny(kind)
    for progress in fit(model, numbers(100), TINY, checkpoint):
        if progress.steps == stopped_after:
            break
    return model, progress


@pytest.mark.parametrize("kind", ["llama", "mamba"])
def test_an_interrupted_run_ends_with_the_same_bits(kind, tmp_path):
    whole, at_once = trained(kind, tmp_path / "whole.pt")
    trained(kind, tmp_path / "parts.pt", stopped_after=2)
    parts, resumed = trained(kind, tmp_path / "parts.pt")
    assert (resumed.steps, resumed.tokens) == (at_once.steps, at_once.tokens) == (6, 96)
    assert resumed.loss == at_once.loss
    for name, weight in whole.state_dict().items():
        assert torch.equal(weight, parts.state_dict()[name]), name
    assert not torch.equal(
        whole.get_input_embeddings().weight, tiny(kind).get_input_embeddings().weight
    )


def test_a_finished_run_is_left_alone(tmp_path):
    first, _ = trained("llama", tmp_path / "one.pt")
    again, progress = trained("llama", tmp_path / "one.pt")
    assert progress.steps == 6
    assert torch.equal(first.lm_head.weight, again.lm_head.weight)


def test_training_learns(tmp_path):
    repeated = torch.arange(16).repeat(260)
    schedule = Schedule(rate=0.01, steps=60, context=16, batch=4, warm_up=5, report_every=20)
    seen = [each.loss for each in fit(tiny("llama"), repeated, schedule, tmp_path / "some.pt")]
    assert seen[-1] < 0.2 * seen[0]


def test_no_window_is_seen_twice():
    order = TINY.order(100)
    assert order.shape == (6, 2)
    assert len(set(order.flatten().tolist())) == 12
    assert all(at % 8 == 0 and at + 9 <= 100 for at in order.flatten().tolist())
    with pytest.raises(ValueError, match="97 tokens"):
        TINY.order(96)


def test_the_rate_rises_stays_and_falls_to_nothing():
    schedule = Schedule(steps=1000, warm_up=100)
    shares = [schedule.factor(step) for step in (0, 49, 99, 500, 800, 900, 1000)]
    assert shares == pytest.approx([0.01, 0.5, 1, 1, 1, 0.5, 0])


def test_before_its_end_a_run_does_not_depend_on_its_length():
    short, long = Schedule(steps=500), Schedule(steps=1500)
    assert [short.factor(step) for step in range(400)] == [long.factor(step) for step in range(400)]
    assert torch.equal(short.order(2**21)[:500], long.order(2**21)[:500])


def plainly(value, step, pole, write, read, *, D, z, delta_bias):
    """The scan, number by number."""
    samples, channels, steps = value.shape
    out = torch.zeros_like(value)
    step = torch.log1p((step + delta_bias[:, None]).exp())
    for b in range(samples):
        for c in range(channels):
            state = [value.new_zeros(()) for _ in pole[c]]
            for t in range(steps):
                total = D[c] * value[b, c, t]
                for n in range(len(state)):
                    state[n] = (step[b, c, t] * pole[c, n]).exp() * state[n]
                    state[n] = state[n] + step[b, c, t] * write[b, n, t] * value[b, c, t]
                    total = total + state[n] * read[b, n, t]
                out[b, c, t] = total * z[b, c, t] / (1 + (-z[b, c, t]).exp())
    return out


def test_the_compiled_scan_and_its_gradient_are_those_of_the_recurrence():
    rng = torch.Generator().manual_seed(3)

    def drawn(*shape):
        return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()

    pole = (-torch.rand(3, 2, generator=rng, dtype=torch.float64)).requires_grad_()
    parts = [drawn(2, 3, 5), drawn(2, 3, 5), pole, drawn(2, 2, 5), drawn(2, 2, 5)]
    named = {"D": drawn(3), "z": drawn(2, 3, 5), "delta_bias": drawn(3)}
    ours, theirs = scan.selective_scan(*parts, **named), plainly(*parts, **named)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    weights = drawn(2, 3, 5).detach()
    inputs = [*parts, *named.values()]
    ours = torch.autograd.grad((ours * weights).sum(), inputs)
    theirs = torch.autograd.grad((theirs * weights).sum(), inputs)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)


def test_a_loss_in_training_is_that_of_the_unmodified_model():
    model = tiny("mamba")
    with torch.no_grad():
        plain = model(numbers(20)[None]).logits
        with scan.sooner():
            sooner = model(numbers(20)[None]).logits
    assert not torch.equal(sooner, torch.zeros_like(sooner))
    torch.testing.assert_close(sooner, plain, rtol=1e-5, atol=1e-6)


def test_tables_count_bytes():
    train_, held = b"abab\nabc", b"abd"
    single = Counter(train_)
    share = {byte: (single[byte] + 1) / (len(train_) + 256) for byte in range(256)}
    expected = -sum(math.log2(share[byte]) for byte in held) / 3
    assert tables.unigram_bits(tables.unigram(train_), held) == pytest.approx(expected)
    pairs = Counter(pairwise(train_))
    before = Counter(train_[:-1])
    bits = -sum(
        math.log2((pairs[one, two] + 1) / (before[one] + 256))
        for one, two in pairwise(b"\n" + held)
    )
    assert tables.bigram_bits(tables.bigram(train_), held) == pytest.approx(bits / 3)


def test_a_play_loses_its_marks_and_nothing_else():
    markdown = (
        "# Hamlet\n\n## ACT I\n\n_Enter HAMLET_\n\n**HAMLET**  \nTo be\\[?\\]  \n\n\n\n&c.\n\n"
    )
    assert text.plain(markdown) == "Hamlet\n\nACT I\n\nEnter HAMLET\n\nHAMLET\nTo be[?]\n\n&c.\n"


def test_whole_plays_are_held_out():
    joined = "\f".join(["hamlet\nA\n", "macbeth\nB\n", "othello\nC\n", "twelfth-night\nD\n"])
    assert text.split(joined) == ("A\n\nC\n", "B\n\nD\n")


def test_another_text_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "CACHE", tmp_path / "shakespeare.txt")
    text.CACHE.write_text("hamlet\nTo be\n", encoding="utf-8")
    with pytest.raises(ValueError, match="SHA-256"):
        text.read()


def test_what_is_stored_is_what_is_loaded(tmp_path):
    tokenizer = tokens.train(LETTERS * 3)
    model = tiny("llama")
    model.resize_token_embeddings(tokenizer.get_vocab_size())
    weights = {name: weight.clone() for name, weight in model.state_dict().items()}
    train.store(model, tokenizer, tmp_path / "model")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for name, weight in loaded.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, weights[name].half().float())
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert read(LETTERS)["input_ids"] == tokenizer.encode(LETTERS).ids
    assert read.decode(read(LETTERS)["input_ids"]) == LETTERS
    untrained = len(tokenizer.encode(LETTERS).ids) * math.log2(tokenizer.get_vocab_size())
    found = told.bits_per_byte(loaded, read, LETTERS)
    assert found == pytest.approx(untrained / len(LETTERS.encode()), rel=0.02)


def test_a_seed_writes_the_same_text():
    model = tiny("llama").eval()
    prompt = torch.tensor([5, 6])
    first, second, other = (
        sampling.go_on(model, prompt, seed=seed, tokens=9) for seed in (0, 0, 1)
    )
    assert first.tolist() == second.tolist() != other.tolist()
    assert first[:2].tolist() == [5, 6]
    assert len(first) == 11


def test_the_page_is_that_of_the_results():
    results = json.loads(train.RESULTS.read_text(encoding="utf-8"))
    written = train.RESULTS.with_name("README.md").read_text(encoding="utf-8")
    assert page.text_of(results) == written.partition(BEGIN)[2].partition(END)[0].strip("\n")
    assert json.loads(train.RECORD.read_text(encoding="utf-8")) == train.record(results)


def test_every_model_is_half_a_bit_below_the_table_of_pairs():
    results = json.loads(train.RESULTS.read_text(encoding="utf-8"))
    pairs = results["text"]["bigram_bits_per_byte"]
    assert len(results["models"]) == 4
    assert all(model["bits_per_byte"] < pairs - 0.5 for model in results["models"].values())
    assert len({model["tokens"] for model in results["models"].values()}) == 1
