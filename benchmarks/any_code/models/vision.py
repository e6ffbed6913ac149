"""Models of images and videos."""

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.any_code.models.entry import Model, built, get, given, numbers

IMAGE = given(numbers(2, 3, 64, 64))
GRID = given(numbers(2, 16, 8, 8))
LAST = ("fc_norm", "head*", "norm", "attn_pool", "global_pool*")


def _timm(name: str, **settings: Any) -> nn.Module:
    model: nn.Module = get("timm:create_model")(name, num_classes=5, **settings)
    return model


def _image(name: str, *, ends: tuple[str, ...] = LAST, **settings: Any) -> Model:
    """A plain transformer of timm."""
    return Model(
        "timm",
        name,
        lambda: _timm(name, img_size=64, embed_dim=32, num_heads=4, **{"depth": 2, **settings}),
        IMAGE,
        source="patch_embed",
        ends=ends,
    )


def _vit(name: str, cls: str, source: str = "to_patch_embedding", **settings: Any) -> Model:
    """A plain transformer of vit-pytorch."""
    usual = {
        "image_size": 64,
        "patch_size": 16,
        "num_classes": 5,
        "dim": 32,
        "depth": 2,
        "heads": 4,
        "mlp_dim": 64,
    }
    return Model(
        "vit-pytorch",
        name,
        lambda: get(f"vit_pytorch.{cls}")(**{**usual, **settings}),
        IMAGE,
        source=source,
        ends=("to_latent", "mlp_head*", "linear_head*", "pool", "to_pred"),
    )


def _stage(name: str, where: str, inputs: Any = GRID, axes: Any = (2, 3), **settings: Any) -> Model:
    """A block of timm on a grid of channels."""
    return Model("timm", name, built(where, **settings), inputs, axes=axes)


def _videos() -> nn.Module:
    """A multiscale transformer of videos that pools keys and values, not tokens."""
    where = "torchvision.models.video.mvit"
    setting = get(f"{where}:MSBlockConfig")(2, 16, 16, [3, 3, 3], [3, 3, 3], [1, 1, 1], [1, 2, 2])
    model: nn.Module = get(f"{where}:MViT")(
        spatial_size=(32, 32),
        temporal_size=4,
        block_setting=[setting, setting],
        residual_pool=False,
        residual_with_cls_embed=True,
        rel_pos_embed=False,
        proj_after_attn=False,
        num_classes=5,
    )
    return model


