"""Layers of flash-linear-attention, run by their own kernels.

Triton's interpreter runs them without a GPU, for sequences of at most 64 tokens; beyond that the
kernels ask for what the interpreter has not. Collected only on a GPU or by ``test_fla_layers.py``.
"""

import warnings
from importlib import import_module
from itertools import pairwise

import pytest
import torch

import dsf
from dsf.inspection import NothingCapturedError

pytestmark = pytest.mark.filterwarnings("ignore")

SINGLE, TOKENS, HIDDEN, WIDTH = 3e-6, 21, 5, 32
HEADS = {"num_heads": 2}
WIDE = HEADS | {"head_dim": 16}
RAMP = {"num_heads": 2, "expand_ratio": 16}
RWKV7 = {"head_dim": 16, "num_hidden_layers": 2}
STATES = {"head_dim": 16, "state_size": 8}

CASES = {
    "gla, groups": ("GatedLinearAttention", {"num_heads": 4, "num_kv_heads": 2}),
    "gla, convolved": (
        "GatedLinearAttention",
        HEADS | {"use_short_conv": True, "conv_bias": True, "clamp_min": -0.05},
    ),
    "gla, relu": ("GatedLinearAttention", HEADS | {"gate_fn": "sigmoid", "feature_map": "relu"}),
    "retention": ("MultiScaleRetention", HEADS),
    "retention, convolved": (
        "MultiScaleRetention",
        HEADS | {"use_short_conv": True, "use_output_gate": False},
    ),
    "linear, products": ("LinearAttention", HEADS),
    "linear, hedgehog": (
        "LinearAttention",
        HEADS | {"feature_map": "hedgehog", "do_feature_map_norm": True},
    ),
    "linear, elu": (
        "LinearAttention",
        HEADS | {"feature_map": "elu", "output_norm": "identity", "norm_q": True, "norm_k": True},
    ),
    "linear, dpfp": ("LinearAttention", HEADS | {"feature_map": "dpfp"}),
    "hgrn2": ("HGRN2Attention", RAMP),
    "hgrn2, convolved": ("HGRN2Attention", RAMP | {"use_short_conv": True}),
    "delta_net": ("DeltaNet", HEADS),
    "delta_net, elu": (
        "DeltaNet",
        HEADS
        | {"use_gate": True, "allow_neg_eigval": True, "qk_activation": "elu", "qk_norm": "sum"},
    ),
    "delta_net, plain": ("DeltaNet", HEADS | {"use_beta": False, "use_short_conv": False}),
    "gated_deltanet": ("GatedDeltaNet", WIDE | {"num_v_heads": 4}),
    "gated_deltanet, no gate": (
        "GatedDeltaNet",
        WIDE | {"use_gate": False, "allow_neg_eigval": True, "conv_bias": True},
    ),
    "kda": ("KimiDeltaAttention", WIDE | {"num_v_heads": 4}),
    "kda, bounded": (
        "KimiDeltaAttention",
        WIDE | {"safe_gate": True, "lower_bound": -5.0, "allow_neg_eigval": True},
    ),
    "simple_gla, groups": (
        "SimpleGatedLinearAttention",
        {"num_heads": 4, "num_kv_heads": 2, "gate_logit_normalizer": 2},
    ),
    "simple_gla, plain": (
        "SimpleGatedLinearAttention",
        HEADS | {"use_short_conv": False, "feature_map": "relu", "gate_fn": "sigmoid"},
    ),
    "hgrn": ("HGRNAttention", {}),
    "hgrn, convolved": ("HGRNAttention", {"use_short_conv": True, "expand_ratio": 2}),
    "rwkv6": ("RWKV6Attention", HEADS | {"proj_low_rank_dim": 4, "gate_low_rank_dim": 8}),
    "rwkv7": ("RWKV7Attention", RWKV7),
    "rwkv7, fused norm": ("RWKV7Attention", RWKV7 | {"fuse_norm": True}),
    "gsa": ("GatedSlotAttention", HEADS | {"num_slots": 8}),
    "gsa, groups": (
        "GatedSlotAttention",
        {"num_heads": 4, "num_kv_heads": 2, "use_short_conv": True, "feature_map": "relu"},
    ),
    "gated_deltaproduct": ("GatedDeltaProduct", WIDE | {"num_v_heads": 4}),
    "gated_deltaproduct, three": (
        "GatedDeltaProduct",
        WIDE
        | {
            "num_householder": 3,
            "use_forget_gate": False,
            "use_output_gate": False,
            "allow_neg_eigval": False,
            "use_short_conv": False,
        },
    ),
    "comba": ("Comba", WIDE | {"num_v_heads": 4}),
    "comba, plain": (
        "Comba",
        WIDE
        | {
            "use_output_gate": False,
            "use_output_correction": False,
            "use_inner_decay": False,
            "use_short_conv": False,
        },
    ),
    "mesa_net": ("MesaNet", WIDE),
    "mesa_net, gate": ("MesaNet", WIDE | {"use_output_gate": True}),
    "forgetting": ("ForgettingAttention", HEADS | {"qkv_bias": True}),
    "forgetting, groups": (
        "ForgettingAttention",
        {"num_heads": 4, "num_kv_heads": 2, "qk_norm": True, "use_output_gate": True},
    ),
    "path": ("PaTHAttention", HEADS | {"use_low_rank_w": False}),
    "path, groups": (
        "PaTHAttention",
        HEADS | {"num_kv_heads": 1, "use_forget_gate": True, "use_qk_norm": True},
    ),
    "mamba": ("Mamba", {"state_size": 4, "intermediate_size": 48}),
    "mamba2": ("Mamba2", STATES),
    "mamba2, norm first": ("Mamba2", STATES | {"norm_before_gate": True}),
    "log-linear": ("LogLinearMamba2", STATES | {"num_heads": 4, "n_groups": 2}),
}
ONLY_MIXER = {"RWKV6Attention", "RWKV7Attention", "GatedDeltaProduct"}
WITHOUT_MASK = {"PaTHAttention"}
"""The layer fails with a padding mask and no cache."""


