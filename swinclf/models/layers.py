"""Layers shared by ViT and Swin: patches, the two-layer MLP, heads, layer scale and drop path.

Shape letters: N images, T tokens, C channels, D the MLP's hidden width, A heads, E channels of a
head, H x W pixels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.errors import ModelError


class PatchEmbed(nn.Module):
    """Linear map of each patch of an image to a token: one strided convolution.

    Args:
        img_size: Height and width of the images, pixels.
        patch_size: Side of a patch, pixels.
        width: Channels of a token, C.
        bias: Whether the map has a bias.
        norm: Applied to the tokens, or None.

    Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021, sec. 3.1, eq. 1.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        width: int,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, (patch_size, patch_size)
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.num_patches = self.grid_size[0] * self.grid_size[1]
        self.proj = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size, bias=bias)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """Map images to their grids of tokens, (N, 3, H, W) -> (N, h, w, C)."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise ModelError(
                f"images of {self.img_size[0]} x {self.img_size[1]} pixels",
                found=f"{x.shape[-2]} x {x.shape[-1]}",
                hint="build the network with img_size set to the size of the images",
            )
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the approximation of GELU in OpenAI's CLIP."""
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU by its tanh approximation."""
    return F.gelu(x, approximate="tanh")


def swiglu(x: Tensor) -> Tensor:
    """Return one half of the channels gated by the other, (..., D) -> (..., D / 2)."""
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


# Sources: Gaussian Error Linear Units, Hendrycks & Gimpel 2016, sec. 2; swiglu: GLU Variants
# Improve Transformer, Shazeer 2020, eq. 5.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


class Mlp(nn.Module):
    """Two linear layers with an activation between them, token by token.

    Args:
        width: Channels in and out, C.
        hidden: Channels between, D.
        activation: A name of ACTIVATIONS.
        dropout: Fraction of values dropped after each layer in training, in [0, 1).

    Source: Dosovitskiy et al. 2021, sec. 3.1, eq. 3.
    """

    def __init__(
        self, width: int, hidden: int, activation: str = "gelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden // 2 if activation == "swiglu" else hidden, width)
        self.activation, self.dropout = activation, dropout
        self.is_activated_twice = False  # after the second layer, too

    def forward(self, x: Tensor) -> Tensor:
        """Map every token by itself, (..., C) -> (..., C)."""
        hidden = ACTIVATIONS[self.activation](self.fc1(x))  # (..., C) -> (..., D)
        out = self.fc2(F.dropout(hidden, self.dropout, self.training))  # (..., D) -> (..., C)
        out = ACTIVATIONS[self.activation](out) if self.is_activated_twice else out
        return F.dropout(out, self.dropout, self.training)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values of each head, (N, T, 3 * A * E) -> (N, A, T, E) each."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return q, k, v


def merge_heads(x: Tensor) -> Tensor:
    """Concatenate the heads' channels, (N, A, T, E) -> (N, T, A * E)."""
    x = x.transpose(1, 2)  # mostly contiguous now, which an exported graph must not rely on
    if torch.compiler.is_compiling():
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


class DropPath(nn.Module):
    """Stochastic depth: a residual branch is dropped for random images, in training only.

    Args:
        rate: Fraction of the images whose branch is dropped, in [0, 1).

    Source: Deep Networks with Stochastic Depth, Huang et al. 2016, sec. 3; scaled in training
    during training rather than at test time.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch `x` of some images and scale up the others', (N, ...) -> (N, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return each block's drop rate: a ramp from 0 at the first block to `rate` at the last.

    Source: Huang et al. 2016, sec. 3, the linear decay rule.
    """
    return [rate * block / max(1, depth - 1) for block in range(depth)]


class LayerScale(nn.Module):
    """Learned factor of each channel: CaiT, Touvron et al. 2021, sec. 2.1."""

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels, (..., C) -> (..., C)."""
        return x * self.gamma


def init_linear(module: nn.Module) -> None:
    """Draw a linear layer's weights from a normal distribution cut at two deviations of 0.02.

    Source: as in the papers' published code: DeiT (Touvron et al. 2021) and Swin after it.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
