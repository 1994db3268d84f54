"""Attention and saliency: attention weights of every block, rollout, and gradient attribution.

PyTorch's fused attention never returns its weights. Here they are recomputed from a block's
parameters and its input, so the networks stay fast.

Shape letters: T tokens, P tokens before the patches, h x w patches or tokens of a stage,
C channels, A heads, E channels of a head, B windows, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeGuard

import torch
from torch import Tensor, nn

from swinclf.models.compute import is_convolutional
from swinclf.models.layers import split_heads
from swinclf.models.swin import Swin, SwinBlock, from_windows, to_windows
from swinclf.models.vit import Block, ViT

SMOOTHING_COPIES = 8
SMOOTHING_NOISE = 0.15  # of the image's range


@dataclass(frozen=True)
class BlockAttention:
    """Attention weights of one block for one image."""

    name: str  # of the block in the state dict, e.g. layers.0.blocks.1
    stage: int  # from 0; always 0 in a ViT
    is_shifted: bool  # whether its windows are shifted
    weights: Tensor  # (A, T, T), or (B, A, T, T) in windows; each row sums to 1
    # attention that each token receives per head, relative to a uniform share, (A, h, w); mean over
    # a window's queries, in a ViT over the tokens that are pooled
    received: Tensor
    distance_px: Tensor  # mean attention distance of each head, pixels, (A,)


@dataclass(frozen=True)
class Evidence:
    """Attribution of a class score to tokens and pixels.

    The score is the class's logit minus the mean logit, since a constant added to all logits
    changes no probability.
    """

    target: int
    logits: Tensor  # of all classes, (K,)
    # gradient times activation, summed over channels, of each token, (h, w); positive values
    # support the class, negative ones oppose it
    cells: Tensor
    # magnitude of the score's gradient at each pixel, (H, W), averaged over noisy copies
    pixels: Tensor
    where: str  # the attributed layer, in words
    units: str = "tokens"  # meaning of a cell: tokens, or positions in a feature map


def attention_weights(block: nn.Module, x: Tensor) -> Tensor:
    """Return the attention weights of a block of either network; rows sum to 1.

    `x` is the block's input for one image, (1, T, C) -> (A, T, T), or (1, h, w, C) -> (B, A, T, T).

    Source: Attention Is All You Need, Vaswani et al. 2017, eq. 1; Swin Transformer, Liu et al.
    2021, eq. 4.
    """
    assert isinstance(block, Block | SwinBlock)
    tokens = block.norm1(x)
    if isinstance(block, SwinBlock):
        tokens = to_windows(block.shifted(tokens), block.window)[0]
    q, k, _ = split_heads(block.attn.qkv(tokens), block.attn.heads)  # (1 or B, A, T, E) each
    if isinstance(block, Block):
        q, k = q[0], k[0]
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if isinstance(block, SwinBlock):
        scores = scores + block.attn.position_bias()
        if block.attn_mask is not None:
            scores = scores + block.attn_mask[:, None]
    attention: Tensor = scores.softmax(-1)
    return attention


@torch.no_grad()
def compute_attention(network: ViT | Swin, image: Tensor) -> list[BlockAttention]:
    """Return the attention of every block, in order, for a preprocessed image, (1, 3, H, W)."""
    found = []
    for name, block, x in _block_inputs(network, image):
        weights = attention_weights(block, x)
        if isinstance(block, SwinBlock):
            stage = int(name.split(".")[1])
            token_px = network.patch_embed.patch_size[0] * 2**stage
            real = to_windows(block.shifted(torch.ones(1, *block.grid, 1)), block.window)[0]
            real = real[:, None, :, 0]  # (B, 1, T): 0 for padding, whose attention nothing reads
            given = (weights * real[..., None]).sum(2) / real.sum(-1, keepdim=True)
            given = given * weights.shape[-1]  # (B, A, T): 1 is a uniform share
            received = torch.stack([_unshifted(block, head) for head in given.unbind(1)])
            distance = (_distance(weights, block.window) * real).sum((0, 2)) / real.sum() * token_px
            is_shifted = any(block.shift)
        else:
            assert isinstance(network, ViT)
            stage, is_shifted, prefix = 0, False, network.num_prefix_tokens
            grid = network.patch_embed.grid_size
            given = pooling_weights(network) @ weights * weights.shape[-1]  # (A, T)
            received = given[:, prefix:].reshape(-1, *grid)
            among = weights[:, prefix:, prefix:]
            among = among / among.sum(-1, keepdim=True)
            distance = _distance(among, grid).mean(-1) * network.config.patch_size
        found.append(BlockAttention(name, stage, is_shifted, weights, received, distance))
    return found


def pooling_weights(network: ViT) -> Tensor:
    """Return the weight of each token in the head's input, (T,).

    One for the class token, a half each with distillation, otherwise uniform over the patches.
    """
    config, patches = network.config, network.patch_embed.num_patches
    shares = torch.zeros(config.prefix_tokens + patches)
    if config.distilled:
        shares[:2] = 0.5
    elif config.pool == "token":
        shares[0] = 1
    else:
        shares[config.prefix_tokens :] = 1 / patches
    return shares


def attention_rollout(network: ViT | Swin, found: list[BlockAttention]) -> Tensor:
    """Return the contribution of each patch to the head's input by attention rollout.

    Half of a token passes through the residual connection, half through the attention, heads
    averaged. In a Swin the shares are traced through windows and shifts, and a merged token's share
    is divided equally among its four parts. The shares of the patches, (h, w), sum to 1.

    Source: Quantifying Attention Flow in Transformers, Abnar & Zuidema 2020, sec. 3, "Attention
    rollout"; computed backwards from the head, with vectors instead of matrices.
    """
    if isinstance(network, ViT):
        shares = pooling_weights(network)
        for one in reversed(found):
            shares = (shares + shares @ one.weights.mean(0)) / 2
        shares = shares[network.num_prefix_tokens :].view(network.patch_embed.grid_size)
        return shares / shares.sum()
    return _swin_rollout(network, found)


def _swin_rollout(network: Swin, found: list[BlockAttention]) -> Tensor:
    """Trace shares from the mean of the last stage to the patches, (h, w)."""
    waiting = list(found)
    grids = [swin_blocks(stage)[0].grid for stage in network.layers]
    shares = torch.ones(grids[-1])
    for index in reversed(range(len(grids))):
        for block in reversed(swin_blocks(network.layers[index])):
            cut = to_windows(block.shifted(shares[None, :, :, None]), block.window)[0, :, :, 0]
            weights = waiting.pop().weights.mean(1)  # (B, A, T, T) -> (B, T, T)
            attended = torch.einsum("bq,bqk->bk", cut, weights)
            shares = (shares + _unshifted(block, attended)) / 2
        if index:
            height, width = grids[index - 1]
            parts = shares.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
            shares = parts[:height, :width]  # an odd side was padded before merging
    return shares / shares.sum()


def compute_evidence(network: nn.Module, image: Tensor, target: int | None = None) -> Evidence:
    """Return the attribution of a class score to the parts of a preprocessed image, (1, 3, H, W).

    Attributed are the last tokens of a Swin or of a ViT with mean pooling, the last feature map of
    a convolutional network, and the input of the last block of a ViT that pools only its class
    token. In a Swin, and in a convolutional network of timm with mean pooling and
    a linear head, everything after that is linear: the cells and the biases sum up to the score.
    Without a `target` the class is the one with the largest logit.

    Source: Grad-CAM, Selvaraju et al. 2017, sec. 3, each cell with its own gradient as in HiResCAM,
    Draelos & Carin 2020; SmoothGrad, Smilkov et al. 2017, eq. 2.
    """
    (target,), (logits,), (cells,) = token_evidence(
        network, image, None if target is None else [target]
    )
    pixels = _smooth_gradient(network, image, target)
    if has_feature_map(network):
        return Evidence(target, logits, cells, pixels, "last feature map", "positions")
    one = _pools_class_token(network)
    last = "last stage" if isinstance(network, Swin) else "last block"
    where = f"input tokens of the {last}" if one else f"tokens of the {last}"
    return Evidence(target, logits, cells, pixels, where)


def token_evidence(
    network: nn.Module,
    images: Tensor,
    targets: Sequence[int] | None = None,
    *,
    trunk: nn.Module | None = None,
) -> tuple[list[int], Tensor, Tensor]:
    """Return `Evidence.target`, `.logits` and `.cells` of images, which need a single pass.

    The images, (N, 3, H, W) float32, are preprocessed, on the device of the network, which is in
    evaluation mode. `targets` are N class indices; None for those with the largest logits. `trunk`
    is a copy of the network in another precision, which computes the tokens.
    """
    with torch.no_grad():
        tokens = _attributed_tokens(trunk or network, images)
    with torch.enable_grad():  # from those tokens on: earlier layers need no gradient
        tokens.requires_grad_()
        last = tokens
        if _pools_class_token(network):
            last = network.norm(network.blocks[-1](tokens))
        logits: Tensor = network.forward_head(last)  # type: ignore[operator]
        chosen = logits.argmax(1).tolist() if targets is None else list(targets)
        scores = logits[range(len(chosen)), chosen] - logits.mean(1)
        (slope,) = torch.autograd.grad(scores.sum(), tokens)
    channels = 1 if has_feature_map(network) else -1
    cells = (slope * tokens).sum(channels).detach()  # -> (N, h, w) or (N, T)
    if isinstance(network, ViT):
        cells = cells[:, network.num_prefix_tokens :]
        cells = cells.view(-1, *network.patch_embed.grid_size)
    return chosen, logits.detach(), cells


def has_feature_map(network: nn.Module) -> bool:
    """Return whether the head reads a feature map, (N, C, h, w), instead of tokens."""
    return not isinstance(network, ViT | Swin) and is_convolutional(network)


def _pools_class_token(network: nn.Module) -> TypeGuard[ViT]:
    return isinstance(network, ViT) and network.config.pool == "token"


def _attributed_tokens(network: nn.Module, images: Tensor) -> Tensor:
    """Return the tokens or the feature map that the score is attributed to."""
    images = images.to(next(network.parameters()).dtype)
    if not _pools_class_token(network):
        tokens: Tensor = network.forward_features(images)  # type: ignore[operator]
        return tokens.float()
    last = network.blocks[-1]
    assert isinstance(last, Block)
    with _recorded_inputs({"last": last}) as inputs:
        network.forward_features(images)
    return inputs["last"].float()


def _smooth_gradient(network: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return the mean magnitude of the score's gradient over noisy copies, (H, W)."""
    generator = torch.Generator().manual_seed(0)
    scale = SMOOTHING_NOISE * float(image.max() - image.min())
    total = torch.zeros(image.shape[-2:])
    for _ in range(SMOOTHING_COPIES):
        noise = torch.randn(image.shape, generator=generator) * scale
        with torch.enable_grad():
            noisy = (image + noise).requires_grad_()
            logits = network(noisy)[0]
            (slope,) = torch.autograd.grad(logits[target] - logits.mean(), noisy)
        total += slope[0].abs().sum(0)
    return total / SMOOTHING_COPIES


