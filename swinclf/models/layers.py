"""The parts ViT and Swin share: patches, the two-layer MLP, layer scale and drop path.

Knows nothing about attention, stages or heads.

Shape letters: N images (or windows), T tokens, C channels, D the MLP's hidden width, A heads, E
channels of a head, H x W pixels, h x w patches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from swinclf.errors import ModelError
from swinclf.models.cpu_kernels import (
    bias_gradient,
    is_eager_cpu,
    is_fused,
    linear,
    product,
    weight_gradient,
)

# The hidden layer of the MLP is four times as wide as its input. Written whole it leaves the caches
# and, above 32 MiB, is memory that the C library asks from the system anew on every call, at more
# than the product costs. In portions of this size it stays in cache, in a buffer that is reused.
_PORTION_BYTES = 6 << 20
_WORTH_PORTIONS = 12 << 20  # values of the hidden layer below which one piece is faster
_WIDEST_PORTIONS = 2048  # wider weights cost more to read again for every portion than is won


def quick_gelu(x: Tensor) -> Tensor:
    """Return x * sigmoid(1.702 x), the cheap GELU of OpenAI's CLIP.

    Source: Gaussian Error Linear Units, Hendrycks & Gimpel 2016, sec. 2.
    """
    return x * torch.sigmoid(1.702 * x)


def gelu_tanh(x: Tensor) -> Tensor:
    """Return GELU by its tanh approximation.

    Source: Gaussian Error Linear Units, Hendrycks & Gimpel 2016, sec. 2.
    """
    return F.gelu(x, approximate="tanh")


def swiglu(x: Tensor) -> Tensor:
    """Return one half of the channels gated by the other, (..., D) -> (..., D / 2).

    Source: GLU Variants Improve Transformer, Shazeer 2020, eq. 5.
    """
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
    "swiglu": swiglu,
}


def merge_heads(x: Tensor) -> Tensor:
    """Put the heads' channels side by side, (N, A, T, E) -> (N, T, A * E).

    What the fused attention returns mostly lies in memory so already; an exported graph must not
    count on that, since another runtime's attention may lay it out otherwise.
    """
    x = x.transpose(1, 2)
    if torch.compiler.is_compiling():
        x = x.clone(memory_format=torch.contiguous_format)
    return x.flatten(2)


class PatchEmbed(nn.Module):
    """Cut the image into patches and map each linearly to a token: one strided convolution.

    Args:
        img_size: Height and width of the images, pixels.
        patch_size: Height and width of a patch, pixels.
        stride: Pixels from one patch to the next; the patch size where patches do not overlap.
        in_chans: Colours an image has.
        width: Channels of a token, C.
        bias: Whether the map has a bias.

    Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021, sec. 3.1, eq. 1.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: tuple[int, int],
        stride: tuple[int, int],
        in_chans: int,
        width: int,
        *,
        bias: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.img_size, self.patch_size = img_size, patch_size
        pairs = zip(img_size, patch_size, stride, strict=True)
        rows, columns = ((size - patch) // step + 1 for size, patch, step in pairs)
        self.grid_size = (rows, columns)
        self.num_patches = rows * columns
        self.proj = nn.Conv2d(in_chans, width, kernel_size=patch_size, stride=stride, bias=bias)
        self.norm = nn.Identity() if norm is None else norm

    def forward(self, x: Tensor) -> Tensor:
        """Map images to their grids of tokens, (N, 3, H, W) -> (N, h, w, C)."""
        if tuple(x.shape[-2:]) != self.img_size:
            raise ModelError(
                f"images of {self.img_size[0]} x {self.img_size[1]} pixels",
                found=f"{x.shape[-2]} x {x.shape[-1]}",
                hint="build the network with img_size set to the size of the images",
            )
        x = x.contiguous(memory_format=torch.channels_last)  # as the norm takes it
        out: Tensor = self.norm(self.proj(x).permute(0, 2, 3, 1))
        return out


def relative_position_index(window: tuple[int, int]) -> Tensor:
    """Return which entry of the bias table holds for each pair of tokens of a window, (T, T).

    Entry (i, j) counts the offsets from token j to token i row by row, from (1 - M, 1 - M).
    M is `window` down and across.

    Source: Swin Transformer, Liu et al. 2021, sec. 3.2, "Relative position bias".
    """
    y, x = torch.arange(window[0]), torch.arange(window[1])
    dy = y[:, None] - y[None, :] + window[0] - 1  # (M, M), from 0 to 2M - 2
    dx = x[:, None] - x[None, :] + window[1] - 1
    index = dy[:, None, :, None] * (2 * window[1] - 1) + dx[None, :, None, :]  # (M, M, M, M)
    area = window[0] * window[1]
    return index.reshape(area, area)


class DropPath(nn.Module):
    """Leave out a residual branch for a random part of the images, in training only.

    Args:
        rate: Fraction of the images whose branch is dropped, in [0, 1).

    Source: Deep Networks with Stochastic Depth, Huang et al. 2016, sec. 3; scaled in training
    instead of after it.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    @property
    def is_idle(self) -> bool:
        """Whether nothing is ever dropped now."""
        return self.rate == 0.0 or not self.training

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch `x` of some images and scale up the others', (N, ...) -> (N, ...)."""
        if self.is_idle:
            return x
        keep = 1.0 - self.rate
        shape = (x.shape[0],) + (1,) * (x.dim() - 1)
        return x * x.new_empty(shape).bernoulli_(keep).div_(keep)


def drop_path_rates(rate: float, depth: int) -> list[float]:
    """Return each block's drop rate: a ramp from 0 at the first block to `rate` at the last.

    Source: Huang et al. 2016, sec. 3, the linear decay rule.
    """
    return [float(value) for value in torch.linspace(0, rate, depth, device="cpu")]


class LayerScale(nn.Module):
    """Multiply each channel of a residual branch by a learned factor that starts small.

    Source: Going Deeper with Image Transformers, Touvron et al. 2021, sec. 2.1.
    """

    def __init__(self, width: int, init: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), init))

    def forward(self, x: Tensor) -> Tensor:
        """Scale the channels, (..., C) -> (..., C)."""
        return x * self.gamma


