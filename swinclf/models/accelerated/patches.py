"""A Swin's patch embedding in channels-last format."""

from __future__ import annotations

import torch
from torch import Tensor

from swinclf.models.layers import PatchEmbed


class FastPatchEmbed(PatchEmbed):
    """Patch embedding with the memory layout that the norm and the blocks read."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images to their grids of tokens, (N, 3, H, W) -> (N, h, w, C)."""
        return super().forward(x.contiguous(memory_format=torch.channels_last))
