"""What linear maps put out shows that their weights are finite; all others are looked at."""

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.inspection import NonFiniteWeightsError
from dsf.inspection.capture import isolation as finite_outputs
from dsf.inspection.capture.isolation import FiniteWeights
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def _all_are_large(monkeypatch):
    monkeypatch.setattr(finite_outputs, "LARGE", 0)


def seen(model, *given):
    finite = FiniteWeights(model)
    with finite.watched(), torch.no_grad():
        model(*given)
    return {name for name, part in model.named_parameters() if part in finite}


@pytest.mark.usefixtures("our_own_errors")  # checks of shapes would take most of the time
@pytest.mark.parametrize(
    ("name", "wrong"), [("mamba", torch.inf), ("qwen3_next", torch.nan), ("rwkv", -torch.inf)]
)
def test_a_wrong_number_in_any_weight_is_refused(name, wrong):
    model, given = tiny_models.build(name), tiny_models.inputs(9)
    rng = torch.Generator().manual_seed(0)
    for path, part in model.named_parameters():
        flat = part.data.view(-1)
        place = int(torch.randint(len(flat), (), generator=rng))
        before = flat[place].clone()
        flat[place] = wrong
        with pytest.raises(NonFiniteWeightsError, match=f"NaN or infinite: .*{path}"):
            dsf.intervene(model, edits=edits.Ablate(0), **given)
        flat[place] = before
    dsf.intervene(model, edits=edits.Ablate(0), **given)


class Maps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.unused = nn.Linear(4, 4)

    def forward(self, x):
        return self.second(self.first(x).exp())


@pytest.fixture
def maps():
    torch.manual_seed(0)
    return Maps()


X = torch.arange(1.0, 9.0).reshape(1, 2, 4)


def test_weights_are_seen_where_they_were_used_as_they_are(maps):
    assert seen(maps, X) == {"first.weight", "first.bias", "second.weight"}
    assert seen(maps, X[0, 0]) == {"first.weight", "first.bias", "second.weight"}
    assert seen(maps, X[:, :0]) == set()


def test_a_weight_that_is_not_finite_is_not_seen(maps):
    maps.first.bias.data[2] = torch.nan
    assert seen(maps, X) == set()
    maps.first.bias.data[2] = 0
    maps.second.weight.data[3, 1] = -torch.inf
    assert seen(maps, X) == {"first.weight", "first.bias"}


def test_a_factor_that_is_zero_shows_nothing(maps):
    assert seen(maps, X - 1) == {"second.weight"}


def test_maps_whose_output_somebody_may_change_are_not_looked_at(maps):
    maps.first.register_forward_hook(lambda _, __, output: output.nan_to_num())
    assert seen(maps, X) == {"second.weight"}
    maps.second.forward = lambda x: x
    assert seen(maps, X) == set()


def test_nothing_is_seen_under_a_hook_of_all_modules(maps):
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert seen(maps, X) == set()
    finally:
        handle.remove()


def test_nothing_is_seen_under_a_mode_of_torch(maps):
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, _, args=(), kwargs=None):
            return function(*args, **(kwargs or {}))

    with Mode():
        assert seen(maps, X) == set()


def test_a_weight_that_is_written_into_or_exchanged_later_is_not_known(maps):
    finite = FiniteWeights(maps)
    with torch.no_grad(), finite.watched():
        maps(X)
        maps.first.weight[0, 0] = torch.nan
    assert maps.first.weight not in finite
    assert maps.first.bias in finite
    assert maps.second.weight in finite
    maps.second.weight.data = maps.second.weight.data.clone()
    assert maps.second.weight not in finite
    maps.first.bias = nn.Parameter(torch.zeros(4))
    assert maps.first.bias not in finite


def test_small_weights_are_left_to_those_who_look_at_them(maps, monkeypatch):
    monkeypatch.setattr(finite_outputs, "LARGE", 17)
    assert seen(maps, X) == set()
    monkeypatch.setattr(finite_outputs, "LARGE", 16)
    assert seen(maps, X) == {"first.weight", "first.bias", "second.weight"}


def test_a_parametrised_map_is_not_looked_at(maps):
    nn.utils.parametrizations.weight_norm(maps.first)
    assert seen(maps, X) == {"second.weight"}


def test_weights_are_why_a_model_could_not_be_run():
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.first = nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            assert x.isfinite().all()
            return self.attention(x, x, x)[0]

    model = Strict()
    dsf.intervene(model, X, edits=edits.Ablate(0))
    model.first.weight.data[0, 0] = torch.nan
    with pytest.raises(NonFiniteWeightsError, match=r"first\.weight"):
        dsf.intervene(model, X, edits=edits.Ablate(0))


def test_what_a_run_leaves_in_a_buffer_is_no_weight():
    class Filling(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)
            self.register_buffer("room", torch.zeros(2, 2))

        def forward(self, x):
            self.room = self.room - torch.inf
            return self.attention(x, x, x)[0]

    model = Filling()
    result = dsf.intervene(model, X, edits=edits.Ablate(0))
    assert not torch.equal(result.output, result.clean)
    model.room[0] = torch.nan
    with pytest.raises(NonFiniteWeightsError, match="room"):
        dsf.intervene(model, X, edits=edits.Ablate(0))
