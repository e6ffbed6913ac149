"""Inspection on an accelerator, also on one without double precision: ``formula`` stays sharp."""

import pytest
import torch
from torch import nn

import dsf
from tests.devices.emulated import KIND, SINGLE_ONLY, traffic
from tests.inspection import softmax_models
from tests.inspection.families import tiny_models

FORMULA = 1e-12
# Of a tiny model: numbers of one token, by which the projection of the values is found.
FEW_BYTES = 1024


class OwnAttention(nn.Module):
    """Softmax between two products that no library's interface sees."""

    def __init__(self):
        super().__init__()
        self.joint, self.out = nn.Linear(8, 24), nn.Linear(8, 8)

    def forward(self, x):
        query, key, value = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.joint(x).chunk(3, dim=-1)
        )
        ahead = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        weights = (query @ key.mT / 2).masked_fill(ahead, -torch.inf).softmax(dim=-1)
        return self.out((weights @ value).transpose(1, 2).flatten(-2))


class RunningMean(nn.Module):
    def forward(self, x):
        return x.cumsum(dim=1) / torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]


OF_TORCH = {
    "lstm": lambda: nn.LSTM(8, 4, num_layers=2, bidirectional=True, batch_first=True),
    "gru": lambda: nn.GRU(8, 4, batch_first=True),
    "rnn": lambda: nn.RNN(8, 4, batch_first=True),
    "encoder layer": lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True),
    "own attention": OwnAttention,
}


def built(name):
    """A tiny model and what it is called with."""
    if name in OF_TORCH:
        torch.manual_seed(0)
        rng = torch.Generator().manual_seed(1)
        return OF_TORCH[name](), (torch.randn(2, 7, 8, generator=rng),), {}
    source = softmax_models if name in softmax_models.BUILT else tiny_models
    named = source.inputs(name) if source is softmax_models else source.inputs(12)
    return source.build(name), (), named


def placed(name, there):
    """The same on the device."""
    model, inputs, named = built(name)
    inputs = tuple(part.to(there) for part in inputs)
    return model.to(there), inputs, {key: part.to(there) for key, part in named.items()}


def inspected(name, there):
    model, inputs, named = placed(name, there)
    return dsf.inspect(model, *inputs, **named)


SOFTMAX = ("llama", "gpt2", "gpt_oss", "t5")


@pytest.mark.sampled(count=20)
@pytest.mark.parametrize("name", [*tiny_models.FAMILIES, *SOFTMAX, *OF_TORCH])
@pytest.mark.usefixtures("one_thread")  # what is unclear by rounding is drawn again in float64
def test_every_family(name, there):
    model, inputs, named = placed(name, there)
    with traffic() as seen:
        inspection = dsf.inspect(model, *inputs, **named)
    # RWKV-4's feed-forward layers shift tokens, and no adapter reads that.
    assert all("feed_forward" in each.name for each in inspection.unsupported)
    for layer in inspection:
        assert layer.formula <= FORMULA
        assert layer.rounding < 1e-5
        assert layer.system.device == (torch.device("cpu") if single(there) else there)
        where = f" on the processor, since {there} has none" if single(there) else ""
        assert layer.compared_with == f"its module in float64{where}"
    # Nothing is rebuilt elsewhere; what nothing reads is tried with values drawn on the processor.
    # So is GPT-OSS, which subtracts the largest score of a row.
    if not single(there) and not inspection.unsupported and name != "gpt_oss":
        assert max(seen.sent + seen.fetched, default=0) <= FEW_BYTES


@pytest.mark.parametrize(
    "view",
    [
        lambda ids: ids.view(-1, ids.shape[-1]),
        lambda ids: ids[:, 1:],
        lambda ids: ids.mT.contiguous().mT,
    ],
    ids=["view", "slice", "transpose"],
)
@pytest.mark.usefixtures("one_thread")
def test_views_of_ids(view):
    class Viewing(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.mix = nn.Embedding(11, 8), OwnAttention()

        def forward(self, ids):
            return self.mix(self.embed(view(ids)))

    there = torch.device(KIND, 0)
    torch.manual_seed(0)
    ids = torch.arange(14).reshape(2, 7) % 11
    inspection = dsf.inspect(Viewing().to(there), ids.to(there))
    assert not inspection.unsupported
    assert inspection[0].is_exact


@pytest.mark.usefixtures("one_thread")
def test_checks_of_wide_recurrences_send_few_bytes():
    there = torch.device(KIND, 0)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 256), nn.RNN(256, 4, batch_first=True)).to(there)
    given = torch.randn(2, 7, 8).to(there)
    with traffic() as seen:
        inspection = dsf.inspect(model, given)
    assert not inspection.unsupported
    assert max(seen.sent + seen.fetched, default=0) <= FEW_BYTES


def single(there):
    return there.index == SINGLE_ONLY


@pytest.mark.parametrize("name", ["llama", "mamba", "mamba2", "qwen3_next", "lstm"])
def test_what_follows_an_inspection(name, there, tmp_path):
    inspection, expected = inspected(name, there), inspected(name, torch.device("cpu"))
    for ours, other in zip(inspection.measure(), expected.measure(), strict=True):
        assert ours["value"] == pytest.approx(other["value"], rel=1e-4, abs=1e-4, nan_ok=True)
    layer, other = inspection[0], expected[0]
    torch.testing.assert_close(layer.map().cpu(), other.map(), rtol=1e-4, atol=1e-5)
    if name != "lstm":  # whose channels feed back into each other
        whole = other.mixer_map()
        torch.testing.assert_close(layer.mixer_map().cpu(), whole, rtol=1e-3, atol=1e-4)
    report = tmp_path / "report.html"
    dsf.show(inspection, report)
    assert report.stat().st_size > 0


def test_chosen_heads(there):
    model, _, named = placed("llama", there)
    (layer,) = dsf.inspect(model, **named, layers=[1], heads=[0, 3])
    assert layer.map().shape[:2] == (2, 2)
    assert layer.signal.shape[:2] == (2, 2)


def test_a_probed_module(there):
    layer = dsf.probe(RunningMean().to(there), torch.ones(1, 5, 4, device=there))
    assert layer.formula <= FORMULA
    assert layer.map()[0, 0, 4].tolist() == pytest.approx([0.2] * 5)


def test_exact_runs_and_stacks(there):
    model, _, named = placed("llama", there)
    assert max(layer.error for layer in dsf.inspect(model, **named, exact=True)) < FORMULA
    stack = dsf.stack(model, **named)
    assert "exact" in repr(stack)
