"""Where a network looks: each block's attention written out, rollout, and evidence by gradient.

The networks use PyTorch's fused attention, which never holds the attention itself. Here it is
computed again from a block's own weights and what came into the block, so the networks stay as fast
as they are. Knows nothing of pictures or class names.

Shape letters: T tokens, P tokens before the patches, h x w patches or tokens of a stage,
C channels, A heads, E channels of a head, B windows, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from swinclf.models.compute import is_convolutional
from swinclf.models.swin import Swin, SwinBlock, SwinStage, from_windows, to_windows
from swinclf.models.vit import Block, ViT

SMOOTHING_COPIES = 8
SMOOTHING_NOISE = 0.15  # of the image's range


@dataclass(frozen=True)
class BlockAttention:
    """One block's attention for one image.

    Attributes:
        name: Of the block in the state dict, e.g. layers.0.blocks.1.
        stage: From 0; 0 throughout in a ViT.
        is_shifted: Whether its windows are shifted.
        weights: (A, T, T), or (B, A, T, T) in windows; each row sums to 1.
        received: What each head gives each token, over an even share, (A, h, w); the mean over a
            window's queries, in a ViT over the tokens that are read out.
        distance_px: Mean distance between query and key for each head, pixels, (A,).
    """

    name: str
    stage: int
    is_shifted: bool
    weights: Tensor
    received: Tensor
    distance_px: Tensor


@dataclass(frozen=True)
class Evidence:
    """What speaks for a class.

    The score that is taken apart is the class's logit less the mean logit: what is added to all
    logits alike changes no probability.

    Attributes:
        target: Index of the class.
        logits: Of all classes, (K,).
        cells: Gradient times activation, summed over channels, for each token that is looked at,
            (h, w); above 0 speaks for the class, below against it.
        pixels: Size of the score's gradient at each pixel, (H, W), averaged over noisy copies.
        where: What is looked at, in words.
        units: What a cell is: tokens, or positions in a feature map.
    """

    target: int
    logits: Tensor
    cells: Tensor
    pixels: Tensor
    where: str
    units: str = "tokens"


def project(attention: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, keys and values as a block's attention makes them.

    Args:
        attention: `Attention` of a ViT or `WindowAttention` of a Swin.
        x: Normed tokens, (..., T, C).

    Returns:
        q, k and v, (..., A, T, E) each.
    """
    source: Any = attention
    *before, tokens, width = x.shape
    qkv = source.qkv(x).view(*before, tokens, 3, source.heads, width // source.heads)
    q, k, v = (part.transpose(-3, -2) for part in qkv.unbind(-3))
    if hasattr(source, "q_norm"):
        q, k = source.q_norm(q), source.k_norm(k)
    return q, k, v


def block_tokens(block: nn.Module, x: Tensor) -> Tensor:
    """Return the tokens that attend to each other: normed, and in a Swin shifted, padded, cut.

    Args:
        block: A block of either network.
        x: What comes into the block for one image, (1, T, C) or (1, h, w, C).

    Returns:
        (T, C), or in windows (B, T, C).
    """
    assert isinstance(block, Block | SwinBlock)
    x = block.norm1(x)
    if isinstance(block, Block):
        return x[0]
    return to_windows(block.shifted(x), block.window)[0]


def attention_of(block: nn.Module, x: Tensor) -> Tensor:
    """Return how much each query attends to each key.

    Args:
        block: A block of either network.
        x: What comes into the block for one image, (1, T, C) or (1, h, w, C).

    Returns:
        (A, T, T), or in windows (B, A, T, T); rows sum to 1.

    Source: Attention Is All You Need, Vaswani et al. 2017, eq. 1; Swin Transformer, Liu et al.
    2021, eq. 4.
    """
    assert isinstance(block, Block | SwinBlock)
    q, k, _ = project(block.attn, block_tokens(block, x))
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if isinstance(block, SwinBlock):
        scores = scores + block.attn.position_bias()
        if block.attn_mask is not None:
            scores = scores + block.attn_mask[:, None]
    elif block.attn.rel_pos is not None:
        scores = scores + block.attn.rel_pos()
    attention: Tensor = scores.softmax(-1)
    return attention


@torch.no_grad()
def attentions(network: ViT | Swin, image: Tensor) -> list[BlockAttention]:
    """Return the attention of every block, in order.

    Args:
        network: In evaluation mode.
        image: (1, 3, H, W), preprocessed.
    """
    found = []
    for name, block, x in _block_inputs(network, image):
        weights = attention_of(block, x)
        if isinstance(block, SwinBlock):
            stage = int(name.split(".")[1])
            token_px = network.patch_embed.patch_size[0] * 2**stage
            given = weights.mean(2) * weights.shape[-1]  # (B, A, T): 1 is an even share
            received = torch.stack([_unshifted(block, head) for head in given.unbind(1)])
            distance = _distance(weights, block.window).mean(0) * token_px
            is_shifted = any(block.shift)
        else:
            assert isinstance(network, ViT)
            stage, is_shifted, prefix = 0, False, network.num_prefix_tokens
            grid = network.patch_embed.grid_size
            given = read_out(network) @ weights * weights.shape[-1]  # (A, T)
            received = given[:, prefix:].reshape(-1, *grid)
            among = weights[:, prefix:, prefix:]
            among = among / among.sum(-1, keepdim=True)
            stride = network.config.patch_stride or network.config.patch_size
            distance = _distance(among, grid) * stride
        found.append(BlockAttention(name, stage, is_shifted, weights, received, distance))
    return found


def read_out(network: ViT) -> Tensor:
    """Return the share of each token in what the head sees, (T,).

    One for the class token, a half each with distillation, else the same for all patches.
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


def rollout(network: ViT | Swin, found: list[BlockAttention]) -> Tensor:
    """Return how much of what the head sees comes from each patch, attention followed to the image.

    Half of a token goes by the residual connection, half by the attention, heads averaged. In a
    Swin the shares are followed through windows and shifts, and a merged token's share goes to its
    four parts alike.

    Args:
        network: A network of this package.
        found: Its attention for one image, as `attentions` returns it.

    Returns:
        (h, w) shares of the patches, which sum to 1.

    Source: Quantifying Attention Flow in Transformers, Abnar & Zuidema 2020, sec. 3, "Attention
    rollout"; from the head backwards, which multiplies a vector instead of matrices.
    """
    if isinstance(network, ViT):
        shares = read_out(network)
        for one in reversed(found):
            shares = (shares + shares @ one.weights.mean(0)) / 2
        shares = shares[network.num_prefix_tokens :].view(network.patch_embed.grid_size)
        return shares / shares.sum()
    return _swin_rollout(network, found)


def _swin_rollout(network: Swin, found: list[BlockAttention]) -> Tensor:
    """Follow shares from the last stage's mean to the patches, (h, w)."""
    waiting = list(found)
    grids = [_blocks(stage)[0].grid for stage in network.layers]
    shares = torch.ones(grids[-1])
    for index in reversed(range(len(grids))):
        for block in reversed(_blocks(network.layers[index])):
            cut = to_windows(block.shifted(shares[None, :, :, None]), block.window)[0, :, :, 0]
            weights = waiting.pop().weights.mean(1)  # (B, A, T, T) -> (B, T, T)
            attended = torch.einsum("bq,bqk->bk", cut, weights)
            shares = (shares + _unshifted(block, attended)) / 2
        if index:
            height, width = grids[index - 1]
            parts = shares.repeat_interleave(2, 0).repeat_interleave(2, 1) / 4
            shares = parts[:height, :width]  # an odd side was padded before merging
    return shares / shares.sum()


def evidence(network: nn.Module, image: Tensor, target: int | None = None) -> Evidence:
    """Return what in an image speaks for a class.

    In a Swin, and in a ViT that takes the mean of its patches, the last tokens are looked at; in a
    convolutional network, the last feature map. In a Swin, and in a convolutional network of timm
    whose head is a mean and a linear layer, all is linear from there on: the cells and the biases
    sum up to the score. A class token is the only one that is read, so with one it is the tokens
    that go into the last block.

    Args:
        network: A ViT, a Swin or a convolutional network, in evaluation mode.
        image: (1, 3, H, W), preprocessed.
        target: Index of the class; None for the one with the largest logit.

    Source: Grad-CAM, Selvaraju et al. 2017, sec. 3, each cell with its own gradient as in HiResCAM,
    Draelos & Carin 2020; SmoothGrad, Smilkov et al. 2017, eq. 2.
    """
    (target,), (logits,), (cells,) = token_evidence(
        network, image, None if target is None else [target]
    )
    pixels = _smooth_gradient(network, image, target)
    if has_feature_map(network):
        return Evidence(target, logits, cells, pixels, "last feature map", "positions")
    one = _reads_one_token(network)
    where = "tokens into the last block" if one else "tokens of the last stage"
    return Evidence(target, logits, cells, pixels, where)


def token_evidence(
    network: nn.Module,
    images: Tensor,
    targets: Sequence[int] | None = None,
    *,
    trunk: nn.Module | None = None,
) -> tuple[list[int], Tensor, Tensor]:
    """Return the part of `evidence` that one look at each image gives.

    Args:
        network: In evaluation mode.
        images: (N, 3, H, W) float32, preprocessed, on the network's device.
        targets: N indices of classes; None for those with the largest logits.
        trunk: A copy of the network in another precision, which makes the tokens.

    Returns:
        `Evidence.target`, `.logits` and `.cells` of each image.
    """
    with torch.no_grad():
        tokens = _tokens_looked_at(trunk or network, images)
    with torch.enable_grad():  # from those tokens on: all before them needs no derivative
        tokens.requires_grad_()
        last = tokens
        if _reads_one_token(network):
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


def _reads_one_token(network: nn.Module) -> TypeGuard[ViT]:
    """Return whether the class token alone is read."""
    return isinstance(network, ViT) and network.config.pool == "token"


def _tokens_looked_at(network: nn.Module, images: Tensor) -> Tensor:
    """Return the tokens or the feature map whose part in the score is asked for."""
    images = images.to(next(network.parameters()).dtype)
    if not _reads_one_token(network):
        tokens: Tensor = network.forward_features(images)  # type: ignore[operator]
        return tokens.float()
    last = network.blocks[-1]
    assert isinstance(last, Block)
    with _kept_inputs({"last": last}) as inputs:
        network.forward_features(images)
    return inputs["last"].float()


def _smooth_gradient(network: nn.Module, image: Tensor, target: int) -> Tensor:
    """Return the mean size of the score's gradient at each pixel over noisy copies, (H, W)."""
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
    """Run the network and yield each block's name, the block, and what comes into it."""
    if isinstance(network, Swin):
        yield from _swin_block_inputs(network, image)
        return
    blocks = {name: module for name, module in network.named_modules() if isinstance(module, Block)}
    with _kept_inputs(blocks) as inputs:
        network(image)
    for name, block in blocks.items():
        yield name, block, inputs[name]


def _swin_block_inputs(network: Swin, image: Tensor) -> Iterator[tuple[str, SwinBlock, Tensor]]:
    """Do so block by block: a whole stage would not bring the tokens back to the grid between."""
    x = network.patch_embed(image)
    for index, stage in enumerate(network.layers):
        assert isinstance(stage, SwinStage)
        x = stage.downsample(x)
        for number, block in enumerate(_blocks(stage)):
            yield f"layers.{index}.blocks.{number}", block, x
            x = block(x)


@contextmanager
def _kept_inputs(modules: dict[str, Block]) -> Iterator[dict[str, Tensor]]:
    """Keep what comes into modules while they run."""
    inputs: dict[str, Tensor] = {}

    def keeper(name: str) -> Any:
        def keep(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
            inputs[name] = args[0]

        return keep

    handles = [one.register_forward_pre_hook(keeper(name)) for name, one in modules.items()]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()


def _blocks(stage: nn.Module) -> list[SwinBlock]:
    """Return a stage's blocks."""
    return [block for block in stage.modules() if isinstance(block, SwinBlock)]


def _unshifted(block: SwinBlock, windows: Tensor) -> Tensor:
    """Put one number a token back into its place, (B, T) -> (h, w)."""
    (height, width), (down, across) = block.grid, block.padding
    grid = from_windows(windows[None, :, :, None], block.window, (height + down, width + across))
    return grid[0, :height, :width, 0].roll(block.shift, (0, 1))


def _distance(weights: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the mean distance between query and key, tokens, (..., T, T) -> (...).

    Source: An Image is Worth 16x16 Words, Dosovitskiy et al. 2021, sec. 4.5 and fig. 7.
    """
    y, x = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = torch.stack((y.flatten(), x.flatten()), 1).float()
    return (weights * torch.cdist(places, places)).sum(-1).mean(-1)
