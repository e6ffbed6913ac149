"""A clean run serves several interventions, and is refused where it is not that of the model."""

import pytest
import torch
from torch import nn

import dsf
from dsf import edits
from dsf.interventions.live_model import RunFacts
from tests.inspection.families import tiny_models

transformers = pytest.importorskip("transformers")


WRITING = {"rwkv"}
"""Families that scale their weights as they run."""


def times_run(model):
    """Counts the runs of a model from now on."""
    runs = []
    model.register_forward_pre_hook(lambda *_: runs.append(1))
    return runs


@pytest.mark.sampled(count=9)
@pytest.mark.usefixtures("our_own_errors")  # checks of shapes would take most of the time
@pytest.mark.parametrize("name", sorted({*tiny_models.FAMILIES} - WRITING))
def test_every_family_gives_the_same_bits_from_a_clean_run_that_was_made_before(name):
    tiny_models.skip_a_known_defect(name)
    model, given = tiny_models.build(name), tiny_models.inputs(9, padding="left")
    runs = times_run(model)
    clean = dsf.intervene(model, **given)
    assert len(runs) == 1
    assert torch.equal(clean.output, clean.clean)
    for case in (edits.Ablate(0), edits.Cut(-1, key=3), edits.Scale(0, 0.5), ()):
        before = len(runs)
        ours = dsf.intervene(model, edits=case, clean=clean, **given)
        assert len(runs) == before + bool(case)
        alone = dsf.intervene(model, edits=case, **given)
        assert torch.equal(ours.output, alone.output)
        assert torch.equal(ours.clean, alone.clean)
        assert [layer.name for layer in ours.layers] == [layer.name for layer in alone.layers]
        assert torch.equal(ours.output, ours.clean) == (not case)


def test_a_model_that_writes_into_its_weights_as_it_runs_is_refused():
    for name in WRITING:
        model, given = tiny_models.build(name), tiny_models.inputs(9)
        clean = dsf.intervene(model, **given)
        with pytest.raises(ValueError, match=r"'clean' .*writes"):
            dsf.intervene(model, edits=edits.Ablate(0), clean=clean, **given)


class Attending(nn.Module):
    """Two blocks of attention with an attribute that scales them, and a buffer."""

    def __init__(self):
        super().__init__()
        attention = (nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.blocks = nn.ModuleList(attention)
        self.head = nn.Linear(8, 3)
        self.factor = 1.0
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x, masks=()):
        assert masks is not None
        for block in self.blocks:
            x = x + self.factor * block(x, x, x)[0]
        return self.head(x) + self.shift


@pytest.fixture
def attending():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attending(), torch.randn(1, 6, 8)


CUT = edits.Cut(0, key=[1])


def again(model, x, clean, **named):
    return dsf.intervene(model, x, edits=CUT, clean=clean, **named)


def written(model):
    with torch.no_grad():
        model.head.weight[1, 2] += 1


def turned_within_a_row(model):
    """By pairs of numbers, so that the sum of the bits of the row stays."""
    with torch.no_grad():
        model.head.weight[1] = model.head.weight[1].roll(2)


def written_past_the_count(model):
    model.head.weight.data[1, 2] = 3.0


def rows_swapped_past_the_count(model):
    model.head.weight.data[:2] = model.head.weight.data[:2].flip(0)


def exchanged_data(model):
    model.head.bias.data = model.head.bias.data.clone()


def exchanged_parameter(model):
    model.head.bias = nn.Parameter(model.head.bias.detach().clone())


def trained(model):
    model(torch.ones(1, 2, 8)).sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()


def exchanged_module(model):
    model.blocks[1] = nn.MultiheadAttention(8, 2, batch_first=True)


def hooked(model):
    model.head.register_forward_hook(lambda _, __, output: 2 * output)


def scaled(model):
    model.factor = 2.0


def shifted(model):
    model.shift.data += 1


