"""A model is left as it was found, also when the run fails."""

import copy
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch
import torch._dynamo
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForCausalLM
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

import dsf
from dsf.inspection import InspectionError, stored_layer
from dsf.inspection.capture.isolation import isolated, same_numbers
from dsf.models import folder
from tests.inspection.families import tiny_models
from tests.inspection.softmax_models import TOKENS, VOCABULARY, build, inputs

pytestmark = pytest.mark.matrix


def state(model):
    """Everything about a model that a run could change, as plain values."""
    return {
        "weights": {name: part.clone() for name, part in model.state_dict().items()},
        "modes": {name: part.training for name, part in model.named_modules()},
        "hooks": {
            name: (len(part._forward_hooks), len(part._forward_pre_hooks))
            for name, part in model.named_modules()
        },
        "attributes": {name: sorted(vars(part)) for name, part in model.named_modules()},
        "gradients": {
            name: (part.requires_grad, None if part.grad is None else part.grad.clone())
            for name, part in model.named_parameters()
        },
        "attention": [
            part.config._attn_implementation
            for part in model.modules()
            if hasattr(part, "config") and hasattr(part.config, "_attn_implementation")
        ],
    }


def surroundings():
    """What a run could change outside the model."""
    return {
        "grad": torch.is_grad_enabled(),
        "random": torch.get_rng_state(),
        "random numbers of NumPy": [np.random.get_state()[1].tolist(), np.random.get_state()[2:]],
        "default type": torch.get_default_dtype(),
        "attention functions": set(AttentionInterface._global_mapping),
        "attention interface": AttentionInterface.get_interface,
        "mask functions": set(AttentionMaskInterface._global_mapping),
        "known masks": len(ALL_MASK_ATTENTION_FUNCTIONS),
    }


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            assert_same(one[name], other[name])
    elif isinstance(one, tuple | list):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


def trained(model):
    """In training mode, dropout and all, with gradients from a step before."""
    model.train()
    for part in model.parameters():
        part.grad = torch.ones_like(part)
    return model


