"""Vision Transformer, in the order of its paper: embeddings, encoder, blocks, attention.

A plain reference implementation; `models/accelerated` computes the same faster. Parameters are
named as in timm, so state dicts are interchangeable.

Shape letters: N images, H x W pixels, h x w patches, P tokens before the patches (class,
distillation, registers), T = P + h * w tokens, C channels, A heads, E channels of a head, K
classes.

Equations of the paper: eq. 1 ViT.embed, eqs. 2 and 3 Block.forward, eq. 4 ViT.forward_head, eqs. 5
to 8 Attention.forward.

Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.models.layers import (
    DropPath,
    LayerScale,
    Mlp,
    PatchEmbed,
    drop_path_rates,
    init_linear,
    merge_heads,
    split_heads,
)

PoolKind = Literal["token", "avg", "flatten"]
HeadKind = Literal["linear", "mlp"]
ActivationKind = Literal["gelu", "gelu_tanh", "quick_gelu", "swiglu"]  # the keys of ACTIVATIONS


@dataclass(frozen=True)
class ViTConfig:
    """A Vision Transformer's shape. The defaults are ViT-B/16."""

    img_size: tuple[int, int] = (224, 224)
    """Height and width of the images, pixels."""
    patch_size: int = 16
    """Side of a patch, pixels."""
    num_classes: int = 1000
    """Classes K of the head; 0 builds none."""
    embed_dim: int = 768
    """Channels C of a token."""
    depth: int = 12
    """Encoder blocks."""
    num_heads: int = 12
    """Heads A of the attention."""
    head_dim: int | None = None
    """Channels E of a head; None: C / A."""
    mlp_ratio: float = 4.0
    """Width of the MLP's hidden layer over that of its input."""
    activation: ActivationKind = "gelu"
    """The MLP's activation."""
    mlp_final_activation: bool = False
    """Whether the MLP's second layer has an activation, too."""
    qkv_bias: bool = True
    """Whether queries, keys and values have a bias."""
    layer_scale: float | None = None
    """Initial value of the factors on each residual branch; None: no factors."""
    class_token: bool = True
    """Whether a learned token precedes the patches."""
    distilled: bool = False
    """Whether a second such token has its own head (DeiT); the logits are the mean of the two."""
    reg_tokens: int = 0
    """Register tokens, whose outputs are ignored."""
    no_embed_class: bool = False
    """Whether the table of positions is only for the patches, not for the tokens before them."""
    pre_norm: bool = False
    """Whether tokens are layer-normalised before the blocks (CLIP), without a patch bias."""
    final_norm: bool = True
    """Whether tokens are layer-normalised after the blocks."""
    fc_norm: bool | None = None
    """Whether that norm comes after the pooling; None: if the pooling is the mean."""
    pool: PoolKind = "token"
    """Input of the head: the class token, the mean of the patches (avg), all patches (flatten)."""
    head: HeadKind = "linear"
    """linear; hidden layers with GELU + linear (mlp)."""
    head_hidden: tuple[int, ...] = ()
    """Widths of the head's hidden layers."""
    head_dropout: float = 0.0
    """Fraction dropped before and inside the head in training, in [0, 1)."""
    attn_dropout: float = 0.0
    """Fraction of the attention weights dropped in training, in [0, 1)."""
    mlp_dropout: float = 0.0
    """Fraction dropped after MLP layers in training, in [0, 1)."""
    drop_path: float = 0.0
    """Drop rate of the last block's branches, in [0, 1); the first block's is 0."""
    norm_eps: float = 1e-6
    """Added to the variance in layer norms."""

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens before the patches, P."""
        return int(self.class_token) + int(self.distilled) + self.reg_tokens


class ViT(nn.Module):
    """Vision Transformer image classifier: sec. 3.1, fig. 1."""

    head: nn.Module
    head_dist: nn.Module

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config, self.num_features = config, config.embed_dim
        self.patch_embed = PatchEmbed(
            config.img_size, config.patch_size, config.embed_dim, bias=not config.pre_norm
        )
        self.cls_token = self._token(int(config.class_token))
        self.reg_token = self._token(config.reg_tokens)
        self.num_prefix_tokens = config.prefix_tokens
        self.no_embed_class = config.no_embed_class
        prefix = 0 if config.no_embed_class else config.prefix_tokens
        positions = prefix + self.patch_embed.num_patches  # sec. 3.1 and appendix D.4
        self.pos_embed = nn.Parameter(torch.empty(1, positions, config.embed_dim))
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        self.dist_token = self._token(int(config.distilled), std=0.02)
        self.norm_pre = self._norm(config.pre_norm)
        rates = drop_path_rates(config.drop_path, config.depth)
        self.blocks = nn.Sequential(*(Block(config, rate) for rate in rates))
        fc_norm = config.pool == "avg" if config.fc_norm is None else config.fc_norm
        self.norm = self._norm(config.final_norm and not fc_norm)
        self.fc_norm = self._norm(config.final_norm and fc_norm)
        self._add_head()
        self.apply(init_linear)

    def _norm(self, wanted: bool) -> nn.Module:
        config = self.config
        return nn.LayerNorm(config.embed_dim, config.norm_eps) if wanted else nn.Identity()

    def _token(self, count: int, std: float = 1e-6) -> nn.Parameter | None:
        empty = torch.empty(1, count, self.num_features)
        return nn.Parameter(nn.init.normal_(empty, std=std)) if count else None

    def _add_head(self) -> None:
        """Add the hidden layers of the head, then the classifier."""
        config, width, hidden = self.config, self.num_features, self.config.head_hidden
        if config.pool == "flatten":
            width *= self.patch_embed.num_patches
        self.head_drop = nn.Dropout(config.head_dropout)
        self.pre_logits: nn.Module = nn.Identity()
        if config.head != "linear":
            self.pre_logits = HeadHidden(width, hidden, config.head_dropout)
            width = hidden[-1]
        self.head_hidden_size = width
        self.reset_classifier(config.num_classes)

    def embed(self, x: Tensor) -> Tensor:
        """Prepend the learned tokens and add positions, (N, h, w, C) -> (N, P + h * w, C).

        Source: sec. 3.1, eq. 1.
        """
        x = x.flatten(1, 2)  # (N, h, w, C) -> (N, h * w, C)
        if self.no_embed_class:
            x = x + self.pos_embed
        prefix = (self.cls_token, self.dist_token, self.reg_token)
        tokens = [token.expand(x.shape[0], -1, -1) for token in prefix if token is not None]
        if tokens:
            x = torch.cat((*tokens, x), dim=1)  # (N, h * w, C) -> (N, T, C)
        return x if self.no_embed_class else x + self.pos_embed

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the encoder's tokens, (N, 3, H, W) -> (N, T, C)."""
        x = self.norm_pre(self.embed(self.patch_embed(x)))
        out: Tensor = self.norm(self.blocks(x))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify, (N, T, C) -> (N, K), or return the last layer's input.

        Source: sec. 3.1, eq. 4; the distillation token's head: Training data-efficient image
        transformers, Touvron et al. 2021, sec. 4.
        """
        if self.config.distilled:
            x, distilled = self.head_drop(x[:, 0]), self.head_drop(x[:, 1])
            if not pre_logits:
                x, distilled = self.head(x), self.head_dist(distilled)
            mean: Tensor = (x + distilled) / 2
            return mean
        if self.config.pool == "token":
            x = x[:, 0]  # (N, T, C) -> (N, C)
        else:
            x = x[:, self.num_prefix_tokens :]  # (N, T, C) -> (N, h * w, C)
            x = x.mean(1) if self.config.pool == "avg" else x
        x = self.fc_norm(x)
        if self.config.pool == "flatten":
            x = x.flatten(1)  # (N, h * w, C) -> (N, h * w * C)
        x = self.pre_logits(self.head_drop(x))
        logits: Tensor = x if pre_logits else self.head(x)
        return logits

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of images, (N, 3, H, W) -> (N, K)."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module | tuple[nn.Module, nn.Module]:
        """Return the layer that computes the logits, with distillation both of them."""
        return (self.head, self.head_dist) if self.config.distilled else self.head

    def reset_classifier(self, num_classes: int) -> None:
        """Replace the classifier by a new one, initialised by torch's default; 0 for none."""
        self.num_classes = num_classes
        for name in ("head", "head_dist") if self.config.distilled else ("head",):
            layer: nn.Module = nn.Identity()
            if num_classes:
                layer = nn.Linear(self.head_hidden_size, num_classes)
            setattr(self, name, layer.to(self.patch_embed.proj.weight))

    def no_weight_decay(self) -> set[str]:
        """Return the parameters excluded from weight decay: tokens and positions."""
        return {"pos_embed", "cls_token", "reg_token", "dist_token"}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002 - one way only
        """Return patterns that group parameters by depth: stem, blocks, head."""
        stem = r"^cls_token|reg_token|dist_token|pos_embed|patch_embed|norm_pre"
        return {"stem": stem, "blocks": [(r"^blocks\.(\d+)", None), (r"^norm", (99999,))]}


