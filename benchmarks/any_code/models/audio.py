"""Models of speech and sound: waveforms, spectra, and tokens of text that are spoken."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import Model, built, get, given, ids, numbers

SPECTRA = numbers(2, 20, 16)
FRAMES = given(SPECTRA)
LENGTHS = torch.tensor([20, 20])
LIST, LAST_AXIS = (1,), (2,)


class Positioned(nn.Module):
    """An encoder of speechbrain with its relative positions."""

    def __init__(self, inner: nn.Module, width: int):
        super().__init__()
        self.inner = inner
        self.positions = get("speechbrain.nnet.attention:RelPosEncXL")(width)

    def forward(self, frames: Tensor) -> Any:
        return self.inner(frames, pos_embs=self.positions(frames))[0]


class Attending(nn.Module):
    """Attention of speechbrain of a sequence to itself."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, frames: Tensor) -> Any:
        return self.inner(frames, frames, frames)[0]


def _torchaudio(
    name: str,
    inputs: Any,
    source: str | None = None,
    axes: tuple[int, ...] = LIST,
    ends: tuple[str, ...] = (),
    **settings: Any,
) -> Model:
    build = built(f"torchaudio.models:{name}", **settings)
    return Model("torchaudio", name, build, inputs, source, axes=axes, ends=ends)


def _speechbrain(
    name: str,
    where: str,
    inputs: Any = FRAMES,
    source: str | None = None,
    axes: tuple[int, ...] = LIST,
    ends: tuple[str, ...] = (),
    **settings: Any,
) -> Model:
    return Model(
        "speechbrain",
        name,
        built(f"speechbrain.{where}", **settings),
        inputs,
        source,
        axes=axes,
        ends=ends,
    )


