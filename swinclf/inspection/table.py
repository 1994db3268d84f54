"""What a network costs as one value: its parts, its stages, the sums, and torch's own count.

Knows nothing of weights, images or printing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from swinclf.models.complexity import Part, count_torch_flops, parts, stages
from swinclf.models.swin import Swin
from swinclf.models.vit import ViT

GLOBAL_FORMULA = "4hwC^2 + 2(hw)^2C"
WINDOW_FORMULA = "4hwC^2 + 2M^2hwC"


@dataclass(frozen=True)
class Costs:
    """The costs of one image.

    Attributes:
        image_px: Height and width of the image, pixels.
        patch_px: Height and width of a patch, pixels.
        grid: Patches down and across.
        colours: Of the image.
        prefix_tokens: Tokens that stand before the patches.
        parts: Patch embedding, blocks and mergings, head, in the order in which they run.
        stages: The same summed up.
        parameters: Numbers that the network learns.
        macs: Multiply-adds, by the papers' formulas.
        torch_flops: Operations that torch counts while it runs the network; two a multiply-add.
        formula: Of the attention, in the paper's letters.
    """

    image_px: tuple[int, int]
    patch_px: tuple[int, int]
    grid: tuple[int, int]
    colours: int
    prefix_tokens: int
    parts: tuple[Part, ...]
    stages: tuple[Part, ...]
    parameters: int
    macs: int
    torch_flops: int
    formula: str

    @property
    def patch_count(self) -> int:
        """Patches of an image."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_numbers(self) -> int:
        """Numbers in a patch: its pixels in all colours."""
        return self.patch_px[0] * self.patch_px[1] * self.colours


def measure(network: ViT | Swin) -> Costs:
    """Count a network's costs, and let torch count them too.

    Args:
        network: On any device; on `meta` nothing is computed and no memory taken.

    Returns:
        The costs of one image.
    """
    embed, leaves = network.patch_embed, parts(network)
    is_vit = isinstance(network, ViT)
    return Costs(
        image_px=embed.img_size,
        patch_px=embed.patch_size,
        grid=embed.grid_size,
        colours=network.config.in_chans,
        prefix_tokens=network.config.prefix_tokens if isinstance(network, ViT) else 0,
        parts=tuple(leaves),
        stages=tuple(stages(leaves)),
        parameters=sum(leaf.parameters for leaf in leaves),
        macs=sum(leaf.macs for leaf in leaves),
        torch_flops=_torch_flops(network),
        formula=GLOBAL_FORMULA if is_vit else WINDOW_FORMULA,
    )


@torch.no_grad()
def _torch_flops(network: ViT | Swin) -> int:
    """Run the network on one image under torch's own counter."""
    like = network.patch_embed.proj.weight
    image = like.new_zeros(1, network.config.in_chans, *network.patch_embed.img_size)
    was_training = network.training
    flops = count_torch_flops(lambda: network.eval()(image))
    network.train(was_training)
    return flops