class Interpreted:
    """Stands in for a GPU's driver where Triton asks which one it compiles for."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 80, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, _device=None):
        return 0

    def get_device_interface(self):
        return torch.cpu

    def get_active_torch_device(self):
        return torch.device("cpu")

    def get_benchmarker(self):
        def once(run, **_options):
            run()
            return [1.0, 1.0, 1.0]

        return once

    def get_empty_cache_for_benchmark(self):
        return torch.zeros(1)

    def clear_cache(self, _cache):
        pass


@pytest.fixture(scope="module")
def layers():
    """The package's layers; on a machine without a GPU their kernels are interpreted."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not torch.cuda.is_available():
            patch.setenv("TRITON_INTERPRET", "1")
        import fla.layers
        import triton

        if not torch.cuda.is_available():
            triton.runtime.driver.set_active(Interpreted())
            tuner = triton.runtime.autotuner.Autotuner  # all configurations give the same
            patch.setattr(tuner, "prune_configs", lambda self, _: self.configs[:1])
        yield fla.layers


def by_reference(kind, made, patch):
    """A layer whose kernels Triton's interpreter cannot run calls the package's own reference."""
    if kind == "LogLinearMamba2":
        from fla.ops.log_linear_attn.naive import naive_log_linear_attn

        def attend(*, q, k, v, g, level_scales, scale, **_):
            return naive_log_linear_attn(q, k, v, g, level_scales, scale), None

        class Anywhere(made):
            def forward(self, hidden_states, attention_mask=None, **_):
                return self.cuda_kernels_forward(hidden_states, None, False, attention_mask)[0]

        module = import_module("fla.layers.log_linear_mamba2")
        patch.setattr(module, "chunk_log_linear_attn", attend)
        return Anywhere
    if kind == "MesaNet":
        from fla.ops.mesa_net.naive import naive_mesa_net_CG

        def solve(q, k, lamb, cu_seqlens, max_CG_iteration, **parts):
            bounds = [0, q.shape[1]] if cu_seqlens is None else cu_seqlens.tolist()
            parts = {name: parts[name] for name in ("v", "g", "beta")}
            parts |= {"q": unit(q), "k": unit(k)}
            outputs = []
            for start, stop in pairwise(bounds):
                here = {name: part[:, start:stop] for name, part in parts.items()}
                size = {"chunk_size": stop - start, "max_CG_iteration": max_CG_iteration}
                outputs.append(naive_mesa_net_CG(lamb=lamb, **here, **size)[0])
            return torch.cat(outputs, dim=1), None, None

        patch.setattr(import_module("fla.layers.mesa_net"), "chunk_mesa_net", solve)
    return made


