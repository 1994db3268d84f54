"""Costs of a network: its parts, stages and totals, and torch's own count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from swinclf.explain.attention import has_feature_map
from swinclf.models.complexity import (
    Part,
    count_torch_flops,
    module_parts,
    network_parts,
    sum_stages,
)
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT

GLOBAL_FORMULA = "4hwC^2 + 2(hw)^2C"
WINDOW_FORMULA = "4hwC^2 + 2M^2hwC"


@dataclass(frozen=True)
class PatchGrid:
    """Grid of patches of a network of this package."""

    patch_px: tuple[int, int]  # height and width of a patch, pixels
    grid: tuple[int, int]  # patches down and across
    prefix_tokens: int  # number of tokens before the patches

    @property
    def count(self) -> int:
        """Number of patches of an image."""
        return self.grid[0] * self.grid[1]


@dataclass(frozen=True)
class Costs:
    """Costs of one image."""

    image_px: tuple[int, int]  # height and width of the image, pixels
    colours: int  # colour channels of the image
    parts: tuple[Part, ...]  # the network's parts in execution order
    stages: tuple[Part, ...]  # the same summed by stage
    parameters: int
    # multiply-adds: by the papers' formulas for the networks of this package, half of `torch_flops`
    # for others
    macs: int
    torch_flops: int  # operations that torch counts while it runs the network; two per multiply-add
    patches: PatchGrid | None = None  # for a network of this package; None for others
    formula: str = ""  # of the attention, in the paper's letters; empty for other networks
    is_convolutional: bool = False  # whether most weights are in convolutions

    @property
    def patch_numbers(self) -> int:
        """Number of values in a patch: its pixels in all colours; 0 without patches."""
        return (
            self.patches.patch_px[0] * self.patches.patch_px[1] * self.colours
            if self.patches
            else 0
        )


def measure_costs(network: nn.Module, image_px: tuple[int, int] | None = None) -> Costs:
    """Return the costs of one image, by formula and by torch's own counter.

    On the device `meta` nothing is computed and no memory allocated. The height and width of images
    are only needed for a network that is not of this package.
    """
    if not isinstance(network, ViT | Swin):
        assert image_px is not None
        return _measure_modules(network, image_px)
    embed, leaves = network.patch_embed, network_parts(network)
    is_vit = isinstance(network, ViT)
    prefix = network.config.prefix_tokens if isinstance(network, ViT) else 0
    return Costs(
        image_px=embed.img_size,
        colours=network.config.in_chans,
        parts=tuple(leaves),
        stages=tuple(sum_stages(leaves)),
        parameters=sum(leaf.parameters for leaf in leaves),
        macs=sum(leaf.macs for leaf in leaves),
        torch_flops=_torch_flops(network),
        patches=PatchGrid(embed.patch_size, embed.grid_size, prefix),
        formula=GLOBAL_FORMULA if is_vit else WINDOW_FORMULA,
    )


def _measure_modules(network: nn.Module, image_px: tuple[int, int]) -> Costs:
    """Count the costs of a network without formulas, module by module."""
    image = next(network.parameters()).new_zeros(1, 3, *image_px)
    was_training = network.training
    leaves = module_parts(network.eval(), image)
    network.train(was_training)
    macs = sum(leaf.macs for leaf in leaves)
    return Costs(
        image_px=image_px,
        colours=3,
        parts=tuple(leaves),
        stages=tuple(sum_stages(leaves)),
        parameters=sum(leaf.parameters for leaf in leaves),
        macs=macs,
        torch_flops=2 * macs,
        is_convolutional=has_feature_map(network),
    )


@torch.no_grad()
def _torch_flops(network: ViT | Swin) -> int:
    like = network.patch_embed.proj.weight
    image = like.new_zeros(1, network.config.in_chans, *network.patch_embed.img_size)
    was_training = network.training
    flops = count_torch_flops(lambda: network.eval()(image))
    network.train(was_training)
    return flops