class Scribbler(nn.Module):
    """Writes into everything it owns while it runs."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("count", torch.zeros(2))
        self.register_buffer("longest", torch.zeros(3))
        self.scale = nn.Parameter(torch.ones(8))
        self.fail = False

    def forward(self, x):
        self.count += 1
        self.longest = torch.ones(5)
        self.cache = x
        with torch.no_grad():
            self.scale.div_(2)
            self.attention.out_proj.weight[0] = 0
        torch.rand(1)
        if self.fail:
            raise RuntimeError("no more ink")
        return self.attention(x, x, x)[0] * self.scale


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("name", ["llama", "gemma2", "t5", "gpt_oss"])
def test_library_models(name, exact):
    model, given = trained(build(name)), inputs(name)
    before, around = state(model), surroundings()
    dsf.inspect(model, exact=exact, **given)
    assert_same(before, state(model))
    assert_same(around, surroundings())


@pytest.mark.parametrize("name", ["llama", "gemma2", "t5"])
def test_library_models_when_the_run_fails(name):
    model, given = trained(build(name)), inputs(name)
    given["input_ids"] = torch.full((2, TOKENS), VOCABULARY + 5)
    before, around = state(model), surroundings()
    with pytest.raises(InspectionError, match="could not be run"):
        dsf.inspect(model, **given)
    assert_same(before, state(model))
    assert_same(around, surroundings())


@pytest.mark.parametrize("name", ["rwkv", "recurrent_gemma", "zamba", "qwen3_5_moe"])
def test_models_that_write_into_themselves(name):
    """rwkv divides weights by powers of two at its first run, recurrent_gemma keeps its states."""
    model, ids = trained(tiny_models.build(name)), torch.arange(1, 12)[None]
    before, around = state(model), surroundings()
    dsf.inspect(model, input_ids=ids)
    assert_same(before, state(model))
    assert_same(around, surroundings())


@pytest.mark.parametrize("fail", [False, True])
def test_what_a_forward_pass_writes_is_undone(fail):
    model = trained(Scribbler())
    model.fail = fail
    before, around = state(model), surroundings()
    if fail:
        with pytest.raises(InspectionError, match="no more ink"):
            dsf.inspect(model, torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)))
    else:
        x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
        layer = dsf.inspect(model, x)[0]
        assert layer.error < 1e-6
    assert_same(before, state(model))
    assert_same(around, surroundings())
    assert not hasattr(model, "cache")
    assert model.longest.shape == (3,)


class Slots:
    __slots__ = ("count", "mean")

    def __init__(self):
        self.count, self.mean = 0, torch.zeros(8)


class Forgetful(nn.Module):
    """Keeps what it counts where a module has no parameters: of each kind once."""

    total = torch.zeros(8)
    history = []  # noqa: RUF012  # of the class, on purpose
    runs = 0

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.counts, self.rng = np.zeros(3), np.random.default_rng(0)
        self.legacy, self.python = np.random.RandomState(0), random.Random(0)
        self.generator = torch.Generator().manual_seed(0)
        self.slots = Slots()

    def forward(self, x):
        self.counts[1] += 1
        drawn = self.rng.normal() + self.legacy.rand() + self.python.random()
        drawn += float(torch.rand((), generator=self.generator)) + random.random()
        drawn += np.random.rand()
        self.slots.count += 1
        self.slots.mean = self.slots.mean + x[0, 0]
        Forgetful.total += x[0, 0]
        Forgetful.history.append(x)
        Forgetful.runs += 1
        Forgetful.last = x
        self.attention.out_proj.weight.data = self.attention.out_proj.weight.data * 2
        return self.attention(x, x, x)[0] + 0 * drawn

    def kept(self):
        return {
            "numbers": [self.counts.tolist(), self.slots.count, len(self.history), self.runs],
            "tensors": [self.slots.mean, self.total.clone(), self.generator.get_state()],
            "random": [str(self.rng.bit_generator.state), self.python.getstate()],
            "legacy": self.legacy.get_state()[2],
            "weights": {name: part.clone() for name, part in self.state_dict().items()},
            "memory": [part.data_ptr() for part in self.parameters()],
            "class": sorted(vars(Forgetful)),
        }


def test_what_is_kept_in_arrays_generators_slots_and_classes_is_as_it_was():
    model = Forgetful().eval()
    before, around = model.kept(), surroundings()
    dsf.inspect(model, torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)))
    assert_same(before, model.kept())
    assert_same(around, surroundings())


class Helper:
    """No module, with a class that counts, too."""

    runs = 0

    def __init__(self):
        self.last = None

    def count(self, x):
        Helper.runs += 1
        self.last = x


def _counting():
    runs = 0

    def count():
        nonlocal runs
        runs += 1
        return runs

    return count


class Hider(nn.Module):
    """Writes where neither its attributes nor names of torch functions show it."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("variance", torch.ones(8))
        self.register_buffer("array", torch.zeros(8))
        self.register_buffer("bytes", torch.zeros(8))
        hidden = nn.Linear(8, 8)
        hidden.register_buffer("seen", torch.zeros(8))
        self.hidden, self.count, helper = [hidden], _counting(), Helper()
        self.helper, self.method = helper, partial(helper.count)
        self.opened, self.exchanged = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        flat = x.flatten(0, 1)
        nn.functional.batch_norm(flat, self.mean, self.variance, training=True)
        nn.functional.instance_norm(x.mT, self.mean, self.variance)
        self.array.numpy()[0] += 1
        self.bytes.untyped_storage().fill_(1)
        self.hidden[0].seen += 1
        self.hidden[0].weight.mul_(2)
        self.hidden[0].calls = self.count()
        self.method(x)
        self.exchanged.weight.set_(torch.zeros(8, 8))
        self.opened.weight.calls = 1
        for part in self.opened.parameters():
            part.requires_grad_(False)
        with torch.enable_grad():
            self.attention(x, x, x)[0].sum().backward()
        x.add_(1)
        return self.attention(x, x, x)[0]

    def kept(self):
        (hidden,) = self.hidden
        return {
            "numbers": [Helper.runs, self.helper.last, self.count()],
            "attributes": [sorted(vars(hidden)), sorted(vars(self.opened.weight))],
            "tensors": [self.mean.clone(), self.variance.clone(), hidden.seen.clone()],
            "memory": [self.array.clone(), self.bytes.clone(), hidden.weight.detach().clone()],
            "exchanged": self.exchanged.weight.data_ptr(),
        }


def test_what_is_kept_in_functions_and_hidden_modules_is_as_it_was():
    model = trained(Hider())
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    given, gradients = x.clone(), [part.grad for part in model.parameters()]
    kept, before, around = model.kept(), state(model), surroundings()
    dsf.inspect(model, x)
    kept["numbers"][-1] += 1  # by looking
    assert_same(kept, model.kept())
    assert_same(before, state(model))
    assert_same(around, surroundings())
    assert torch.equal(x, given)
    assert all(part.grad is own for part, own in zip(model.parameters(), gradients, strict=True))