class HeadHidden(nn.Module):
    """The layers between pooled features and classifier."""

    def __init__(self, width: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        widths, self.dropout = (width, *hidden), dropout
        self.names = [f"fc{i + 1}" for i in range(len(hidden))]
        for name, wide, narrow in zip(self.names, widths, hidden, strict=False):
            self.add_module(name, nn.Linear(wide, narrow))

    def forward(self, x: Tensor) -> Tensor:
        """Run the hidden layers, (N, C) -> (N, last hidden width)."""
        for name in self.names:
            x = F.dropout(F.gelu(self.get_submodule(name)(x)), self.dropout, self.training)
        return x


class Block(nn.Module):
    """An encoder block, sec. 3.1: attention and MLP, each after a norm and with a residual."""

    def __init__(self, config: ViTConfig, drop_path: float) -> None:
        super().__init__()
        width, scale = config.embed_dim, config.layer_scale
        self.norm1 = nn.LayerNorm(width, config.norm_eps)
        self.attn = Attention(config)
        self.ls1 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.norm2 = nn.LayerNorm(width, config.norm_eps)
        hidden = int(width * config.mlp_ratio)
        self.mlp = Mlp(width, hidden, config.activation, config.mlp_dropout)
        self.mlp.is_activated_twice = config.mlp_final_activation
        self.ls2 = nn.Identity() if scale is None else LayerScale(width, scale)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """Mix tokens, then channels, (N, T, C) -> (N, T, C)."""
        x = x + self.drop_path(self.ls1(self.attn(self.norm1(x))))
        out: Tensor = x + self.drop_path(self.ls2(self.mlp(self.norm2(x))))
        return out


class Attention(nn.Module):
    """Multi-head self-attention of all tokens: appendix A, eqs. 5 to 8."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, self.heads = config.embed_dim, config.num_heads
        each, self.attn_dropout = config.head_dim or width // self.heads, config.attn_dropout
        self.qkv = nn.Linear(width, 3 * self.heads * each, bias=config.qkv_bias)
        self.proj = nn.Linear(self.heads * each, width)

    def forward(self, x: Tensor) -> Tensor:
        """Let every token attend to every token, (N, T, C) -> (N, T, C)."""
        q, k, v = split_heads(self.qkv(x), self.heads)  # (N, A, T, E) each
        rate = self.attn_dropout if self.training else 0.0
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=rate)
        out: Tensor = self.proj(merge_heads(x))
        return out
