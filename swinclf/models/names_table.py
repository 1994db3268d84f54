"""The published names that this package's own networks express: shapes and data, as tables.

Knows nothing of how a network is built. A name says most of it itself,
`vit_<size>_patch<side>_<kind>_<pixels>`: the size and the kind are looked up here, and what neither
tells stands in EXCEPTIONS.
"""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]

# Size: channels, blocks, heads. Sources: An Image is Worth 16x16 Words, table 1; Scaling Vision
# Transformers, Zhai et al. 2022, table 2; Getting ViT in Shape, Alabdulmohsin et al. 2023 (so...).
SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "xsmall": (256, 10, 4),
    "wee": (256, 14, 4),
    "little": (320, 14, 5),
    "small": (384, 12, 6),
    "medium": (512, 12, 8),
    "mediumd": (512, 20, 8),
    "betwixt": (640, 12, 10),
    "base": (768, 12, 12),
    "so150m": (896, 18, 14),
    "so150m2": (832, 21, 13),
    "large": (1024, 24, 16),
    "intern300m": (1024, 24, 16),
    "so400m": (1152, 27, 16),
    "huge": (1280, 32, 16),
    "giant": (1408, 40, 16),
    "giantopt": (1536, 40, 16),
    "gigantic": (1664, 48, 16),
}

# Width of the MLP's hidden layer over C, where it is not 4.
MLP_RATIOS: dict[str, float] = {
    "wee": 5.0,
    "little": 5.6,
    "so150m": 2.572,
    "so150m2": 2.6153846153846154,
    "so400m": 3.7362,
    "giant": 48 / 11,
    "gigantic": 64 / 13,
}

_MEAN: Fields = {"class_token": False, "pool": "avg"}
_CLIP: Fields = {"pre_norm": True, "norm_eps": 1e-5}
_PLUS: Fields = {"embed_dim": 896, "num_heads": 14}
_DEIT3: Fields = {"no_embed_class": True, "layer_scale": 1e-6}
_DINO_GIANT: Fields = {
    "embed_dim": 1536,
    "num_heads": 24,
    "mlp_ratio": 5.33334,
    "activation": "swiglu",
}

KINDS: dict[str, Fields] = {
    "": {},
    "distilled": {"distilled": True},
    "miil": {"qkv_bias": False},
    "plus": {**_PLUS, "layer_scale": 1e-5},
    "36x1": {"depth": 36, "layer_scale": 1e-5},
    "gap": {**_MEAN, "fc_norm": False},
    "clip": _CLIP,
    "plus_clip": {**_PLUS, **_CLIP},
    "clip_quickgelu": {**_CLIP, "activation": "quick_gelu"},
    "siglip_gap": {**_MEAN, "fc_norm": False},
    "reg1_gap": {**_MEAN, "no_embed_class": True, "layer_scale": 1e-5, "reg_tokens": 1},
    "reg4_gap": {**_MEAN, "no_embed_class": True, "layer_scale": 1e-5, "reg_tokens": 4},
    "dinov2": {"layer_scale": 1e-5},
    "reg4_dinov2": {"no_embed_class": True, "layer_scale": 1e-5, "reg_tokens": 4},
    "reg1_tipsv2": {"no_embed_class": True, "layer_scale": 1.0, "reg_tokens": 1},
    "deit3": _DEIT3,
}

_TANH: Fields = {"activation": "gelu_tanh"}
_NO_BIAS: Fields = {"qkv_bias": False, "layer_scale": 1e-6}
_SO150M: Fields = {"layer_scale": None, "no_embed_class": False, "fc_norm": False}
_SO150M2: Fields = {"qkv_bias": False, "no_embed_class": False}