class Points(nn.Module):
    """The decoder of masks with points of a fixed image."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner
        self.register_buffer("image", numbers(2, 32, 4, 4))

    def forward(self, points: Tensor) -> Any:
        return self.inner(self.image, torch.ones_like(self.image), points)[0]


MODELS = (
    _image("vit_tiny_patch16_224"),
    _image("deit3_small_patch16_224"),
    _image("beit_base_patch16_224"),
    _image("eva02_tiny_patch14_224", patch_size=16),
    _image("cait_xxs24_224", depth=1),
    _image("xcit_nano_12_p16_224", depth=1),
    _image("samvit_base_patch16_224", global_attn_indexes=(0,), ends=("neck*", *LAST)),
    Model(
        "timm",
        "mixer_s16_224",
        built(
            "timm.models.mlp_mixer:MlpMixer",
            img_size=64,
            embed_dim=32,
            num_blocks=1,
            num_classes=5,
        ),
        IMAGE,
        source="stem",
        ends=LAST,
    ),
    Model(
        "timm",
        "convnext block",
        built("timm.models.convnext:ConvNeXtBlock", 16),
        GRID,
        axes=(2, 3),
    ),
    _stage("poolformer block", "timm.models.metaformer:MetaFormerBlock", dim=16),
    _stage(
        "focal modulation",
        "timm.models.focalnet:FocalModulation",
        dim=16,
        focal_window=3,
        focal_level=2,
    ),
    _stage(
        "lambda layer",
        "timm.layers.lambda_layer:LambdaLayer",
        dim=16,
        feat_size=(8, 8),
        num_heads=4,
        dim_head=4,
    ),
    _stage(
        "bottleneck attention",
        "timm.layers.bottleneck_attn:BottleneckAttn",
        dim=16,
        feat_size=(8, 8),
        num_heads=4,
    ),
    _stage(
        "halo attention",
        "timm.layers.halo_attn:HaloAttn",
        dim=16,
        num_heads=4,
        block_size=4,
        halo_size=2,
    ),
    _stage(
        "multi-query attention",
        "timm.layers.attention2d:MultiQueryAttention2d",
        dim=16,
        num_heads=4,
        key_dim=4,
        value_dim=4,
    ),
    _stage(
        "linear attention of EfficientViT",
        "timm.models.efficientvit_mit:LiteMLA",
        in_channels=16,
        out_channels=16,
        dim=8,
        scales=(3,),
    ),
    _stage(
        "window attention of Swin",
        "timm.models.swin_transformer:SwinTransformerBlock",
        given(numbers(2, 8, 8, 16)),
        (1, 2),
        dim=16,
        input_resolution=(8, 8),
        num_heads=4,
        window_size=4,
        shift_size=2,
    ),
    _stage(
        "window attention of Swin-2",
        "timm.models.swin_transformer_v2:SwinTransformerV2Block",
        given(numbers(2, 8, 8, 16)),
        (1, 2),
        dim=16,
        input_resolution=(8, 8),
        num_heads=4,
        window_size=4,
    ),
    _stage(
        "outlook attention of VOLO",
        "timm.models.volo:OutlookAttention",
        given(numbers(2, 8, 8, 16)),
        (1, 2),
        dim=16,
        num_heads=4,
    ),
    Model(
        "torchvision",
        "VisionTransformer",
        built(
            "torchvision.models.vision_transformer:VisionTransformer",
            64,
            16,
            2,
            4,
            32,
            64,
            num_classes=5,
        ),
        IMAGE,
        source="conv_proj",
        axes=(2, 3),
        ends=("heads*",),
    ),
    Model(
        "torchvision",
        "SwinTransformerBlock",
        built("torchvision.models.swin_transformer:SwinTransformerBlock", 16, 4, [4, 4], [2, 2]),
        given(numbers(2, 8, 8, 16)),
        axes=(1, 2),
    ),
    Model(
        "torchvision",
        "SwinTransformerBlockV2",
        built("torchvision.models.swin_transformer:SwinTransformerBlockV2", 16, 4, [4, 4], [0, 0]),
        given(numbers(2, 8, 8, 16)),
        axes=(1, 2),
    ),
    Model(
        "torchvision",
        "PartitionAttentionLayer of MaxViT",
        lambda: get("torchvision.models.maxvit:PartitionAttentionLayer")(
            16, 4, 4, "window", (8, 8), 2, nn.GELU, nn.LayerNorm, 0.0, 0.0, 0.0
        ),
        GRID,
        axes=(2, 3),
    ),
    _vit("ViT", "vit:ViT"),
    _vit("SimpleViT", "simple_vit:SimpleViT"),
    _vit("DeepViT", "deepvit:DeepViT"),
    _vit("ViT for small data", "vit_for_small_dataset:ViT"),
    _vit("parallel ViT", "parallel_vit:ViT"),
    _vit("SimpleViT, queries and keys normed", "simple_vit_with_qk_norm:SimpleViT"),
    _vit("SimpleViT, register tokens", "simple_vit_with_register_tokens:SimpleViT"),
    _vit("SimpleViT, value residual", "simple_vit_with_value_residual:SimpleViT"),
    _vit("SimpleViT, Fourier features", "simple_vit_with_fft:SimpleViT", freq_patch_size=16),
    _vit("learnable memories", "learnable_memory_vit:ViT"),
    _vit("CaiT", "cait:CaiT", cls_depth=1),
    _vit("XCiT", "xcit:XCiT", cls_depth=1, local_patch_kernel_size=3),
    _vit("RvT", "rvt:RvT"),
    _vit("NormalizedViT", "normalized_vit:nViT"),
    Model(
        "vit-pytorch",
        "CCT",
        built(
            "vit_pytorch.cct:CCT",
            img_size=32,
            embedding_dim=32,
            n_conv_layers=1,
            num_layers=2,
            num_heads=4,
            mlp_ratio=2.0,
            num_classes=5,
        ),
        given(numbers(2, 3, 32, 32)),
        source="tokenizer",
        ends=("classifier.attention_pool", "classifier.fc"),
    ),
    Model(
        "vit-pytorch",
        "CrossFormer attention",
        built("vit_pytorch.crossformer:Attention", 16, "short", 4, dim_head=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "Twins local attention",
        built("vit_pytorch.twins_svt:LocalAttention", 16, heads=4, dim_head=4, patch_size=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "Twins global attention",
        built("vit_pytorch.twins_svt:GlobalAttention", 16, heads=4, dim_head=4, k=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "CvT attention",
        built("vit_pytorch.cvt:Attention", 16, 3, 2, heads=4, dim_head=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "LeViT attention",
        built("vit_pytorch.levit:Attention", 16, 8, heads=4, dim_key=4, dim_value=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "SepViT attention",
        built("vit_pytorch.sep_vit:DSSA", 16, heads=4, dim_head=4, window_size=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "vit-pytorch",
        "ScalableViT attention",
        built(
            "vit_pytorch.scalable_vit:ScalableSelfAttention",
            16,
            heads=4,
            dim_key=4,
            dim_value=4,
            reduction_factor=2,
        ),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "swin-transformer-pytorch",
        "SwinBlock, shifted",
        built(
            "swin_transformer_pytorch.swin_transformer:SwinBlock",
            16,
            4,
            4,
            32,
            shifted=True,
            window_size=4,
            relative_pos_embedding=True,
        ),
        given(numbers(2, 8, 8, 16)),
        axes=(1, 2),
    ),
    Model(
        "axial-attention",
        "AxialAttention",
        built("axial_attention:AxialAttention", dim=16, heads=4, dim_index=1, num_dimensions=2),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "bottleneck-transformer-pytorch",
        "Attention",
        built(
            "bottleneck_transformer_pytorch.bottleneck_transformer_pytorch:Attention",
            dim=16,
            fmap_size=(8, 8),
            heads=4,
            dim_head=4,
        ),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "lambda-networks",
        "LambdaLayer",
        built("lambda_networks:LambdaLayer", 16, dim_k=8, r=3, heads=4),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "mlp-mixer-pytorch",
        "MLPMixer",
        built(
            "mlp_mixer_pytorch:MLPMixer",
            image_size=64,
            channels=3,
            patch_size=16,
            dim=32,
            depth=1,
            num_classes=5,
        ),
        IMAGE,
        source="1",
        ends=("4", "5"),
    ),
    Model(
        "res-mlp-pytorch",
        "ResMLP",
        built(
            "res_mlp_pytorch:ResMLP", image_size=64, patch_size=16, dim=32, depth=1, num_classes=5
        ),
        IMAGE,
        source="1",
        ends=("4", "5"),
    ),
    Model(
        "glom-pytorch",
        "Glom",
        built("glom_pytorch:Glom", dim=16, levels=3, image_size=32, patch_size=8),
        given(numbers(2, 3, 32, 32), iters=1),
        source="image_to_tokens",
    ),
    Model(
        "segment-anything",
        "ImageEncoderViT",
        built(
            "segment_anything.modeling:ImageEncoderViT",
            img_size=64,
            patch_size=8,
            embed_dim=32,
            depth=2,
            num_heads=4,
            out_chans=16,
            use_rel_pos=True,
            window_size=4,
            global_attn_indexes=(1,),
        ),
        IMAGE,
        source="patch_embed",
        axes=(1, 2),
        ends=("neck*",),
    ),
    Model(
        "segment-anything",
        "TwoWayTransformer",
        lambda: Points(
            get("segment_anything.modeling:TwoWayTransformer")(
                depth=1, embedding_dim=32, num_heads=4, mlp_dim=64
            )
        ),
        given(numbers(2, 5, 32)),
    ),
    Model(
        "open-clip-torch",
        "VisionTransformer",
        built(
            "open_clip.transformer:VisionTransformer",
            image_size=64,
            patch_size=16,
            width=32,
            layers=2,
            heads=4,
            mlp_ratio=2.0,
            output_dim=16,
        ),
        IMAGE,
        source="conv1",
        axes=(2, 3),
        ends=("ln_post",),
    ),
    Model(
        "denoising-diffusion-pytorch",
        "LinearAttention",
        built(
            "denoising_diffusion_pytorch.denoising_diffusion_pytorch:LinearAttention",
            16,
            heads=4,
            dim_head=4,
        ),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "denoising-diffusion-pytorch",
        "Attention",
        built(
            "denoising_diffusion_pytorch.denoising_diffusion_pytorch:Attention",
            16,
            heads=4,
            dim_head=4,
        ),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "diffusers",
        "DiT block",
        built("diffusers.models.attention:BasicTransformerBlock", 32, 4, 8),
        given(numbers(2, 24, 32)),
    ),
    Model(
        "diffusers",
        "attention of the VAE",
        built(
            "diffusers.models.attention_processor:Attention",
            16,
            heads=1,
            dim_head=16,
            norm_num_groups=4,
            residual_connection=True,
            bias=True,
            _from_deprecated_attn_block=True,
        ),
        GRID,
        axes=(2, 3),
    ),
    Model(
        "torchvision",
        "SwinTransformer",
        built(
            "torchvision.models.swin_transformer:SwinTransformer",
            [4, 4],
            16,
            [2, 1],
            [2, 4],
            [4, 4],
            stochastic_depth_prob=0.0,
            num_classes=5,
        ),
        given(numbers(2, 3, 32, 32)),
        source="features.0",
        axes=(1, 2),
        ends=("norm",),
        further=(("features.2", (1, 2)),),
    ),
    Model(
        "torchvision",
        "SwinTransformer3d",
        built(
            "torchvision.models.video.swin_transformer:SwinTransformer3d",
            [2, 4, 4],
            16,
            [2],
            [2],
            [2, 4, 4],
            stochastic_depth_prob=0.0,
            num_classes=5,
        ),
        given(numbers(1, 3, 8, 32, 32)),
        source="patch_embed",
        axes=(1, 2, 3),
        ends=("norm",),
    ),
    Model(
        "torchvision",
        "MViT of videos",
        _videos,
        given(numbers(1, 3, 4, 32, 32)),
        source="pos_encoding",
        ends=("norm",),
    ),
)