class Flat(nn.Module):
    """Writes into memory that its weights are parts of."""

    def __init__(self):
        super().__init__()
        self.attention, self.flat = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(256)
        self.attention.in_proj_weight.data = self.flat[:192].view(24, 8)
        self.attention.out_proj.weight.data = self.flat[192:].view(8, 8)

    def forward(self, x):
        self.flat.mul_(1.1)
        return self.attention(x, x, x)[0]


def test_weights_that_are_parts_of_one_memory_are_as_they_were():
    model = trained(Flat())
    before, flat = state(model), model.flat.clone()
    dsf.inspect(model, torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0)))
    assert_same(before, state(model))
    assert torch.equal(model.flat, flat)


class Merged(nn.Linear):
    """Adds an adapter to its weight in evaluation mode."""

    def __init__(self):
        super().__init__(8, 8)
        self.low, self.is_merged, self.runs = nn.Parameter(torch.randn(8, 2)), False, []

    def train(self, mode=True):  # as torch has it
        super().train(mode)
        if self.is_merged is mode:
            self.weight.data += (-1 if mode else 1) * self.low @ self.low.T
            self.is_merged = not mode
        return self

    def forward(self, x):
        self.runs.append(1)
        own = super().forward(x)
        return own if self.is_merged else own + x @ self.low @ self.low.T


@pytest.mark.parametrize("mode", [True, False])
def test_adapters_that_are_merged_meanwhile_are_apart_afterwards(mode):
    model = nn.Sequential(Merged(), nn.GRU(8, 8, batch_first=True)).train(mode)
    before = state(model)
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    assert dsf.inspect(model, x)[0].is_exact
    assert_same(before, state(model))
    assert (model[0].is_merged, model[0].runs) == (not mode, [])


def test_models_are_compiled_again_after_two_threads_that_overlap():
    first, second = threading.Event(), threading.Event()

    def begin():
        with isolated(nn.Linear(1, 1)):
            first.set()
            second.wait()

    thread = threading.Thread(target=begin)
    before = torch._dynamo.eval_frame._stance
    thread.start()
    first.wait()
    with isolated(nn.Linear(1, 1)):
        second.set()
        thread.join()
        assert torch._dynamo.eval_frame._stance.stance == "force_eager"
    assert torch._dynamo.eval_frame._stance == before


def test_weights_of_inference_mode_are_as_they_were():
    with torch.inference_mode():
        model = nn.MultiheadAttention(8, 2, batch_first=True)
    before = state(model)
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    assert dsf.inspect(model, x, x, x)[0].is_exact
    assert_same(before, state(model))


def test_one_model_is_inspected_on_several_threads():
    model = trained(Scribbler())
    before = state(model)
    x = torch.randn(1, 4, 8, generator=torch.Generator().manual_seed(0))
    with ThreadPoolExecutor(3) as pool:
        found = [*pool.map(lambda _: dsf.inspect(model, x)[0].map(), range(6))]
    assert all(torch.equal(one, found[0]) for one in found)
    assert_same(before, state(model))


@pytest.mark.parametrize("asked", ["stored layer", "generated tokens", "audit"])
def test_a_model_is_as_it_was_after_whatever_runs_it(asked):
    model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    model.register_buffer("count", torch.zeros(1))
    model.register_forward_pre_hook(lambda module, _: module.count.add_(1) and None)
    model.train().model.layers[0].eval()
    before, around, ids = state(model), surroundings(), torch.arange(6)[None]
    if asked == "stored layer":
        stored_layer(model, "model.layers.0.self_attn", input_ids=ids)
    elif asked == "audit":
        dsf.audit(model, input_ids=ids)
    else:
        dsf.inspect(model, input_ids=ids, generate=2)
    assert_same(before, state(model))
    assert_same(around, surroundings())


def test_random_numbers_of_python_go_on_as_before():
    """Alone: checks of types during the tests draw from the same generator."""
    model, before = nn.Linear(2, 2), random.getstate()
    with isolated(model):
        random.random()
        with same_numbers(model) as has_drawn:
            assert not has_drawn()
            first = np.random.rand()
            assert has_drawn()
        assert np.random.rand() == first
    assert random.getstate() == before


@pytest.mark.parametrize("around", [torch.no_grad, torch.enable_grad, torch.inference_mode])
def test_whatever_the_caller_does_about_gradients(around):
    model, given = build("llama"), inputs("llama")
    with around():
        inspection = dsf.inspect(model, **given)
        assert all(layer.error < 1e-6 for layer in inspection)
    assert not inspection[0].map().requires_grad