EXCEPTIONS: dict[str, Fields] = {
    "vit_medium_patch16_gap_240": _NO_BIAS,
    "vit_medium_patch16_gap_256": _NO_BIAS,
    "vit_medium_patch16_gap_384": _NO_BIAS,
    "vit_betwixt_patch16_gap_256": _NO_BIAS,
    "vit_base_patch16_gap_224": {"num_heads": 16},
    "vit_giant_patch14_dinov2": _DINO_GIANT,
    "vit_giant_patch14_reg4_dinov2": _DINO_GIANT,
    "vit_giant_patch14_reg1_tipsv2": _DINO_GIANT,
    "vit_base_patch32_siglip_gap_256": _TANH,
    "vit_large_patch16_siglip_gap_512": _TANH,
    "vit_so400m_patch16_siglip_gap_256": _TANH,
    "vit_so400m_patch16_siglip_gap_384": _TANH,
    "vit_so400m_patch16_siglip_gap_512": _TANH,
    "vit_giantopt_patch16_siglip_gap_256": _TANH,
    "vit_giantopt_patch16_siglip_gap_384": _TANH,
    "vit_base_patch16_reg4_gap_256": {"layer_scale": None},
    "vit_so150m_patch16_reg4_gap_256": _SO150M,
    "vit_so150m_patch16_reg4_gap_384": _SO150M,
    "vit_so150m2_patch16_reg1_gap_256": _SO150M2,
    "vit_so150m2_patch16_reg1_gap_384": _SO150M2,
    "vit_so150m2_patch16_reg1_gap_448": _SO150M2,
    "vit_intern300m_patch14_448": {"layer_scale": 0.1, "final_norm": False},
}

_T: Fields = {"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24)}
_S: Fields = {**_T, "depths": (2, 2, 18, 2)}
_B: Fields = {"embed_dim": 128, "depths": (2, 2, 18, 2), "num_heads": (4, 8, 16, 32)}
_L: Fields = {"embed_dim": 192, "depths": (2, 2, 18, 2), "num_heads": (6, 12, 24, 48)}

# Sources: Swin Transformer, sec. 3.3; for s3, Searching the Search Space of Vision Transformer,
# Chen et al. 2021.
SWINS: dict[str, Fields] = {
    "swin_tiny_patch4_window7_224": _T,
    "swin_small_patch4_window7_224": _S,
    "swin_base_patch4_window7_224": _B,
    "swin_base_patch4_window12_384": {**_B, "window_size": 12},
    "swin_large_patch4_window7_224": _L,
    "swin_large_patch4_window12_384": {**_L, "window_size": 12},
    "swin_s3_tiny_224": {**_T, "window_size": (7, 7, 14, 7)},
    "swin_s3_small_224": {**_S, "window_size": (14, 14, 14, 7)},
    "swin_s3_base_224": {**_T, "depths": (2, 2, 30, 2), "window_size": (7, 7, 14, 7)},
}

NORMALISATIONS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "none": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}

