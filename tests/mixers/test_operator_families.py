"""The operator families of the kernel libraries: what they turn into, long sequences, refusals."""

from dataclasses import replace
from importlib import import_module

import pytest
import torch

import dsf
from dsf import mixers
from dsf.mixers.ingredients import second_order, squares
from dsf.runtime.shapes import ShapeError
from dsf.systems.transition import ScaledIdentity
from tests.mixers.mixer_fields import draw, snake

STEPS = 12
EXACT = {"rtol": 1e-12, "atol": 1e-13}
QKV = ("query", "key", "value")


def map_of(mixer):
    return dsf.attention_map(mixer.system())


def assert_same(one, other):
    torch.testing.assert_close(map_of(one), map_of(other), **EXACT)


def fields_of(mixer, *names):
    return {name: getattr(mixer, name) for name in names}


@pytest.mark.parametrize(
    ("feature_map", "similarity"),
    [(second_order, lambda x: 1 + x + x * x / 2), (squares, torch.square)],
    ids=["Based", "ReBased"],
)
def test_based_and_rebased_are_linear_attention_with_an_epsilon(feature_map, similarity):
    drawn = draw(mixers.LinearAttention, STEPS)
    based = replace(drawn, feature_map=feature_map, epsilon=1e-2)
    pairs = similarity(torch.einsum("bik,bjk->bij", drawn.query, drawn.key)).tril()
    expected = pairs / (pairs.sum(dim=-1, keepdim=True) + 1e-2)
    torch.testing.assert_close(map_of(based), expected, **EXACT)


def test_without_decay_rwkv7_is_the_identity_plus_a_low_rank():
    drawn = draw(mixers.RWKV7, STEPS)
    still = replace(drawn, log_decay=torch.zeros_like(drawn.log_decay))
    memory, out = torch.zeros(2, 4, 3, dtype=torch.float64), []
    for t in range(STEPS):
        found = torch.einsum("bk,bkc->bc", still.removal[:, t], memory)
        memory = memory + torch.einsum("bk,bc->bkc", still.replacement[:, t], found)
        memory = memory + torch.einsum("bk,bc->bkc", still.key[:, t], still.value[:, t])
        out.append(torch.einsum("bk,bkc->bc", still.query[:, t], memory))
    response = dsf.respond(still.system(), still.signal()).squeeze(-2)
    torch.testing.assert_close(response, torch.stack(out, dim=1), **EXACT)


def test_equal_gates_make_kimi_of_gated_delta_net_2():
    kimi = draw(mixers.KimiDeltaAttention, STEPS)
    rate = kimi.rate.unsqueeze(-1)
    gated = mixers.GatedDeltaNet2(
        **fields_of(kimi, *QKV, "log_decay"),
        erase_gate=rate.expand_as(kimi.key),
        write_gate=rate.expand_as(kimi.value),
    )
    expected = dsf.respond(kimi.system(), kimi.signal())
    torch.testing.assert_close(dsf.respond(gated.system(), gated.signal()), expected, **EXACT)


def test_a_preconditioner_that_cannot_stretch_leaves_the_delta_rule():
    full = draw(mixers.PreconditionedDeltaNet, STEPS)
    kimi = mixers.KimiDeltaAttention(**fields_of(full, *QKV, "rate", "log_decay"))
    assert_same(replace(full, reach=1.0), kimi)
    assert (map_of(full) - map_of(kimi)).abs().max() > 0.1


def test_a_decay_that_is_expanded_stays_one_number_a_token():
    full = draw(mixers.PreconditionedDeltaNet, STEPS)
    shared = full.log_decay[..., :1].expand_as(full.key)
    expanded, copied = replace(full, log_decay=shared), replace(full, log_decay=shared.clone())
    assert expanded.system().A.decay.stride(-1) == 0
    assert copied.system().A.decay.stride(-1) == 1
    assert_same(expanded, copied)