def unit(x):
    return x / (x.square().sum(dim=-1, keepdim=True) + 1e-6).sqrt()


def build(layers, name, patch):
    kind, settings = CASES[name]
    torch.manual_seed(1)
    made = getattr(layers, kind, None) or import_module("fla.layers.simple_gla").__dict__[kind]
    if not torch.cuda.is_available():
        made = by_reference(kind, made, patch)
    layer = made(hidden_size=WIDTH, layer_idx=1, **settings).eval()
    with torch.no_grad():
        for path, part in layer.named_parameters():
            if part.ndim > 1:
                part.copy_(1.5 * torch.randn_like(part) / part.shape[-1] ** 0.5)
            elif "A_log" not in path and "dt_bias" not in path:
                part.copy_(("norm" in path) + 0.3 * torch.randn_like(part))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return layer.to(device), torch.randn(2, TOKENS, WIDTH).to(device)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_rebuilt_and_known_as_a_whole(layers, name, monkeypatch):
    model, x = build(layers, name, monkeypatch)
    mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
    mask[0, :HIDDEN], mask[1, -HIDDEN:] = 0, 0
    kind, _ = CASES[name]
    given = {} if kind in WITHOUT_MASK else {"attention_mask": mask}
    if kind == "RWKV7Attention":
        given["v_first"] = torch.randn(2, TOKENS, model.value_dim).to(x.device)
    (layer,) = dsf.inspect(model, x, **given)
    assert layer.error < SINGLE
    map = layer.map().unflatten(-1, (TOKENS, -1)).norm(dim=-1)  # of all values of a token
    assert map.tril(-1).norm() > 0.3 * map.norm()
    if kind in ONLY_MIXER:
        return
    whole = layer.whole
    rebuilt = whole.contributions().sum(dim=2) + whole.remainder
    torch.testing.assert_close(rebuilt, whole(whole.given), atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"cu_seqlens": torch.tensor([0, 9, TOKENS])}, "packed sequences"),
        ({"attention_mask": (torch.arange(TOKENS) % 3 != 0).long().expand(2, -1)}, "between token"),
    ],
)
def test_what_is_not_read_says_why(layers, given, words, monkeypatch):
    model, x = build(layers, "gla, groups", monkeypatch)
    given = {name: part.to(x.device) for name, part in given.items()}
    x = x[:1] if "cu_seqlens" in given else x
    with pytest.raises(NothingCapturedError, match=words):
        dsf.inspect(model, x, **given)


def test_a_lower_bound_of_the_decay(layers, monkeypatch):
    model, x = build(layers, "hgrn2", monkeypatch)
    bound = torch.linspace(0.1, 0.6, 32, device=x.device)
    (layer,) = dsf.inspect(model, x, lower_bound=bound)
    assert layer.error < SINGLE
    assert (layer.mixer.decay.amin(dim=(0, 2)).flatten().cpu() > bound.cpu()).all()
