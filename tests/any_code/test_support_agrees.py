"""What ``support`` says before a run holds in the run, for every family and random modules."""

import random

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import NothingCapturedError, support
from tests.any_code import modules, structures
from tests.any_code.modules import KEEP_APART, MIXERS, WIDTH, drawn, merged, tokens
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models


class TalkingHeads(modules.Attention):
    """No telling name, and attention in the code of its own forward (CaiT)."""

    def forward(self, x):
        q, k, v = self.parts(x)
        return self.o(merged((q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1) @ v))


class FusedHeads(modules.Attention):
    def forward(self, x):
        return self.o(merged(nn.functional.scaled_dot_product_attention(*self.parts(x))))


class Router(nn.Module):
    """A softmax with no product behind it is no attention."""

    def __init__(self):
        super().__init__()
        self.score = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        return x * self.score(x).softmax(dim=-1)


class Remembers(nn.Module):
    """A recurrence, to be compiled as a script."""

    def __init__(self):
        super().__init__()
        self.memory = nn.LSTM(WIDTH, WIDTH, batch_first=True)

    def forward(self, x):
        return self.memory(x)[0]


class First(nn.Module):
    """Passes on the first of the things that a module puts out."""

    def __init__(self, inner, *, given=1):
        super().__init__()
        self.inner, self.given = inner, given

    def forward(self, x):
        return self.inner(*[x] * self.given)[0]


class Stack(nn.Module):
    def __init__(self, parts, *, width=WIDTH):
        super().__init__()
        self.parts, self.norm = nn.ModuleList(parts), nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x):
        for part in self.parts:
            x = x + part(self.norm(x))
        return x


READ = {
    "LSTM": lambda: First(nn.LSTM(WIDTH, WIDTH, batch_first=True)),
    "GRU": lambda: First(nn.GRU(WIDTH, WIDTH, batch_first=True)),
    "attention of torch": lambda: First(nn.MultiheadAttention(WIDTH, 4, batch_first=True), given=3),
    "interface": modules.ByInterface,
    "own softmax": lambda: modules.Attention(is_fused=False),
    "fused": modules.Attention,
    "talking heads": TalkingHeads,
    "fused heads": FusedHeads,
}
OTHERS = {
    "script": lambda: torch.jit.script(Remembers()),
    "channels": modules.ChannelAttention,
    "channels by the interface": modules.ChannelsByInterface,
    "convolution beside": modules.WithConvolution,
    "slots": modules.Slots,
    "router": Router,
    **MIXERS,
    **KEEP_APART,
}
MAKERS = READ | OTHERS


def compared(model, *given, **named):
    """What was said of every mixer, after it was held against the run: name by answer."""
    layers = {}
    try:
        inspection = dsf.inspect(model, *given, probe=(), **named)
    except NothingCapturedError as error:
        listed = str(error)
    else:
        listed = {one.name for one in inspection.unsupported}
        for layer in inspection:
            name = layer.name.partition(" (call")[0].partition("[")[0]
            layers.setdefault(name, []).append(layer)
    told = support(model)
    for one in told:
        if one.exact == "yes":
            kinds = {type(layer.mixer).__name__ for layer in layers[one.name]}
            assert kinds <= set(one.mixer.split(" or ")), one
            assert all(layer.is_exact for layer in layers[one.name]), one
            assert one.name not in listed
        elif one.exact == "no":
            assert one.name not in layers
            assert one.name in listed
        else:
            assert one.exact == "maybe"
    return told, layers


def related(name, other):
    return f"{name}.".startswith(f"{other}.") or f"{other}.".startswith(f"{name}.")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("family", tiny_models.FAMILIES)
def test_every_recurrent_family(family):
    tiny_models.skip_a_known_defect(family)
    told, layers = compared(tiny_models.build(family), **tiny_models.inputs(4))
    assert {one.name for one in told} == set(layers)
    assert {one.exact for one in told} == {"yes"}


@pytest.mark.sampled(count=6)
@pytest.mark.parametrize("name", softmax_models.BUILT)
def test_every_softmax_model(name):
    told, layers = compared(softmax_models.build(name), **softmax_models.inputs(name))
    assert {one.name for one in told} == set(layers)
    assert {one.exact for one in told} == {"yes"}


@pytest.mark.parametrize("name", structures.READ | structures.DECOYS)
def test_what_its_parameters_tell_is_left_to_the_run(name):
    kind, _ = (structures.READ | structures.DECOYS)[name]
    told, _ = compared(
        Stack([structures.drawn(kind())], width=structures.MODEL), structures.tokens()
    )
    assert [(one.name, one.exact) for one in told] == [("parts.0", "maybe")]


@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("interface", ["yes"]),
        ("channels by the interface", ["maybe"]),
        ("channels", ["maybe"]),
        ("talking heads", ["maybe"]),
        ("fused heads", ["maybe"]),
        ("script", ["no"]),
        ("router", []),
    ],
)
def test_one_mixer_alone(name, answer):
    told, _ = compared(drawn(Stack([MAKERS[name]()])), tokens())
    assert [one.exact for one in told] == answer


@pytest.mark.sampled(count=4)
@pytest.mark.parametrize("seed", range(12))
def test_a_random_model(seed):
    """What is said holds in the run, and what is made to be read is said and read."""
    rng = random.Random(seed)
    names = [rng.choice(list(READ)), *rng.choices(list(MAKERS), k=rng.randint(1, 3))]
    rng.shuffle(names)
    print(f"seed {seed}: {names}")
    told, layers = compared(drawn(Stack([MAKERS[name]() for name in names])), tokens())
    for place, name in enumerate(names):
        if name in READ:
            assert any(related(one.name, f"parts.{place}") for one in told), name
            assert any(related(one, f"parts.{place}") for one in layers), name


def test_a_lazy_module_that_has_not_run_has_no_shapes_yet():
    model = nn.Sequential(nn.LazyLinear(WIDTH), nn.MultiheadAttention(WIDTH, 2, batch_first=True))
    (said,) = dsf.inspection.support(model)
    assert (said.name, said.exact) == ("1", "yes")
