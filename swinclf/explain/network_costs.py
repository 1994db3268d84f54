"""Costs of a network: its parts, stages and totals, and torch's own count."""

from __future__ import annotations

import math
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
        return math.prod(self.patches.patch_px) * 3 if self.patches else 0


@torch.no_grad()
def measure_costs(network: nn.Module, image_px: tuple[int, int] | None = None) -> Costs:
    """Return the costs of one image, by formula and by torch's own counter.

    The network is in evaluation mode. On the device `meta` nothing is computed and no memory
    allocated. The height and width of images are only needed for a network that is not of this
    package.
    """
    if isinstance(network, ViT | Swin):
        embed = network.patch_embed
        image_px, parts = embed.img_size, network_parts(network)
        image = embed.proj.weight.new_zeros(1, 3, *image_px)
        torch_flops = count_torch_flops(lambda: network(image))
        prefix = network.config.prefix_tokens if isinstance(network, ViT) else 0
        patches = PatchGrid(embed.patch_size, embed.grid_size, prefix)
        formula = GLOBAL_FORMULA if isinstance(network, ViT) else WINDOW_FORMULA
    else:
        assert image_px is not None
        patches, formula = None, ""
        image = next(network.parameters()).new_zeros(1, 3, *image_px)
        parts = module_parts(network, image)
        torch_flops = 2 * sum(part.macs for part in parts)
    return Costs(
        image_px=image_px,
        parts=tuple(parts),
        stages=tuple(sum_stages(parts)),
        parameters=sum(part.parameters for part in parts),
        macs=sum(part.macs for part in parts),
        torch_flops=torch_flops,
        patches=patches,
        formula=formula,
        is_convolutional=has_feature_map(network),
    )