def _waves(**settings: Any) -> nn.Module:
    """wav2vec 2 with narrow layers."""
    model: nn.Module = get("torchaudio.models:wav2vec2_model")(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(16, 4, 2), (16, 2, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
        **settings,
    )
    return model


def _wavlm() -> nn.Module:
    """WavLM, whose attention has a gated relative bias."""
    model: nn.Module = get("torchaudio.models:wavlm_model")(
        extractor_mode="layer_norm",
        extractor_conv_layer_config=[(16, 4, 2), (16, 2, 2)],
        extractor_conv_bias=False,
        encoder_embed_dim=16,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=4,
        encoder_pos_conv_groups=2,
        encoder_num_layers=2,
        encoder_num_heads=2,
        encoder_num_buckets=8,
        encoder_max_distance=16,
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=32,
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=False,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    return model


def _dual_path(block: str) -> nn.Module:
    """A separator of speakers, over chunks and within them."""
    where = "speechbrain.lobes.models.dual_path"
    if block == "SBTransformerBlock":
        settings: dict[str, Any] = {"num_layers": 1, "d_model": 16, "nhead": 2, "d_ffn": 32}
    else:
        settings = {"input_size": 16, "hidden_channels": 8, "num_layers": 1, "rnn_type": "LSTM"}
    inner, across = (get(f"{where}:{block}")(**settings) for _ in range(2))
    model: nn.Module = get(f"{where}:Dual_Path_Model")(
        in_channels=16, out_channels=16, intra_model=inner, inter_model=across, K=8
    )
    return model


def _segmented() -> nn.Module:
    """A separator of segments, which exchange their means."""
    where = "speechbrain.lobes.models.resepformer"
    inner, across = (
        get(f"{where}:SBTransformerBlock_wnormandskip")(
            num_layers=1, d_model=16, nhead=2, d_ffn=32, causal=False, norm_type="cln"
        )
        for _ in range(2)
    )
    model: nn.Module = get(f"{where}:ResourceEfficientSeparator")(
        input_dim=16,
        unit=8,
        segment_size=6,
        mem_type="av",
        layer=2,
        causal=False,
        seg_model=inner,
        mem_model=across,
    )
    return model


def _conformer(kind: str) -> nn.Module:
    where = "speechbrain.lobes.models.transformer"
    if kind == "Conformer":
        inner = get(f"{where}.Conformer:ConformerEncoder")(
            num_layers=1, d_model=16, d_ffn=32, nhead=2, kernel_size=5
        )
    else:
        inner = get(f"{where}.Branchformer:BranchformerEncoder")(
            num_layers=1, d_model=16, nhead=2, kernel_size=5, csgu_linear_units=32
        )
    return Positioned(inner, 16)


MODELS = (
    _torchaudio(
        "Conformer",
        given(SPECTRA, LENGTHS),
        input_dim=16,
        num_heads=2,
        ffn_dim=32,
        num_layers=1,
        depthwise_conv_kernel_size=5,
    ),
    _torchaudio(
        "Emformer",
        given(SPECTRA, LENGTHS - 2),
        input_dim=16,
        num_heads=2,
        ffn_dim=32,
        num_layers=1,
        segment_length=6,
        left_context_length=3,
        right_context_length=2,
    ),
    Model(
        "torchaudio",
        "wav2vec 2",
        _waves,
        given(numbers(2, 80)),
        source="feature_extractor",
    ),
    Model(
        "torchaudio",
        "WavLM",
        _wavlm,
        given(numbers(2, 80)),
        source="feature_extractor",
    ),
    _torchaudio(
        "Tacotron2",
        given(ids(12, 2, 20), torch.tensor([12, 12]), numbers(2, 8, 10), torch.tensor([10, 10])),
        n_mels=8,
        n_symbol=20,
        symbol_embedding_dim=16,
        encoder_embedding_dim=16,
        encoder_n_convolution=1,
        encoder_kernel_size=3,
        decoder_rnn_dim=16,
        attention_rnn_dim=16,
        attention_hidden_dim=8,
        attention_location_n_filter=4,
        attention_location_kernel_size=5,
        prenet_dim=16,
        postnet_n_convolution=2,
        postnet_kernel_size=3,
        postnet_embedding_dim=16,
    ),
    _torchaudio(
        "WaveRNN",
        given(numbers(2, 1, 24), numbers(2, 1, 8, 10)),
        axes=LAST_AXIS,
        upsample_scales=[2, 2],
        n_classes=8,
        hop_length=4,
        n_res_block=1,
        n_rnn=16,
        n_fc=16,
        n_freq=8,
        n_hidden=8,
        n_output=8,
    ),
    _torchaudio(
        "ConvTasNet",
        given(numbers(2, 1, 64)),
        "encoder",
        LAST_AXIS,
        enc_kernel_size=4,
        enc_num_feats=8,
        msk_num_feats=8,
        msk_num_hidden_feats=8,
        msk_num_layers=2,
        msk_num_stacks=1,
        ends=("decoder",),
    ),
    _torchaudio(
        "HDemucs",
        given(numbers(1, 2, 1024)),
        axes=LAST_AXIS,
        ends=("freq_encoder.0",),
        sources=["a", "b"],
        channels=4,
        nfft=64,
        depth=3,
        dconv_attn=2,
        dconv_lstm=2,
        norm_groups=2,
        kernel_size=8,
    ),
    _torchaudio("DeepSpeech", given(numbers(2, 1, 20, 8)), axes=(2,), n_feature=8, n_hidden=16),
    Model("speechbrain", "Conformer", lambda: _conformer("Conformer"), FRAMES),
    Model("speechbrain", "Branchformer", lambda: _conformer("Branchformer"), FRAMES),
    Model(
        "speechbrain",
        "Sepformer",
        lambda: _dual_path("SBTransformerBlock"),
        given(numbers(2, 16, 32)),
        axes=LAST_AXIS,
    ),
    Model(
        "speechbrain",
        "dual-path LSTM",
        lambda: _dual_path("SBRNNBlock"),
        given(numbers(2, 16, 32)),
        axes=LAST_AXIS,
    ),
    _speechbrain(
        "light GRU",
        "nnet.RNN:LiGRU",
        hidden_size=8,
        input_shape=(2, 20, 16),
        normalization="layernorm",
    ),
    _speechbrain("SLi-GRU", "nnet.RNN:SLiGRU", hidden_size=8, input_shape=(2, 20, 16)),
    _speechbrain("quasi-recurrence", "nnet.RNN:QuasiRNN", hidden_size=8, input_shape=(2, 20, 16)),
    _speechbrain(
        "complex LSTM", "nnet.complex_networks.c_RNN:CLSTM", hidden_size=4, input_shape=(2, 20, 16)
    ),
    _speechbrain(
        "quaternion LSTM",
        "nnet.quaternion_networks.q_RNN:QLSTM",
        hidden_size=2,
        input_shape=(2, 20, 16),
        autograd=True,
    ),
    Model(
        "speechbrain",
        "HyperMixing",
        lambda: Attending(
            get("speechbrain.nnet.hypermixing:HyperMixing")(
                input_output_dim=16, hypernet_size=16, num_heads=2
            )
        ),
        FRAMES,
    ),
    _speechbrain(
        "ECAPA-TDNN",
        "lobes.models.ECAPA_TDNN:ECAPA_TDNN",
        ends=("asp*",),
        input_size=16,
        channels=[16, 16, 32],
        kernel_sizes=[5, 3, 1],
        dilations=[1, 2, 1],
        groups=[1, 1, 1],
        attention_channels=8,
        res2net_scale=4,
        se_channels=8,
        lin_neurons=8,
    ),
    _speechbrain(
        "mask network of Conv-TasNet",
        "lobes.models.conv_tasnet:MaskNet",
        given(numbers(2, 8, 20)),
        axes=LAST_AXIS,
        N=8,
        B=8,
        H=8,
        P=3,
        X=2,
        R=1,
        C=2,
        norm_type="cLN",
        causal=True,
    ),
    _speechbrain(
        "transformer of a language model",
        "lobes.models.transformer.TransformerLM:TransformerLM",
        given(ids()),
        vocab=50,
        d_model=16,
        nhead=2,
        num_encoder_layers=2,
        d_ffn=32,
    ),
    _speechbrain(
        "transformer of speech and text",
        "lobes.models.transformer.TransformerASR:TransformerASR",
        given(SPECTRA, ids(8)),
        tgt_vocab=50,
        input_size=16,
        d_model=16,
        nhead=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        d_ffn=32,
        causal=False,
    ),
    Model(
        "speechbrain",
        "resource-efficient Sepformer",
        _segmented,
        given(numbers(2, 16, 24)),
        axes=LAST_AXIS,
    ),
)
