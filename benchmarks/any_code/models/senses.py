"""Models of transformers for images, videos, sound, and for several kinds of input at once."""

from typing import Any

import torch
from torch import nn

from benchmarks.any_code.models.entry import TOKENS, WORDS, Model, given, ids, numbers
from benchmarks.any_code.models.library import BERT, LAYERS, TWO_STACKS, made

IMAGE, WAVE = numbers(2, 3, 32, 32), numbers(2, 400)
WORDS_OF_IMAGE = {"vocab_size": WORDS, "max_position_embeddings": 32, **LAYERS}
PATCHES = {"image_size": 32, "patch_size": 8, **LAYERS}
SOUND = {
    "conv_dim": [16, 16],
    "conv_stride": [5, 2],
    "conv_kernel": [10, 3],
    "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4,
    **LAYERS,
}
STAGES = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 16, 16],
    "depths": [1, 1, 1, 1],
    "layer_type": "basic",
}


def _seen(what: str, build: Any, inputs: Any, source: str | None, **where: Any) -> Model:
    """A model of transformers whose tokens a module of its own makes, unless there is none."""
    return Model("transformers", what, build, inputs, source=source, **where)


def _sam() -> nn.Module:
    return made(
        "Sam",
        vision_config={
            "image_size": 64,
            "patch_size": 16,
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "output_channels": 16,
            "window_size": 3,
            "global_attn_indexes": [1],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )


def _two(name: str, head: str = "Model", **settings: Any) -> nn.Module:
    """A model of a text and an image."""
    return made(
        name,
        head,
        text_config={**WORDS_OF_IMAGE, "eos_token_id": 1, "bos_token_id": 0, **settings},
        vision_config=PATCHES,
        projection_dim=32,
    )


def _mask2former() -> nn.Module:
    return made(
        "Mask2Former",
        backbone_config={**STAGES, "out_features": ["stage1", "stage2", "stage3", "stage4"]},
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=32,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=32,
        num_queries=5,
    )


def _of_part(name: str, part: str, **settings: Any) -> nn.Module:
    """A module of a model."""
    return made(name, **settings).get_submodule(part)


MODELS = (
    _seen(
        "CLIP, a text and an image",
        lambda: _two("CLIP"),
        given(ids(16), IMAGE),
        None,
        ends=("text_projection", "text_model.final_layer_norm"),
    ),
    _seen(
        "OWL-ViT, boxes of an image for texts",
        lambda: _two("OwlViT", "ForObjectDetection"),
        given(ids(16), IMAGE),
        "owlvit.vision_model.embeddings",
        ends=("owlvit.vision_model.post_layernorm",),
    ),
    _seen(
        "BLIP, a text that looks at an image",
        lambda: made(
            "Blip",
            "ForImageTextRetrieval",
            text_config={**WORDS_OF_IMAGE, "encoder_hidden_size": 32},
            vision_config=PATCHES,
            image_text_hidden_size=16,
        ),
        given(ids(16), IMAGE),
        None,
        ends=("itm_head",),
    ),
    _seen(
        "wav2vec 2.0",
        lambda: made("Wav2Vec2", **SOUND),
        given(WAVE),
        "feature_projection",
    ),
    _seen(
        "WavLM, gated relative positions",
        lambda: made("WavLM", **SOUND, num_buckets=16, max_bucket_distance=32),
        given(WAVE),
        "feature_projection",
    ),
    _seen(
        "wav2vec BERT, a conformer with relative keys",
        lambda: made(
            "Wav2Vec2Bert",
            **LAYERS,
            feature_projection_input_dim=16,
            conv_depthwise_kernel_size=5,
            left_max_position_embeddings=4,
            right_max_position_embeddings=4,
        ),
        given(numbers(2, TOKENS, 16)),
        None,
    ),
    _seen(
        "Whisper",
        lambda: made(
            "Whisper",
            vocab_size=WORDS,
            num_mel_bins=8,
            **TWO_STACKS,
            max_source_positions=TOKENS,
            max_target_positions=16,
            pad_token_id=0,
            bos_token_id=0,
            eos_token_id=0,
            decoder_start_token_id=1,
        ),
        given(input_features=numbers(2, 8, 2 * TOKENS), decoder_input_ids=ids(9)),
        "encoder.conv2",
        axes=(2,),
    ),
    _seen(
        "VideoMAE",
        lambda: made("VideoMAE", **PATCHES, num_frames=4),
        given(numbers(2, 4, 3, 32, 32)),
        "embeddings",
    ),
    _seen(
        "TimeSformer, time and space in turn",
        lambda: made("Timesformer", **PATCHES, num_frames=3),
        given(numbers(2, 3, 3, 32, 32)),
        "embeddings",
    ),
    _seen(
        "DETR",
        lambda: made(
            "Detr",
            **TWO_STACKS,
            num_queries=5,
            backbone_config={**STAGES, "out_features": ["stage4"]},
        ),
        given(numbers(2, 3, 96, 96)),
        "input_projection",
        axes=(2, 3),
    ),
    _seen(
        "Conditional DETR",
        lambda: made(
            "ConditionalDetr",
            **TWO_STACKS,
            num_queries=5,
            backbone_config={**STAGES, "out_features": ["stage4"]},
        ),
        given(numbers(2, 3, 96, 96)),
        "input_projection",
        axes=(2, 3),
    ),
    _seen(
        "Deformable DETR",
        lambda: made(
            "DeformableDetr",
            **TWO_STACKS,
            num_queries=5,
            num_feature_levels=2,
            encoder_n_points=2,
            decoder_n_points=2,
            backbone_config={**STAGES, "out_features": ["stage4"]},
        ),
        given(numbers(2, 3, 96, 96)),
        "input_proj.0",
        axes=(2, 3),
    ),
    _seen(
        "Mask2Former",
        _mask2former,
        given(numbers(2, 3, 64, 64)),
        "pixel_level_module.decoder.input_projections.0",
        axes=(2, 3),
    ),
    _seen(
        "SegFormer",
        lambda: made(
            "Segformer",
            num_encoder_blocks=2,
            depths=[1, 1],
            sr_ratios=[2, 1],
            hidden_sizes=[16, 32],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[2, 4],
            mlp_ratios=[2, 2],
        ),
        given(numbers(2, 3, 32, 32)),
        "stages.0.patch_embeddings",
        ends=("stages.1.patch_embeddings",),
    ),
    _seen(
        "SAM, points in an image",
        _sam,
        given(pixel_values=numbers(2, 3, 64, 64), input_points=torch.rand(2, 1, 2, 2) * 60),
        "vision_encoder.patch_embed",
        axes=(1, 2),
    ),
    _seen(
        "VITS, encoder of a text",
        lambda: _of_part(
            "Vits", "text_encoder", **LAYERS, vocab_size=WORDS, ffn_dim=64, window_size=3
        ),
        given(ids(), torch.ones(2, TOKENS, 1)),
        None,
    ),
    _seen(
        "LXMERT, words and regions",
        lambda: made("Lxmert", **BERT, l_layers=1, x_layers=1, r_layers=1, visual_feat_dim=16),
        given(ids(), numbers(2, 6, 16), torch.rand(2, 6, 4)),
        None,
        ends=("pooler",),
    ),
    _seen(
        "EnCodec, encoder with an LSTM",
        lambda: _of_part(
            "Encodec",
            "encoder",
            hidden_size=16,
            num_filters=4,
            upsampling_ratios=[4, 2],
            num_lstm_layers=2,
        ),
        given(numbers(2, 1, 192)),
        "layers.9",
        axes=(2,),
    ),
    _seen(
        "SpeechT5, encoder of a text",
        lambda: made(
            "SpeechT5",
            "ForTextToSpeech",
            vocab_size=WORDS,
            hidden_size=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            num_mel_bins=8,
            speech_decoder_prenet_units=16,
            speech_decoder_postnet_units=16,
            speaker_embedding_dim=16,
        ),
        given(
            input_ids=ids(),
            decoder_input_values=numbers(2, 9, 8),
            speaker_embeddings=numbers(2, 16),
        ),
        None,
    ),
)
