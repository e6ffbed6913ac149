"""A module is read whatever holds the tensors that it returns or is given."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers.utils import ModelOutput

import dsf
from dsf.inspection import rebuild
from dsf.inspection.capture.calls import Call, exchanged
from dsf.inspection.capture.containers import tensors_in
from dsf.inspection.capture.module_stack import ModuleStack
from dsf.inspection.errors import InspectionError, ReconstructionError
from dsf.inspection.probing.port_choice import PortSearch
from dsf.inspection.probing.probe import Prober
from tests.any_code.structures import MODEL, drawn, tokens

Named = namedtuple("Named", ["mixed", "further"])


@dataclass
class OfLibrary(ModelOutput):
    mixed: Any = None
    further: Any = None


@dataclass
class Plain:
    mixed: Any
    further: Any


class Pair(list):
    pass


FORMS = {
    "output of a library": lambda a, b: OfLibrary(mixed=a, further=b),
    "dataclass": Plain,
    "named tuple": Named,
    "dict": lambda a, b: {"mixed": a, "further": b},
    "ordered dict": lambda a, b: OrderedDict(mixed=a, further=b),
    "object": lambda a, b: SimpleNamespace(mixed=a, further=b),
    "list of its own": lambda a, b: Pair((a, b)),
    "nothing first": lambda a, b: (None, a, b),
}


def first(part):
    """The first tensor in any of these."""
    if not isinstance(part, tuple | list | dict):
        part = vars(part)
    values = part.values() if isinstance(part, dict) else part
    return next(one for one in values if one is not None)


class Running(nn.Module):
    """Gated running sums, which no adapter knows, in any form."""

    def __init__(self, form, given):
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(MODEL, MODEL) for _ in range(3))
        self.form, self.given = form, given

    def forward(self, given):
        x = first(given) if self.given else given
        mixed = self.q(x).tanh() * (self.k(x).sigmoid() * self.v(x)).cumsum(1)
        return mixed if self.form is None else self.form(mixed, x.mean())


class Model(nn.Module):
    def __init__(self, form=None, given=None):
        super().__init__()
        self.mixer, self.out = Running(form, given), nn.Linear(MODEL, MODEL)
        self.given = given

    def forward(self, x):
        mixed = self.mixer(x if self.given is None else self.given(x, None))
        return self.out(mixed if isinstance(mixed, torch.Tensor) else first(mixed))


@pytest.fixture(scope="module")
def expected():
    (layer,) = dsf.inspect(drawn(Model()), tokens())
    return layer.map()


@pytest.mark.parametrize("form", FORMS)
def test_a_module_inside(form, expected):
    inspection = dsf.inspect(drawn(Model(form=FORMS[form], given=FORMS[form])), tokens())
    assert not inspection.unsupported
    (layer,) = inspection
    assert layer.is_exact
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", ["output of a library", "dataclass", "dict", "nothing first"])
def test_the_module_itself(form, expected):
    layer = dsf.probe(drawn(Model(form=FORMS[form])).mixer, tokens())
    torch.testing.assert_close(layer.map(), expected, rtol=0, atol=1e-12)


class First(nn.Module):
    def forward(self, output):
        return output[0]


CALL = Call("mixer", nn.Identity(), {}, None)


@pytest.mark.parametrize("form", FORMS)
def test_an_edited_output(form):
    output = FORMS[form](torch.ones(3), torch.ones(2))
    edited = exchanged(CALL, output, lambda _: torch.zeros(3))
    assert type(edited) is type(output)
    assert [part.tolist() for part in tensors_in(edited)] == [[0, 0, 0], [1, 1]]
    assert first(output).tolist() == [1, 1, 1]


def test_an_output_without_a_copy_is_not_left_as_it_is():
    class Locked:
        def __init__(self):
            self.mixed, self.lock = torch.ones(3), Lock()

    with pytest.raises(InspectionError, match="mixer"):
        exchanged(CALL, Locked(), lambda _: torch.zeros(3))


def planted(*_, **__):
    """A mistake in the code of the inspection."""
    space = {}
    place = str(Path(rebuild.__file__).with_name("planted.py"))
    exec(compile("def read():\n    return None.shape", place, "exec"), space)
    space["read"]()


@pytest.mark.parametrize("name", ["read", "finish"])
def test_a_mistake_of_ours_is_called_one_and_loses_no_other_layer(name, monkeypatch):
    monkeypatch.setattr(Prober, name, planted)
    model = nn.Sequential(nn.LSTM(MODEL, MODEL, batch_first=True), First(), drawn(Model()))
    inspection = dsf.inspect(model, tokens())
    assert inspection[0].is_exact
    (refused,) = inspection.unsupported
    assert "a mistake of dsf itself, please report it: AttributeError" in refused.reason


def test_a_mistake_where_ports_are_chosen_is_loud(monkeypatch):
    monkeypatch.setattr(PortSearch, "_places", planted)
    with pytest.raises(InspectionError, match="mixer"):
        dsf.inspect(drawn(Model()), tokens())


def test_a_mistake_while_a_run_is_followed(monkeypatch):
    monkeypatch.setattr(ModuleStack, "_note_arguments", planted)
    with pytest.raises(InspectionError, match="a mistake of dsf itself, please report it"):
        dsf.inspect(drawn(Model()), tokens())


def test_what_a_family_misses_is_said_without_the_error():
    with pytest.raises(ReconstructionError) as told, rebuild._explained(CALL, "llama"):
        planted()
    assert "NoneType" not in str(told.value)


class Separable(nn.Module):
    """Separable self-attention (arXiv:2206.02680): one weighted sum for all tokens."""

    def __init__(self, *, spread):
        super().__init__()
        self.score, self.key = nn.Linear(MODEL, 1), nn.Linear(MODEL, MODEL)
        self.value, self.spread = nn.Linear(MODEL, MODEL), spread

    def forward(self, x):
        context = (self.key(x) * self.score(x).softmax(1)).sum(1, keepdim=True)
        value = self.value(x).relu()
        return value * (context.expand_as(value) if self.spread else context)


def test_what_is_sent_to_all_tokens():
    maps = [dsf.probe(drawn(Separable(spread=spread)), tokens()).map() for spread in (True, False)]
    torch.testing.assert_close(*maps)


class OneByOne(nn.Module):
    """Every token by itself, as an output of its own, beside what is summed up before it."""

    def __init__(self, put_out, *, mixes):
        super().__init__()
        self.inner, self.put_out, self.mixes = nn.Linear(MODEL, MODEL), put_out, mixes

    def forward(self, x):
        found, total = [], 0.0
        for token in self.inner(x).unbind(1):
            total = total + token.tanh() if self.mixes else token.tanh()
            found.append(total)
        return self.put_out(found)


LISTS = {"list": list, "tuple": tuple, "mapping": lambda found: dict(enumerate(found))}


@pytest.mark.parametrize("form", LISTS)
def test_a_sum_in_a_list_of_tokens_is_listed(form):
    x = tokens()
    with pytest.raises(InspectionError, match=r"OneByOne .*it mixes tokens"):
        dsf.inspect(drawn(OneByOne(LISTS[form], mixes=True)), x, probe=())
    with pytest.raises(InspectionError, match="No module of it mixes tokens"):
        dsf.inspect(drawn(OneByOne(LISTS[form], mixes=False)), x, probe=())


@pytest.mark.parametrize("form", LISTS)
def test_a_sum_in_a_list_of_tokens_behind_a_mixer_is_listed_as_its_own(form):
    inner = OneByOne(LISTS[form], mixes=True)
    model = drawn(nn.Sequential(Running(None, None), inner))
    names = {one.name for one in dsf.inspect(model, tokens(), probe=("0",)).unsupported}
    assert "1" in names