def _block_inputs(
    network: ViT | Swin, image: Tensor
) -> Iterator[tuple[str, Block | SwinBlock, Tensor]]:
    """Run the network and yield each block's name, the block, and its input."""
    blocks = {
        name: module
        for name, module in network.named_modules()
        if isinstance(module, Block | SwinBlock)
    }
    with _recorded_inputs(blocks) as inputs:
        network(image)
    for name, block in blocks.items():
        yield name, block, inputs[name]


@contextmanager
def _recorded_inputs(modules: Mapping[str, nn.Module]) -> Iterator[dict[str, Tensor]]:
    inputs: dict[str, Tensor] = {}

    def record(name: str, _module: nn.Module, args: tuple[Tensor, ...]) -> None:
        inputs[name] = args[0]

    handles = [
        one.register_forward_pre_hook(partial(record, name)) for name, one in modules.items()
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def swin_blocks(stage: nn.Module) -> list[SwinBlock]:
    """Return the blocks of a stage, in order."""
    return [block for block in stage.modules() if isinstance(block, SwinBlock)]


def _unshifted(block: SwinBlock, windows: Tensor) -> Tensor:
    """Move one value per token from windows back to the grid, (B, T) -> (h, w)."""
    (height, width), (down, across) = block.grid, block.padding
    grid = from_windows(windows[None, :, :, None], block.window, (height + down, width + across))
    return grid[0, :height, :width, 0].roll(block.shift, (0, 1))


def _distance(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean distance from each query to its keys, in tokens, (..., T, T) -> (..., T).

    Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021, sec. 4.5 and fig. 7.
    """
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    positions = torch.stack((y.flatten(), x.flatten()), 1).float()
    return (weights * torch.cdist(positions, positions)).sum(-1)