# Every name with its published weights, the default first. A tag reads
# tag/normalisation/crop fraction[/classes][/squash][/bilinear][@pixels], where 1000 classes, a
# centre crop, bicubic and the pixels of the name go without saying. With a minus in front, no
# weights are published on the hub.
TAGS = """
vit_tiny_patch16_224: augreg_in21k_ft_in1k/half/0.9 augreg_in21k/half/0.9/21843
vit_tiny_patch16_384: augreg_in21k_ft_in1k/half/1
vit_small_patch32_224: augreg_in21k_ft_in1k/half/0.9 augreg_in21k/half/0.9/21843
vit_small_patch32_384: augreg_in21k_ft_in1k/half/1
vit_small_patch16_224: augreg_in21k_ft_in1k/half/0.9 augreg_in1k/half/0.9
  augreg_in21k/half/0.9/21843 dino/imagenet/0.9/0
vit_small_patch16_384: augreg_in21k_ft_in1k/half/1 augreg_in1k/half/1
vit_small_patch8_224: dino/imagenet/0.9/0
vit_base_patch32_224: augreg_in21k_ft_in1k/half/0.9 augreg_in1k/half/0.9 orig_in21k/half/0.9/0
  augreg_in21k/half/0.9/21843 sam_in1k/half/0.9
vit_base_patch32_384: augreg_in21k_ft_in1k/half/1 augreg_in1k/half/1
vit_base_patch16_224: augreg2_in21k_ft_in1k/half/0.9 augreg_in21k_ft_in1k/half/0.9
  orig_in21k_ft_in1k/half/0.9 augreg_in1k/half/0.9 orig_in21k/half/0.9/0
  augreg_in21k/half/0.9/21843 sam_in1k/half/0.9 bamboo/clip/1/115217 dino/imagenet/0.9/0
  mae/imagenet/0.9/0
vit_base_patch16_384: augreg_in21k_ft_in1k/half/1 orig_in21k_ft_in1k/half/1 augreg_in1k/half/1
vit_base_patch8_224: augreg2_in21k_ft_in1k/half/0.9 augreg_in21k_ft_in1k/half/0.9
  augreg_in21k/half/0.9/21843 dino/imagenet/0.9/0
vit_large_patch32_224: orig_in21k/half/0.9/0
vit_large_patch32_384: orig_in21k_ft_in1k/half/1
vit_large_patch16_224: augreg_in21k_ft_in1k/half/0.9 orig_in21k/half/0.9/0
  augreg_in21k/half/0.9/21843 mae/imagenet/0.9/0
vit_large_patch16_384: augreg_in21k_ft_in1k/half/1
vit_large_patch14_224: -untrained/half/0.9
vit_huge_patch14_224: orig_in21k/half/0.9/0 -untrained/half/0.9 mae/imagenet/0.9/0
vit_giant_patch14_224: -untrained/half/0.9
vit_gigantic_patch14_224: -untrained/half/0.9
vit_base_patch16_224_miil: in21k/none/0.875/11221/bilinear in21k_ft_in1k/none/0.875/bilinear
vit_medium_patch16_gap_240: sw_in12k/half/0.95/11821
vit_medium_patch16_gap_256: sw_in12k_ft_in1k/half/0.95
vit_medium_patch16_gap_384: sw_in12k_ft_in1k/half/0.95/squash
vit_betwixt_patch16_gap_256: -untrained/half/0.95
vit_base_patch16_gap_224: -untrained/half/0.9
vit_huge_patch14_gap_224: -in1k_ijepa/imagenet/0.9/0 -in22k_ijepa/imagenet/0.9/0
vit_huge_patch16_gap_448: -in1k_ijepa/imagenet/1/0
vit_giant_patch16_gap_224: -in22k_ijepa/imagenet/0.9/0
vit_xsmall_patch16_clip_224: tinyclip_yfcc15m/clip/0.9/512
vit_medium_patch32_clip_224: tinyclip_laion400m/clip/0.9/512
vit_medium_patch16_clip_224: tinyclip_yfcc15m/clip/0.9/512
vit_betwixt_patch32_clip_224: tinyclip_laion400m/clip/0.9/512
vit_base_patch32_clip_224: laion2b_ft_in12k_in1k/clip/0.9 -openai_ft_in12k_in1k/clip/0.9
  laion2b_ft_in1k/clip/0.9 openai_ft_in1k/clip/0.9 laion2b/clip/0.9/512 laion400m_e32/clip/0.9/512
  datacompxl/clip/1/512 metaclip_2pt5b/clip/1/512 metaclip_400m/clip/1/512 openai/clip/0.9/512
vit_base_patch32_clip_256: datacompxl/clip/1/512
vit_base_patch32_clip_384: laion2b_ft_in12k_in1k/clip/1 openai_ft_in12k_in1k/clip/0.95/squash
vit_base_patch32_clip_448: laion2b_ft_in12k_in1k/clip/1
vit_base_patch16_clip_224: laion2b_ft_in12k_in1k/clip/0.95 openai_ft_in12k_in1k/clip/0.95
  laion2b_ft_in1k/clip/1 openai_ft_in1k/clip/0.9 laion2b_ft_in12k/clip/0.9/11821
  openai_ft_in12k/clip/0.9/11821 laion2b/clip/1/512 laion400m_e32/clip/1/512 datacompxl/clip/1/512
  dfn2b/clip/1/512 metaclip_2pt5b/clip/1/512 metaclip_400m/clip/1/512 openai/clip/0.9/512
vit_base_patch16_clip_384: laion2b_ft_in12k_in1k/clip/1/squash
  openai_ft_in12k_in1k/clip/0.95/squash laion2b_ft_in1k/clip/1/squash openai_ft_in1k/clip/1/squash
vit_base_patch16_plus_clip_240: laion400m_e32/clip/1/640
vit_large_patch14_clip_224: laion2b_ft_in12k_in1k/half/1 openai_ft_in12k_in1k/clip/1
  laion2b_ft_in1k/half/1 openai_ft_in1k/clip/1 laion2b_ft_in12k/half/1/11821
  openai_ft_in12k/clip/1/11821 laion2b/half/1/768 laion400m_e32/clip/1/768 datacompxl/clip/1/768
  dfn2b_s39b/clip/1/768 dfn2b/clip/1/768 metaclip_2pt5b/clip/1/768 metaclip_400m/clip/1/768
  openai/clip/1/768 apple_mclip2_dfndr2b/clip/1/768
vit_large_patch14_clip_336: laion2b_ft_in12k_in1k/half/1/squash openai_ft_in12k_in1k/clip/1/squash
  laion2b_ft_in1k/half/1/squash openai/clip/1/768
vit_huge_patch14_clip_224: laion2b_ft_in12k_in1k/clip/1 laion2b_ft_in1k/clip/1
  laion2b_ft_in12k/clip/1/11821 laion2b/clip/1/1024 dfn5b/clip/1/1024
  metaclip2_worldwide/clip/1/1024 metaclip_2pt5b/clip/1/1024 metaclip_altogether/clip/1/1024
vit_huge_patch14_clip_336: laion2b_ft_in12k_in1k/clip/1/squash -laion2b_ft_in1k/clip/1/squash
vit_huge_patch14_clip_378: dfn5b/clip/1/1024 metaclip2_worldwide/clip/1/1024/squash
vit_giant_patch14_clip_224: laion2b/clip/1/1024
vit_gigantic_patch14_clip_224: laion2b/clip/1/1280 metaclip2_worldwide/clip/1/1280
  metaclip_2pt5b/clip/1/1280
vit_gigantic_patch14_clip_378: metaclip2_worldwide/clip/1/1280/squash
vit_base_patch32_clip_quickgelu_224: laion400m_e32/clip/0.9/512 metaclip_2pt5b/clip/1/512
  metaclip_400m/clip/1/512 openai/clip/0.9/512
vit_base_patch16_clip_quickgelu_224: metaclip_2pt5b/clip/1/512 metaclip_400m/clip/1/512
  openai/clip/0.9/512
vit_large_patch14_clip_quickgelu_224: dfn2b/clip/1/768 metaclip_2pt5b/clip/1/768
  metaclip_400m/clip/1/768 openai/clip/1/768
vit_large_patch14_clip_quickgelu_336: openai/clip/1/768
vit_huge_patch14_clip_quickgelu_224: dfn5b/clip/1/1024 metaclip2_worldwide/clip/1/1024
  metaclip_2pt5b/clip/1/1024
vit_huge_patch14_clip_quickgelu_378: dfn5b/clip/1/1024
vit_gigantic_patch14_clip_quickgelu_224: metaclip_2pt5b/clip/1/1280
vit_base_patch32_plus_256: -untrained/half/0.95
vit_base_patch16_plus_240: -untrained/half/0.95
vit_small_patch16_36x1_224: -untrained/half/0.9
vit_small_patch14_dinov2: lvd142m/imagenet/1/0@518
vit_base_patch14_dinov2: lvd142m/imagenet/1/0@518
vit_large_patch14_dinov2: lvd142m/imagenet/1/0@518
vit_giant_patch14_dinov2: lvd142m/imagenet/1/0@518
vit_small_patch14_reg4_dinov2: lvd142m/imagenet/1/0@518
vit_base_patch14_reg4_dinov2: lvd142m/imagenet/1/0@518
vit_large_patch14_reg4_dinov2: lvd142m/imagenet/1/0@518
vit_giant_patch14_reg4_dinov2: lvd142m/imagenet/1/0@518
vit_base_patch14_reg1_tipsv2: webli/none/1/0@448
vit_large_patch14_reg1_tipsv2: webli/none/1/0@448
vit_so400m_patch14_reg1_tipsv2: webli/none/1/0@448
vit_giant_patch14_reg1_tipsv2: webli/none/1/0@448
vit_base_patch32_siglip_gap_256: v2_webli/half/0.9/0
vit_base_patch16_siglip_gap_224: v2_webli/half/0.9/0 webli/half/0.9/0
vit_base_patch16_siglip_gap_256: v2_webli/half/0.9/0 webli/half/0.9/0 webli_i18n/half/0.9/0
vit_base_patch16_siglip_gap_384: v2_webli/half/0.9/0 webli/half/0.9/0
vit_base_patch16_siglip_gap_512: v2_webli/half/0.9/0 webli/half/0.9/0
vit_large_patch16_siglip_gap_256: v2_webli/half/0.9/0 webli/half/0.9/0
vit_large_patch16_siglip_gap_384: v2_webli/half/0.9/0 webli/half/0.9/0
vit_large_patch16_siglip_gap_512: v2_webli/half/0.9/0
vit_so400m_patch14_siglip_gap_224: v2_webli/half/0.9/0 webli/half/0.9/0 pali_mix/half/0.9/0
  pali_pt/half/0.9/0 pali2_3b_pt/half/0.9/0 pali2_10b_pt/half/0.9/0
vit_so400m_patch14_siglip_gap_378: v2_webli/half/0.9/0 webli/half/1/0 webli_ft_in1k/half/1/squash
vit_so400m_patch14_siglip_gap_384: webli/half/1/0
vit_so400m_patch14_siglip_gap_448: pali_mix/half/1/0 pali_pt/half/1/0 pali_refcoco_seg/half/1/0
  pali_ocrvqa/half/1/0 pali2_3b_pt/half/1/0 pali2_10b_pt/half/1/0 pali2_3b_docci/half/1/0
  pali2_10b_docci/half/1/0
vit_so400m_patch14_siglip_gap_896: pali_pt/half/1/0 pali_refcoco_seg/half/1/0 pali_ocrvqa/half/1/0
  pali2_3b_pt/half/1/0 pali2_10b_pt/half/1/0
vit_so400m_patch16_siglip_gap_256: v2_webli/half/0.9/0 webli_i18n/half/0.9/0
vit_so400m_patch16_siglip_gap_384: v2_webli/half/0.9/0
vit_so400m_patch16_siglip_gap_512: v2_webli/half/0.9/0
vit_giantopt_patch16_siglip_gap_256: v2_webli/half/0.9/0
vit_giantopt_patch16_siglip_gap_384: v2_webli/half/0.9/0
vit_wee_patch16_reg1_gap_256: sbb_in1k/half/0.95
vit_little_patch16_reg1_gap_256: sbb_in12k_ft_in1k/half/0.95 sbb_in12k/half/0.95/11821
vit_little_patch16_reg4_gap_256: sbb_in1k/half/0.95
vit_medium_patch16_reg1_gap_256: sbb_in1k/half/0.95
vit_medium_patch16_reg4_gap_256: sbb_in12k_ft_in1k/half/0.95 sbb_in1k/half/0.95
  sbb_in12k/half/0.95/11821
vit_mediumd_patch16_reg4_gap_256: sbb2_e200_in12k_ft_in1k/half/0.95 sbb_in12k_ft_in1k/half/0.95
  sbb2_e200_in12k/half/0.95/11821 sbb_in12k/half/0.95/11821
vit_mediumd_patch16_reg4_gap_384: sbb2_e200_in12k_ft_in1k/half/1
vit_betwixt_patch16_reg1_gap_256: sbb_in1k/half/0.95
vit_betwixt_patch16_reg4_gap_256: sbb2_e200_in12k_ft_in1k/half/0.95 sbb_in12k_ft_in1k/half/0.95
  sbb_in1k/half/0.95 sbb2_e200_in12k/half/0.95/11821 sbb_in12k/half/0.95/11821
vit_betwixt_patch16_reg4_gap_384: sbb2_e200_in12k_ft_in1k/half/1
vit_base_patch16_reg4_gap_256: -untrained/half/0.9
vit_so150m_patch16_reg4_gap_256: sbb_e250_in12k_ft_in1k/half/0.95 sbb_e250_in12k/half/0.95/11821
vit_so150m_patch16_reg4_gap_384: sbb_e250_in12k_ft_in1k/half/1
vit_so150m2_patch16_reg1_gap_256: sbb_e200_in12k_ft_in1k/half/1 sbb_e200_in12k/half/1/11821
vit_so150m2_patch16_reg1_gap_384: sbb_e200_in12k_ft_in1k/half/1
vit_so150m2_patch16_reg1_gap_448: sbb_e200_in12k_ft_in1k/half/1/squash
vit_intern300m_patch14_448: ogvl_dist/imagenet/1/0 ogvl_2pt5/imagenet/1/0
deit_tiny_patch16_224: fb_in1k/imagenet/0.9
deit_small_patch16_224: fb_in1k/imagenet/0.9
deit_base_patch16_224: fb_in1k/imagenet/0.9
deit_base_patch16_384: fb_in1k/imagenet/1
deit_tiny_distilled_patch16_224: fb_in1k/imagenet/0.9
deit_small_distilled_patch16_224: fb_in1k/imagenet/0.9
deit_base_distilled_patch16_224: fb_in1k/imagenet/0.9
deit_base_distilled_patch16_384: fb_in1k/imagenet/1
deit3_small_patch16_224: fb_in1k/imagenet/0.9 fb_in22k_ft_in1k/imagenet/1
deit3_small_patch16_384: fb_in1k/imagenet/1 fb_in22k_ft_in1k/imagenet/1
deit3_medium_patch16_224: fb_in1k/imagenet/0.9 fb_in22k_ft_in1k/imagenet/1
deit3_base_patch16_224: fb_in1k/imagenet/0.9 fb_in22k_ft_in1k/imagenet/1
deit3_base_patch16_384: fb_in1k/imagenet/1 fb_in22k_ft_in1k/imagenet/1
deit3_large_patch16_224: fb_in1k/imagenet/0.9 fb_in22k_ft_in1k/imagenet/1
deit3_large_patch16_384: fb_in1k/imagenet/1 fb_in22k_ft_in1k/imagenet/1
deit3_huge_patch14_224: fb_in1k/imagenet/0.9 fb_in22k_ft_in1k/imagenet/1
swin_tiny_patch4_window7_224: ms_in1k/imagenet/0.9 ms_in22k_ft_in1k/imagenet/0.9
  ms_in22k/imagenet/0.9/21841
swin_small_patch4_window7_224: ms_in22k_ft_in1k/imagenet/0.9 ms_in1k/imagenet/0.9
  ms_in22k/imagenet/0.9/21841
swin_base_patch4_window7_224: ms_in22k_ft_in1k/imagenet/0.9 ms_in1k/imagenet/0.9
  ms_in22k/imagenet/0.9/21841
swin_base_patch4_window12_384: ms_in22k_ft_in1k/imagenet/1 ms_in1k/imagenet/1
  ms_in22k/imagenet/1/21841
swin_large_patch4_window7_224: ms_in22k_ft_in1k/imagenet/0.9 ms_in22k/imagenet/0.9/21841
swin_large_patch4_window12_384: ms_in22k_ft_in1k/imagenet/1 ms_in22k/imagenet/1/21841
swin_s3_tiny_224: ms_in1k/imagenet/0.9
swin_s3_small_224: ms_in1k/imagenet/0.9
swin_s3_base_224: ms_in1k/imagenet/0.9
"""
