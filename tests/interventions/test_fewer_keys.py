"""Fewer key channels: energies against the layer itself, weights that load, and refusals."""

import pytest
import torch

import dsf
from dsf.loading import load_model
from dsf.models import folder, recall
from tests.inspection.families import tiny_models

pytest.importorskip("transformers")
MODELS = {"mamba2": ("state_size", 16), "qwen3_next": ("linear_key_head_dim", 8)}


def drawn(samples=6, seed=1):
    return recall.draw(torch.Generator().manual_seed(seed), samples)


@pytest.fixture(scope="module", params=MODELS)
def reduced(request):
    model = load_model(folder(request.param)).model.eval()
    setting, states = MODELS[request.param]
    smaller = dsf.reduce_states(model, [drawn().tokens], states=states, projected=False)
    return model, smaller, setting, states


def test_half_of_the_channels_load_into_the_same_class_and_recall_stays(reduced):
    model, smaller, setting, states = reduced
    assert type(smaller.model) is type(model)
    assert getattr(smaller.model.config, setting) == states == getattr(model.config, setting) // 2
    again = type(model)(smaller.model.config)
    again.load_state_dict(smaller.state_dict)
    held_out = drawn(64, seed=2)
    assert recall.accuracy(again.eval(), held_out) > 0.98
    assert smaller.error < 0.4


def test_all_channels_change_nothing(reduced):
    model, smaller, *_ = reduced
    count = next(iter(smaller.products.values())).states
    whole = dsf.reduce_states(model, [drawn().tokens], states=count, projected=False)
    with torch.no_grad():
        one, other = (each(input_ids=drawn().tokens).logits for each in (model, whole.model))
    assert torch.equal(one, other)
    assert whole.error == 0


def test_errors_are_those_of_the_layers_on_their_own_input(reduced):
    model, smaller, *_ = reduced
    path = list(smaller.layers)[-1]
    seen = {}

    def note(_, args, kwargs, output):
        seen["given"], seen["output"] = (args or (kwargs["hidden_states"],))[0], output

    handle = model.get_submodule(path).register_forward_hook(note, with_kwargs=True)
    with torch.no_grad():
        model(input_ids=drawn().tokens)
        handle.remove()
        other = smaller.model.get_submodule(path)(seen["given"])
    expected = (other - seen["output"]).norm() / seen["output"].norm()
    assert smaller.layers[path].error == pytest.approx(expected.item(), rel=1e-4)


def test_channels_with_the_largest_energies_of_reads_times_states_stay():
    model = load_model(folder("qwen3_next")).model.eval()
    smaller = dsf.reduce_states(model, [drawn().tokens], states=5, projected=False)
    path, layer = next(iter(smaller.layers.items()))
    inspected = dsf.inspect(model, drawn().tokens, checks="none")[path]
    read, held = inspected.system.C, inspected.system.states(inspected.signal)
    heads, count = smaller.products[path].heads, smaller.products[path].states
    shared = read.shape[1] // heads
    score = torch.zeros(heads, count, dtype=torch.float64)
    for value_head in range(read.shape[1]):
        for k in range(count):
            energies = (part[:, value_head, :, ..., k].square().sum() for part in (read, held.mT))
            score[value_head // shared, k] += next(energies) * next(energies)
    expected = [
        head * count + k
        for head in range(heads)
        for k in sorted(range(count), key=lambda k, head=head: -score[head, k])[:5]
    ]
    assert sorted(layer.kept) == sorted(expected)


def test_fitted_projections_bring_outputs_nearer(reduced):
    model, smaller, _, states = reduced
    path = next(iter(smaller.layers))
    fitted = dsf.reduce_states(model, [drawn().tokens], states=states, products=smaller.products)
    assert fitted.layers[path].error < smaller.layers[path].error
    assert fitted.layers[path].kept == smaller.layers[path].kept


def test_kimi_delta_layers_keep_their_shape_with_zeros():
    model = tiny_models.build("kimi_linear").eval()
    inputs = tiny_models.inputs()
    smaller = dsf.reduce_states(model, [inputs], states=3, projected=False)
    path = next(iter(smaller.layers))
    kept, module = smaller.layers[path].kept, smaller.model.get_submodule(path)
    empty = (module.k_proj.weight == 0).all(dim=1)
    assert [k for k, each in enumerate(empty.tolist()) if not each] == list(kept)
    assert 0 < smaller.error < 2


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"states": 0}, "states"),
        ({"states": 33}, "states"),
        ({"states": 4, "choose": lambda *_: torch.zeros(1, 3, dtype=torch.long)}, "choose"),
    ],
)
def test_wrong_arguments_are_errors(options, name):
    model = load_model(folder("mamba2")).model
    with pytest.raises(ValueError, match=name):
        dsf.reduce_states(model, [drawn(1).tokens], **options)
    with pytest.raises(TypeError, match="batches"):
        dsf.reduce_states(model, drawn(1).tokens, states=4)
