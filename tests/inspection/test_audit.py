"""An audit finds what a kernel does wrong, and names the layer, the length and the number type."""

import pytest
import torch

import dsf
from dsf.inspection import RoundingWarning
from dsf.testing.models import EXACT, NOT_READ, ROUNDED, WRONG, audit

transformers = pytest.importorskip("transformers")
LONG, SHORT = 160, 40


def tiny_mamba():
    torch.manual_seed(0)
    config = transformers.MambaConfig(
        vocab_size=31, hidden_size=8, state_size=4, num_hidden_layers=2, time_step_rank=3
    )
    return transformers.MambaModel(config).eval()


def audited(model, dtypes=(torch.float32,), lengths=(SHORT, LONG)):
    return audit(model, lengths=lengths, dtypes=dtypes, vocabulary=31)


def wraps_its_index(output, *, after):
    """A kernel that reads a buffer from its start again behind so many tokens."""
    if output.shape[1] > after:
        output[:, after:] = output[:, : output.shape[1] - after].clone()
    return output


def test_a_sound_model_is_exact_at_every_length_in_every_number_type():
    rows = audited(tiny_mamba(), dtypes=(torch.float32, torch.bfloat16))
    assert [(row.dtype, row.tokens) for row in rows[::2]] == [
        ("float32", SHORT),
        ("float32", LONG),
        ("bfloat16", SHORT),
        ("bfloat16", LONG),
    ]
    assert {row.verdict for row in rows} == {EXACT}
    assert all(row.formula <= 1e-12 for row in rows)
    assert all(0 < row.rounding <= row.expected for row in rows)


def test_a_kernel_that_wraps_an_index_is_named_with_layer_and_length():
    model, long = tiny_mamba(), SHORT + 8
    model.layers[1].mixer.register_forward_hook(
        lambda _module, _inputs, output: wraps_its_index(output, after=SHORT)
    )
    rows = audited(model, lengths=(SHORT, long))
    of_mixers = [row for row in rows if row.layer.endswith("mixer")]
    assert {(row.layer, row.tokens): row.verdict for row in of_mixers} == {
        ("layers.0.mixer", SHORT): EXACT,
        ("layers.1.mixer", SHORT): EXACT,
        ("layers.0.mixer", long): EXACT,
        ("layers.1.mixer", long): WRONG,
    }
    # The block around it mixes tokens in a way that no map of it explains, and is named, too.
    assert {(row.layer, row.tokens) for row in rows if row not in of_mixers} <= {("layers.1", long)}


WRAP = 96


def loses_its_state(module, arguments, output):
    """A scan in float32 whose index of chunks wraps after ``WRAP`` tokens: it begins anew there."""
    hidden = arguments[0]
    if hidden.dtype is torch.float64 or hidden.shape[1] <= WRAP:
        return output
    return torch.cat([output[:, :WRAP], type(module).forward(module, hidden[:, WRAP:])], dim=1)


def test_a_scan_that_wraps_its_index_is_exact_up_to_there_and_found_one_token_later():
    model = tiny_mamba()
    model.layers[1].mixer.register_forward_hook(loses_its_state)
    rows = audited(model, lengths=(WRAP, WRAP + 1, WRAP + 60))
    verdicts = {(row.layer, row.tokens): row.verdict for row in rows}
    assert verdicts == {
        ("layers.0.mixer", WRAP): EXACT,
        ("layers.1.mixer", WRAP): EXACT,
        ("layers.0.mixer", WRAP + 1): EXACT,
        ("layers.1.mixer", WRAP + 1): ROUNDED,
        ("layers.0.mixer", WRAP + 60): EXACT,
        ("layers.1.mixer", WRAP + 60): ROUNDED,
    }
    assert all(row.formula <= 1e-12 for row in rows)


def test_a_kernel_of_one_number_type_is_found_by_its_rounding():
    """The module in float64 takes the sound path, so the formula holds and the run does not."""
    model = tiny_mamba()
    model.layers[0].mixer.register_forward_hook(
        lambda _module, _inputs, out: out if out.dtype is torch.float64 else out * 1.001
    )
    rows = {row.layer: row for row in audited(model, lengths=(SHORT,))}
    spoiled = rows["layers.0.mixer"]
    assert spoiled.verdict == ROUNDED
    assert spoiled.formula <= 1e-12
    assert 9e-4 < spoiled.rounding < 1.1e-3
    assert "times further" in spoiled.reason
    assert rows["layers.1.mixer"].verdict == EXACT


@pytest.mark.parametrize(
    ("mixing", "verdict"),
    [(lambda x: x.cumsum(dim=1), EXACT), (lambda x: x.cummax(dim=1).values, NOT_READ)],
    ids=["linear", "not linear"],
)
def test_a_mixer_that_no_adapter_knows_is_probed_or_listed(mixing, verdict):
    class Mixer(torch.nn.Module):
        def forward(self, x):
            return mixing(x)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.known = torch.nn.Embedding(31, 4), torch.nn.GRU(4, 4)
            self.unknown_mixer = type("OwnMixer", (Mixer,), {})()

        def forward(self, input_ids):
            return self.unknown_mixer(self.known(self.embedding(input_ids))[0])

    verdicts = {row.layer: row.verdict for row in audited(Model(), lengths=(SHORT,))}
    assert verdicts == {"known[layer 0]": EXACT, "unknown_mixer": verdict}


@pytest.mark.parametrize("factor", [1.0, 1.01])
def test_the_assertion_for_tests_elsewhere(factor):
    layer = torch.nn.GRU(3, 4, batch_first=True)
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    if factor == 1.0:
        assert dsf.testing.assert_layer_exact(layer, x)[0].formula < 1e-12
        with pytest.raises(AssertionError, match="above 1e-12"):
            dsf.testing.assert_layer_exact(layer, x, rounding=1e-12)
        return
    layer.register_forward_hook(lambda _m, _i, out: (out[0] * factor, out[1]))
    with pytest.raises(AssertionError, match="differs by 9"):
        dsf.testing.assert_layer_exact(layer, x)


def test_the_assertion_fails_for_a_run_that_is_rounded_too_much():
    layer = torch.nn.GRU(3, 4, batch_first=True)
    layer.register_forward_hook(
        lambda _m, _i, out: out if out[0].dtype is torch.float64 else (out[0] * 1.01, out[1])
    )
    x = torch.randn(1, 6, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="float32"):
        dsf.testing.assert_layer_exact(layer, x)
    with pytest.warns(RoundingWarning):
        dsf.inspect(layer, x)