Bias = TypeVar("Bias", Tensor, Tensor | None)

# Values for each weight from which a norm's scale and shift are cheaper in the weights.
_WORTH_FOLDING = 8


def with_norm(
    norm: nn.LayerNorm | None, x: Tensor, weight: Tensor, bias: Bias
) -> tuple[Tensor, Tensor, Bias]:
    """Return what to give a linear layer that comes after a norm.

    When a CPU learns from many tokens, only their mean and variance are dealt with token by token.
    The norm's scale g and shift s go into the weights, (x g + s) W' + b = x (W g)' + (b + W s), and
    their gradients come out of the weights' instead of all tokens: PyTorch's sums of those take
    longer than the rest of the norm's derivative.

    Args:
        norm: The norm over the last dimension, or None.
        x: Tokens, (..., C).
        weight: Of the layer, (D, C).
        bias: Of the layer, (D,), or None.

    Returns:
        Tokens, weights and bias, of the same shapes.
    """
    if norm is None:
        return x, weight, bias
    learns = torch.is_grad_enabled() and norm.weight.requires_grad and is_eager_cpu(x)
    if bias is None or not learns or x.numel() < _WORTH_FOLDING * weight.numel():
        return norm(x), weight, bias
    x = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    return x, weight * norm.weight, bias + (weight * norm.bias).sum(1)


