"""Layers of flash-linear-attention, run by their own kernels.

Triton's interpreter runs them without a GPU, for sequences of at most 64 tokens; beyond that the
kernels ask for what the interpreter has not. Collected only on a GPU or by ``test_fla_layers.py``.
"""

import inspect
import warnings

import pytest
import torch

import dsf
from benchmarks import fla_calls
from dsf.inspection import NothingCapturedError
from tests.benchmarks.test_gpu import LAYERS

pytestmark = pytest.mark.filterwarnings("ignore")

SINGLE, TOKENS, HIDDEN, WIDTH = 3e-6, 21, 5, 32
HEADS = {"num_heads": 2}
WIDE = HEADS | {"head_dim": 16}
RAMP = {"num_heads": 2, "expand_ratio": 16}

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
}


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
        yield fla.layers


def build(layers, name):
    kind, settings = CASES[name]
    torch.manual_seed(1)
    layer = getattr(layers, kind)(hidden_size=WIDTH, layer_idx=1, **settings).eval()
    with torch.no_grad():
        for path, part in layer.named_parameters():
            if part.ndim > 1:
                part.copy_(1.5 * torch.randn_like(part) / part.shape[-1] ** 0.5)
            elif "A_log" not in path and "dt_bias" not in path:
                part.copy_(("norm" in path) + 0.3 * torch.randn_like(part))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return layer.to(device), torch.randn(2, TOKENS, WIDTH).to(device)


@pytest.mark.parametrize("name", CASES)
def test_a_layer_is_rebuilt_and_known_as_a_whole(layers, name):
    model, x = build(layers, name)
    mask = torch.ones(x.shape[:2], dtype=torch.long, device=x.device)
    mask[0, :HIDDEN], mask[1, -HIDDEN:] = 0, 0
    (layer,) = dsf.inspect(model, x, attention_mask=mask)
    assert layer.error < SINGLE
    map = layer.map()
    assert map.tril(-1).norm() > 0.3 * map.norm()
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
def test_what_is_not_read_says_why(layers, given, words):
    model, x = build(layers, "gla, groups")
    given = {name: part.to(x.device) for name, part in given.items()}
    x = x[:1] if "cu_seqlens" in given else x
    with pytest.raises(NothingCapturedError, match=words):
        dsf.inspect(model, x, **given)


def test_a_lower_bound_of_the_decay(layers):
    model, x = build(layers, "hgrn2")
    bound = torch.linspace(0.1, 0.6, 32, device=x.device)
    (layer,) = dsf.inspect(model, x, lower_bound=bound)
    assert layer.error < SINGLE
    assert (layer.mixer.decay.amin(dim=(0, 2)).flatten().cpu() > bound.cpu()).all()


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_the_benchmark_gives_what_the_library_takes(layer):
    made = fla_calls.call(layer())
    assert set(made.arguments) <= set(inspect.signature(made.function).parameters)
