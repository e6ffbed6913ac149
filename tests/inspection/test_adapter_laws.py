"""``check_adapter`` accepts adapters that are right and names what is wrong with the others."""

import ctypes
import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

import dsf
from dsf.inspection import InspectionError
from dsf.inspection.families import torch_recurrent
from dsf.inspection.families.registry import ADAPTERS, STRUCTURES, known_modules
from dsf.inspection.families.shared import by_head, masked, masking
from dsf.inspection.families.torch_recurrent import WholeCell
from dsf.inspection.whole.stages import Chain, Scale
from dsf.mixers import GatedLinearAttention
from tests.inspection.families.tiny_models import build, inputs, is_older_than

# The laws inspect each model some twenty times: without a shape check at every call.
pytestmark = pytest.mark.usefixtures("our_own_errors")

HOLDS, REFUTED = dsf.certify.Verdict.HOLDS_NUMERICALLY, dsf.certify.Verdict.REFUTED
WIDTH, HEADS = 12, 3
OURS = ("mamba", "qwen3_next", "recurrent_gemma", "rwkv", "minimax")


class Gated(nn.Module):
    """Gated linear attention of one's own, with padding."""

    def __init__(self):
        super().__init__()
        self.q_proj, self.k_proj, self.v_proj, self.g_proj, self.out_proj = (
            nn.Linear(WIDTH, WIDTH) for _ in range(5)
        )

    def forward(self, x, attention_mask=None):
        if attention_mask is not None:
            x = x * attention_mask[..., None]
        q, k, v, g = (
            f(x).unflatten(-1, (HEADS, -1))
            for f in (self.q_proj, self.k_proj, self.v_proj, self.g_proj)
        )
        state, out = x.new_zeros(len(x), HEADS, WIDTH // HEADS, WIDTH // HEADS), []
        for t in range(x.shape[1]):
            state = g[:, t].sigmoid()[..., None] * state + k[:, t, ..., None] * v[:, t, :, None, :]
            out.append((q[:, t, :, None] @ state).flatten(1))
        return self.out_proj(torch.stack(out, dim=1))


def read(layer):
    x = masked(layer, layer.arguments["x"])
    q, k, v, g = (by_head(layer.project(f"{name}_proj", x), HEADS) for name in "qkvg")
    return GatedLinearAttention(query=q, key=k, value=v, log_decay=g.sigmoid().log())


def enter(layer):
    return Chain((*masking(layer, layer.arguments["x"]), layer.projection("v_proj")))


def leave(layer, _):
    return Chain((layer.projection("out_proj"),))


RIGHT = dsf.Adapter(
    families={f"{__name__}.Gated": "mine"}, read=read, enter=enter, leave=leave, takes="x"
)


@pytest.fixture
def call():
    torch.manual_seed(0)
    RIGHT.families.clear()  # the name of this file is another one in every way of running it
    RIGHT.families[f"{Gated.__module__}.Gated"] = "mine"
    x = torch.randn(2, 9, WIDTH)
    return Gated(), {"x": x, "attention_mask": torch.ones(2, 9)}


def judged(adapter, module, **named):
    return {
        one.claim.split(": ")[0].removeprefix("mine, "): one
        for one in dsf.testing.check_adapter(adapter, module, **named)
    }


def test_a_right_adapter_keeps_every_law(call):
    module, named = call
    found = judged(RIGHT, module, **named)
    assert [(one.claim, one.witness) for one in found.values() if one.verdict is not HOLDS] == []
    laws = "trace", "axes", "single precision", "double precision", "padding", "mixing"
    assert tuple(found) == (*laws, "whole")
    assert found["mixing"].observed > 0.3
    assert max(found[law].observed for law in ("double precision", "padding", "whole")) < 1e-14


def without_mask(layer):
    return read(replace(layer, arguments={"x": layer.arguments["x"]}))


def one_head(layer):
    right = read(layer)
    return replace(right, key=right.key.roll(1, dims=1))


def first_sample(layer):
    """Right for a batch of two, wrong for a sample alone."""
    right = read(layer)
    return replace(right, query=right.query * (1 if len(right.query) == 2 else 1.1))


def decays_twice_in_long_runs(layer):
    right = read(layer)
    return replace(right, log_decay=right.log_decay * (1 if right.value.shape[-2] < 9 else 1.01))


def scribbles(layer):
    layer.module.calls = getattr(layer.module, "calls", 0) + 1
    lowest = ctypes.c_uint8.from_address(layer.module.out_proj.weight.data_ptr())
    lowest.value ^= 1  # past torch, so that nobody can undo it
    return read(layer)


def louder(layer, response):
    return Chain((Scale(torch.full((1,), 1.001, dtype=torch.float64)), *leave(layer, response)))


def in_single(layer):
    right = read(layer)
    return replace(right, key=right.key.float().double())


@pytest.mark.parametrize(
    ("changes", "law", "case"),
    [
        ({"axes": ("sample",)}, "axes", {"parameters"}),
        ({"read": one_head}, "double precision", {"parameters"}),
        ({"read": first_sample}, "double precision", {"sample"}),
        ({"read": decays_twice_in_long_runs}, "single precision", {"tokens"}),
        ({"read": in_single}, "double precision", {"parameters"}),
        ({"read": without_mask}, "padding", {"padding"}),
        ({"enter": lambda layer: Chain((layer.projection("k_proj"),))}, "whole", {"figure"}),
        ({"leave": louder}, "whole", {"figure"}),
        ({"read": scribbles}, "trace", {"figure"}),
        ({"read": lambda layer: layer.nothing}, "single precision", {"error"}),
    ],
    ids=lambda part: part if isinstance(part, str) else None,
)
def test_what_is_wrong_is_named(call, changes, law, case):
    module, named = call
    found = judged(replace(RIGHT, **changes), module, **named)
    assert found[law].verdict is REFUTED
    assert case <= found[law].witness.keys()


def test_a_layer_that_hardly_mixes_proves_little(call):
    module, named = call
    with torch.no_grad():
        module.g_proj.bias.fill_(-20)
    found = judged(RIGHT, module, redraw=False, **named)
    assert found["mixing"].verdict is REFUTED
    assert found["mixing"].observed < 1e-6
    assert judged(RIGHT, module, **named)["mixing"].verdict is HOLDS


@pytest.mark.skipif(is_older_than("5.16"), reason="older releases name their functions otherwise")
@pytest.mark.sampled(count=8)
@pytest.mark.parametrize("family", OURS)
def test_ours_keep_them_too(family):
    model = build(family)
    known = known_modules(model).values()
    adapter = next(one for one, name in known if name == family)
    found = dsf.testing.check_adapter(
        adapter,
        model,
        redraw=False,  # they are lively
        **inputs(7),
    )
    assert [(one.claim, one.witness) for one in found if one.verdict is not HOLDS] == []


def test_a_whole_of_its_own_is_measured(monkeypatch):
    def whole():
        found = dsf.testing.check_adapter(torch_recurrent.ADAPTER, module, torch.randn(2, 9, 3))
        return next(one.verdict for one in found if one.claim.startswith("lstm, whole"))

    module = nn.LSTM(3, 4, batch_first=True)
    assert whole() is HOLDS
    monkeypatch.setattr(WholeCell, "remainder", 0.1)
    assert whole() is REFUTED


def test_a_model_without_such_modules(call):
    with pytest.raises(InspectionError, match="Linear"):
        dsf.testing.check_adapter(RIGHT, nn.Linear(2, 2), torch.ones(2, 2))
    with pytest.raises(InspectionError, match="axis 1"):
        dsf.testing.check_adapter(RIGHT, call[0])


def test_every_adapter_can_be_pickled():
    """A layer that was inspected holds the one that read it."""
    for adapter in (*ADAPTERS, *(structure.adapter for structure in STRUCTURES)):
        assert pickle.loads(pickle.dumps(adapter)).families == adapter.families