class Mlp(nn.Module):
    """Two linear layers with an activation between them, token by token.

    Args:
        width: Channels in and out, C.
        hidden: Channels between, D.
        activation: A name of ACTIVATIONS.
        dropout: Fraction of values dropped after each layer in training, in [0, 1).

    Source: Dosovitskiy et al. 2021, eq. 3 and sec. 3.1.
    """

    def __init__(
        self, width: int, hidden: int, activation: str = "gelu", dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden // 2 if activation == "swiglu" else hidden, width)
        self.activation, self.dropout = activation, dropout

    def forward(
        self, x: Tensor, *, norm: nn.LayerNorm | None = None, residual: Tensor | None = None
    ) -> Tensor:
        """Map every token by itself, (..., C) -> (..., C).

        Args:
            x: Tokens, (..., C).
            norm: What they go through first, if anything.
            residual: What the result is added to, (..., C), or None.
        """
        x, weight, bias = with_norm(norm, x, self.fc1.weight, self.fc1.bias)
        dropping = self.training and self.dropout > 0.0
        if self.activation == "gelu" and not dropping and is_eager_cpu(x):
            return gelu_mlp(x, weight, bias, self.fc2.weight, self.fc2.bias, residual)
        hidden = ACTIVATIONS[self.activation](F.linear(x, weight, bias))  # (..., C) -> (..., D)
        hidden = F.dropout(hidden, self.dropout, self.training)
        out = F.dropout(self.fc2(hidden), self.dropout, self.training)  # (..., D) -> (..., C)
        return out if residual is None else residual + out


def gelu_mlp(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None = None
) -> Tensor:
    """Return GELU(x w1' + b1) w2' + b2 (+ residual) without ever holding the whole hidden layer.

    Args:
        x: Tokens, (..., C).
        w1: Weights of the first layer, (D, C).
        b1: Its bias, (D,).
        w2: Weights of the second layer, (C, D).
        b2: Its bias, (C,).
        residual: What the result is added to, (..., C), or None.

    Returns:
        Tokens, (..., C), differentiable in all six arguments.
    """
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        with torch.autocast("cpu", enabled=False):
            x, w1, b1, w2, b2 = (value.to(dtype) for value in (x, w1, b1, w2, b2))
            return gelu_mlp(x, w1, b1, w2, b2, residual)
    if residual is not None and residual.dtype is not x.dtype:
        return gelu_mlp(x, w1, b1, w2, b2) + residual
    values = (x, w1, b1, w2, b2, residual)
    learns = torch.is_grad_enabled() and any(v is not None and v.requires_grad for v in values)
    tokens = x.reshape(-1, x.shape[-1])  # (..., C) -> (T, C)
    added = None if residual is None else residual.reshape(tokens.shape)
    out: Tensor
    in_pieces = tokens.shape[0] * w1.shape[0] >= _WORTH_PORTIONS and w1.shape[0] <= _WIDEST_PORTIONS
    if in_pieces and learns:
        out = _GeluMlp.apply(tokens, w1, b1, w2, b2, added)
    elif in_pieces:
        out = _forward_in_portions(tokens, w1, b1, w2, b2, added)
    elif learns:
        out = linear(F.gelu(linear(tokens, w1, b1)), w2, b2, added)
    else:
        out = _forward(tokens, w1, b1, w2, b2, added)
    return out.view(x.shape)


def _portion(x: Tensor, hidden: int) -> int:
    """Return how many of the tokens `x`, (T, C), to take at a time."""
    return min(x.shape[0], max(1024, _PORTION_BYTES // (hidden * x.element_size())))


def _parts(x: Tensor, size: int) -> tuple[Tensor, ...]:
    """Cut tokens into portions, (T, C) -> (size, C) each, the last may be smaller."""
    return torch.split(x, size)


def _forward(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None
) -> Tensor:
    """Compute the MLP without a derivative, (T, C) -> (T, C)."""
    if is_fused(x):
        return product(product(x, w1, b1, "gelu"), w2, b2, residual=residual)
    return linear(torch.ops.aten.gelu_(F.linear(x, w1, b1)), w2, b2, residual)


def _forward_in_portions(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, residual: Tensor | None
) -> Tensor:
    """Compute the MLP some thousand tokens at a time in one buffer, (T, C) -> (T, C)."""
    size = _portion(x, w1.shape[0])
    parts = _parts(x, size)
    residuals = [None] * len(parts) if residual is None else _parts(residual, size)
    if is_fused(x):
        pairs = zip(parts, residuals, strict=True)
        return torch.cat([_forward(part, w1, b1, w2, b2, added) for part, added in pairs])
    out, buffer = torch.empty_like(x), x.new_empty(size, w1.shape[0])
    for part, added, part_out in zip(parts, residuals, _parts(out, size), strict=True):
        hidden = buffer[: part.shape[0]]
        torch.addmm(b1, part, w1.t(), out=hidden)  # (T, C) -> (T, D)
        torch.addmm(b2, torch.ops.aten.gelu_(hidden), w2.t(), out=part_out)  # (T, D) -> (T, C)
        if added is not None:
            part_out += added
    return out


class _GeluMlp(torch.autograd.Function):
    """The MLP and its derivative: only the input is kept, the hidden layer is computed anew.

    That second product costs less than writing D channels to memory and reading them back.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        w1: Tensor,
        b1: Tensor,
        w2: Tensor,
        b2: Tensor,
        residual: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(x, w1, b1, w2)
        return _forward_in_portions(x, w1, b1, w2, b2, residual)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, w1, b1, w2 = ctx.saved_tensors
        grad, size = grad.contiguous(), _portion(x, w1.shape[0])
        grad_x, grad_b2 = torch.empty_like(x), bias_gradient(grad)
        # Sums over portions are kept in float32: bfloat16 would round at every portion.
        grad_w1, grad_b1, grad_w2 = (torch.zeros_like(w, dtype=torch.float32) for w in (w1, b1, w2))
        buffers = [x.new_empty(size, w1.shape[0]) for _ in range(3)]
        parts = zip(*(_parts(y, size) for y in (x, grad, grad_x)), strict=True)
        for part, part_grad, part_grad_x in parts:
            before, after, slope = (buffer[: part.shape[0]] for buffer in buffers)  # (T, D) each
            if is_fused(x):
                before = product(part, w1, b1)
            else:
                torch.addmm(b1, part, w1.t(), out=before)
            torch.ops.aten.gelu.out(before, out=after)
            grad_w2 += weight_gradient(part_grad, after)
            torch.mm(part_grad, w2, out=after)
            torch.ops.aten.gelu_backward.grad_input(after, before, grad_input=slope)
            grad_w1 += weight_gradient(slope, part)
            grad_b1 += bias_gradient(slope)
            torch.mm(slope, w1, out=part_grad_x)
        grads = (grad_x, grad_w1.to(w1), grad_b1.to(b1), grad_w2.to(w2), grad_b2)
        return *grads, grad if ctx.needs_input_grad[5] else None


def init_linear(module: nn.Module) -> None:
    """Draw a linear layer's weights from a normal distribution cut at two deviations of 0.02.

    Source: as in the papers' published code: DeiT (Touvron et al. 2021) and Swin after it.
    """
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