def test_without_momentum_only_the_gated_delta_rule_is_left():
    gated = draw(mixers.GatedDeltaNet, STEPS)
    half = torch.full_like(gated.rate, 0.5)
    momentum = mixers.MomentumDeltaNet(
        **fields_of(gated, *QKV, "log_decay"),
        removal=gated.log_decay.exp().unsqueeze(-1) * gated.key,
        rate=half,
        error_rate=2 * gated.rate,
        momentum_log_decay=torch.full_like(half, -torch.inf),
    )
    assert_same(momentum, gated)


def test_slots_that_average_are_slots():
    """The two kinds of slots differ by where their coefficients come from."""
    averaging = draw(mixers.BoundedMemoryAttention, STEPS)
    system = averaging.system()
    slots = mixers.GatedSlotAttention(
        **fields_of(averaging, *QKV),
        slot_write=system.B.squeeze(-1),
        log_decay=system.A.decay.log(),
    )
    assert_same(slots, averaging)
    weights = map_of(averaging)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]), **EXACT)


def test_a_mesa_layer_recalls_a_linear_function():
    """With next to no ridge the regression finds the rule that made the values."""
    drawn = draw(mixers.MesaNet, STEPS)
    rule = torch.randn(4, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    mesa = replace(drawn, value=drawn.key @ rule, ridge=torch.full_like(drawn.ridge, 1e-9))
    response = dsf.respond(mesa.system(), mesa.signal()).squeeze(-2)
    expected = mesa.query @ rule
    torch.testing.assert_close(response[:, 6:], expected[:, 6:], rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="above zero"):
        replace(mesa, ridge=torch.zeros_like(mesa.ridge)).system()


def test_a_trapezoid_all_on_the_new_token_is_scalar_gated_attention():
    mamba = draw(mixers.Mamba3, STEPS)
    plain = replace(mamba, blend=torch.ones_like(mamba.blend), rotation=None, feedthrough=None)
    gated = mixers.ScalarGatedAttention(
        **fields_of(mamba, "query", "value"),
        key=mamba.step.unsqueeze(-1) * mamba.key,
        log_decay=mamba.step * mamba.pole,
    )
    assert_same(plain, gated)
    assert (map_of(mamba) - map_of(gated)).abs().max() > 0.1


def test_looking_ahead_mamba_3_needs_half_the_states():
    """The same map with as many states as keys have entries, from coefficients of token t + 1."""
    mamba = replace(draw(mixers.Mamba3, STEPS), rotation=None)
    later = torch.nn.functional.pad((1 - mamba.blend[:, 1:]) * mamba.step[:, 1:], (0, 1))
    write = (mamba.blend * mamba.step + later).unsqueeze(-1) * mamba.key
    own = mamba.feedthrough[:, None] - later * (mamba.query * mamba.key).sum(dim=-1)
    A = ScaledIdentity((mamba.step * mamba.pole).exp(), 5)
    ahead = dsf.System.from_write_and_read(A, write, mamba.query, own)
    torch.testing.assert_close(dsf.attention_map(ahead), map_of(mamba), **EXACT)


def test_turning_both_alike_leaves_a_token_s_own_weight():
    mamba = draw(mixers.Mamba3, STEPS)
    turned, still = map_of(mamba), map_of(replace(mamba, rotation=None))
    own = (turned - still).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(own, torch.zeros_like(own), **EXACT)
    assert (turned - still).abs().max() > 0.1


def test_levels_of_one_scale_are_scalar_gated_attention():
    levels = draw(mixers.LogLinearAttention, STEPS)
    gated = mixers.ScalarGatedAttention(**fields_of(levels, *QKV, "log_decay"))
    ones = torch.ones_like(levels.level_scale)
    assert_same(replace(levels, level_scale=ones, feedthrough=None), gated)


def test_levels_by_hand():
    """Token 5, 101 in binary, sees itself, token 4, and the four tokens before in one block."""
    ones = torch.ones(6, 1, dtype=torch.float64)
    mixer = mixers.LogLinearAttention(
        query=ones,
        key=ones,
        value=ones,
        log_decay=0 * ones[:, 0],
        level_scale=torch.tensor([[1.0, 2.0, 4.0, 8.0]]).double().expand(6, 4),
    )
    assert map_of(mixer)[5].tolist() == [8, 8, 8, 8, 2, 1]
    assert map_of(mixer)[3].tolist() == [4, 4, 2, 1, 0, 0]


def test_a_path_without_maps_is_forgetting_attention():
    path = draw(mixers.PathAttention, STEPS)
    still = replace(path, rate=torch.zeros_like(path.rate))
    forgetting = mixers.ForgettingAttention(
        **fields_of(path, *QKV, "scale"), log_decay=path.scale * path.log_decay
    )
    assert_same(still, forgetting)
    softmax = mixers.SoftmaxAttention(**fields_of(path, *QKV))
    assert_same(replace(still, log_decay=None, scale=None), softmax)


def test_taking_nothing_leaves_softmax_attention():
    former = draw(mixers.DeltaFormer, STEPS)
    softmax = mixers.SoftmaxAttention(**fields_of(former, *QKV, "scale"))
    assert_same(replace(former, rate=torch.zeros_like(former.rate)), softmax)


@pytest.mark.parametrize("reads_itself", [False, True])
def test_what_no_key_takes_of_the_stick_is_lost(reads_itself):
    stick = replace(draw(mixers.StickBreakingAttention, STEPS), reads_itself=reads_itself)
    weights = map_of(stick)
    pairs = stick.scale * (stick.query @ stick.key.mT)
    seen = torch.ones(STEPS, STEPS).tril(0 if reads_itself else -1).bool()
    lost = torch.where(seen, 1 - pairs.sigmoid(), 1).prod(dim=-1)
    torch.testing.assert_close(weights.sum(dim=-1), 1 - lost, **EXACT)
    assert bool(weights[:, 0].any()) == reads_itself
    expected = reference_for(stick)(stick)
    torch.testing.assert_close(weights @ stick.value, expected, **EXACT)


def reference_for(mixer):
    return import_module(f"tests.references.{snake(type(mixer).__name__)}").reference


@pytest.mark.parametrize(
    "cls",
    [
        mixers.PathAttention,
        mixers.DeltaFormer,
        mixers.StickBreakingAttention,
        mixers.LogLinearAttention,
        mixers.MesaNet,
        mixers.GatedSlotAttention,
    ],
    ids=lambda cls: cls.__name__,
)
def test_rows_and_memories_go_on_across_panels(cls):
    """Longer than two panels: the map by rows in odd windows, and what is applied without it."""
    mixer = draw(cls, 150)
    expected = reference_for(mixer)(mixer)
    scale = expected.abs().max()
    response = dsf.respond(mixer.system(), mixer.signal()).squeeze(-2)
    blocks = dsf.evaluate.row_blocks(mixer.system(), size=37)
    mixed = torch.cat([block.weights for block in blocks], dim=-2) @ mixer.value
    assert (response - expected).abs().max() <= 1e-12 * scale
    assert (mixed - expected).abs().max() <= 1e-12 * scale


def test_strong_keys_stay_finite():
    """Scores of hundreds break the whole stick at once, and nothing overflows."""
    stick = draw(mixers.StickBreakingAttention, STEPS)
    weights = map_of(replace(stick, scale=500.0))
    assert weights.isfinite().all()
    assert weights.sum(dim=-1).max() <= 1 + 1e-12


@pytest.mark.usefixtures("our_own_errors")
def test_too_few_levels_or_too_many_pairs_are_refused():
    levels = draw(mixers.LogLinearAttention, STEPS)
    with pytest.raises(ShapeError, match="'level_scale'"):
        replace(levels, level_scale=levels.level_scale[..., :4])
    mamba = draw(mixers.Mamba3, STEPS)
    with pytest.raises(ShapeError, match="at most 2"):
        replace(mamba, rotation=torch.zeros(2, STEPS, 3, dtype=torch.float64))