class Scaled(nn.Module):
    """Two attentions; what they are given or return is written into, where nothing counts that."""

    def __init__(self, write, inside):
        super().__init__()
        self.write = write
        self.blocks = nn.ModuleList(Block(inside) for _ in range(2))

    @torch.inference_mode()
    def forward(self, x):
        first, second = self.blocks
        x = first(x)
        self.write(x)
        return x + second(x)


class Block(nn.Module):
    def __init__(self, write):
        super().__init__()
        self.write = write
        self.query, self.key, self.value, self.out = (nn.Linear(8, 8) for _ in range(4))

    def forward(self, x):
        self.write(x)
        query, key, value = self.query(x), self.key(x), self.value(x)
        return self.out(nn.functional.scaled_dot_product_attention(query, key, value))


WRITES = {
    "all": lambda x: x.mul_(1.5),
    "a view": lambda x: x[:, 2].zero_(),
    "nothing": lambda _: None,
}


@pytest.mark.parametrize("inside", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_layer_has_what_it_was_given_in_inference_mode(write, inside):
    torch.manual_seed(0)
    inspection = dsf.inspect(Scaled(write, inside).eval(), torch.randn(2, 6, 8))
    assert [layer.name for layer in inspection] == ["blocks.0", "blocks.1"]
    assert all(layer.error < 1e-6 for layer in inspection)


class Keeping(nn.Module):
    """Attention on what it writes into a tensor that was made in inference mode."""

    def __init__(self, place):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        with torch.inference_mode():
            kept = torch.zeros(2, 6, 8)
        if place == "buffer":
            self.register_buffer("kept", kept)
        self.parts = [kept]

    @torch.inference_mode()
    def forward(self, x):
        (kept,) = self.parts
        kept.copy_(x)
        return self.attention(kept, kept, kept)[0]


@pytest.mark.parametrize("place", ["buffer", "list"])
def test_tensors_of_inference_mode_are_written_into_there(place):
    torch.manual_seed(0)
    model = Keeping(place).eval()
    (layer,) = dsf.inspect(model, torch.randn(2, 6, 8))
    assert layer.error < 1e-6
    assert not model.parts[0].any()


def test_the_model_trains_on_as_before():
    model, given = build("llama").train(), inputs("llama")
    dsf.inspect(model, **given)
    model(**given, labels=given["input_ids"]).loss.backward()
    assert all(part.grad is not None for part in model.parameters())


def test_outputs_are_the_same_before_and_after():
    model, given = build("gemma2"), inputs("gemma2")
    with torch.no_grad():
        before = model(**given).logits
        dsf.inspect(model, **given)
        assert torch.equal(model(**given).logits, before)


class Pair(nn.Module):
    """Two library models and a recurrent layer of torch's in one module."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = build("bert"), build("gemma2")
        self.memory = nn.LSTM(32, 5, batch_first=True)

    def forward(self, ids):
        encoded = self.encoder(input_ids=ids).last_hidden_state
        self.memory(encoded)
        return self.decoder(input_ids=ids).logits


def test_two_models_in_one_module():
    model = trained(Pair())
    before = state(model)
    inspection = dsf.inspect(model, inputs("llama")["input_ids"])
    assert [layer.family for layer in inspection] == ["bert", "bert", "lstm", "gemma2", "gemma2"]
    assert inspection[0].name == "encoder.encoder.layer.0.attention.self"
    assert inspection.unsupported == ()
    assert_same(before, state(model))


def test_what_a_layer_gives_back_may_be_written_into():
    """A residual added in place must not reach what was captured."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            mixed = self.attention(x, x, x)[0]
            mixed += 5
            x.mul_(3)
            return mixed

    x = torch.randn(1, 4, 8)
    assert dsf.inspect(Residual(), x.clone())[0].error < 1e-6
    assert dsf.inspect(Residual().double(), x.double())[0].error < 1e-14


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method:DeprecationWarning")
def test_compiled_models_run_without_their_compiler():
    recurrent = nn.GRU(3, 4)
    assert dsf.inspect(torch.compile(recurrent), torch.randn(5, 1, 3))[0].error < 1e-6
    inside = nn.Sequential(copy.deepcopy(recurrent))
    inside[0].compile()
    assert dsf.inspect(inside, torch.randn(5, 1, 3))[0].name == "0[layer 0]"