CHANGES = {
    written: "the weight 'head.weight' changed",
    turned_within_a_row: "the weight 'head.weight' changed",
    written_past_the_count: "the weight 'head.weight' changed",
    rows_swapped_past_the_count: "the weight 'head.weight' changed",
    exchanged_data: "the weight 'head.bias' changed",
    exchanged_parameter: "the weight 'head.bias' changed",
    trained: "the weight 'blocks.0.in_proj_weight' changed",
    exchanged_module: "'blocks.1' changed: the module was exchanged",
    hooked: "'head' changed: the module was exchanged, or its hooks",
    scaled: "'the model' changed: .* attributes are not the same",
    shifted: "the weight 'shift' changed",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_model_that_changed_since_is_refused(attending, change):
    model, x = attending
    clean = dsf.intervene(model, x)
    again(model, x, clean)
    again(model.train(), x, clean)  # a run is made in evaluation mode, whatever the model is in
    change(model)
    with pytest.raises(ValueError, match=f"'clean' was run before {CHANGES[change]}"):
        again(model, x, clean)


def test_a_run_on_other_inputs_is_refused(attending):
    model, x = attending
    clean = dsf.intervene(model, x, masks=[None, 2])
    again(model, x.clone(), clean, masks=[None, 2])
    for other in (x + 1e-6, x.double(), x[:, :5]):
        with pytest.raises(ValueError, match=r"'clean' .*inputs"):
            again(model, other, clean, masks=[None, 2])
    with pytest.raises(ValueError, match=r"masks\[1\]"):
        again(model, x, clean, masks=[None, 3])
    with pytest.raises(ValueError, match=r"masks\[0\]"):
        again(model, x, clean)
    with pytest.raises(ValueError, match="masks: object"):
        again(model, x, clean, masks=object())
    x += 1  # what the clean run was given is not what this tensor holds now
    with pytest.raises(ValueError, match=r"'clean' .*inputs"):
        again(model, x, clean, masks=[None, 2])


@pytest.mark.usefixtures("our_own_errors")
def test_what_is_no_clean_run_of_this_model_is_refused(attending):
    model, x = attending
    with pytest.raises(TypeError, match="'clean' must be"):
        again(model, x, model(x))
    edited = dsf.intervene(model, x, edits=CUT)
    with pytest.raises(ValueError, match=r"'clean' .*edits"):
        again(model, x, edited)
    clean = dsf.intervene(model, x)
    with pytest.raises(ValueError, match=r"'clean' .*Attending"):
        again(Attending(), x, clean)
    with pytest.raises(ValueError, match=r"'clean' .*adapters"):
        again(model, x, clean, adapters=(object(),))
    clean.clean.zero_()
    with pytest.raises(ValueError, match=r"'clean' .*written"):
        again(model, x, clean)


def test_weights_of_every_number_type_and_form_are_compared():
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64):
        for shape in ((), (3,), (5, 3), (4, 8), (2, 3, 4)):
            model = nn.Module()
            model.weight = nn.Parameter(torch.ones(shape, dtype=dtype))
            facts = RunFacts.of(model, (), {}, ())
            assert facts.difference(model, (), {}, ()) is None
            model.weight.data.view(-1)[-1] = 1.125
            assert "'weight'" in facts.difference(model, (), {}, ())
    model.weight = nn.Parameter(torch.ones(9)[1:])  # begins in the middle of its memory
    facts = RunFacts.of(model, (), {}, ())
    model.weight.data[3] = 2
    assert "'weight'" in facts.difference(model, (), {}, ())


class Workspace(nn.Module):
    """Puts its output into a tensor that it keeps."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.MultiheadAttention(8, 2, batch_first=True)])
        self.kept = torch.zeros(1, 6, 8)

    def forward(self, x):
        self.kept.copy_(x + self.blocks[0](x, x, x)[0])
        return self.kept


ELSEWHERE = torch.zeros(1, 6, 8)


class Elsewhere(Workspace):
    """The same, where nobody can see that the model has a hold of the tensor."""

    def forward(self, x):
        return ELSEWHERE.copy_(super().forward(x))


def test_an_output_that_the_next_run_writes_into_is_copied_or_told(attending):
    _, x = attending
    model = Workspace()
    result = dsf.intervene(model, x, edits=CUT)
    torch.testing.assert_close(result.clean, model(x).detach())
    assert not torch.equal(result.output, result.clean)
    with pytest.raises(dsf.inspection.InspectionError, match="run before"):
        dsf.intervene(Elsewhere(), x, edits=CUT)
