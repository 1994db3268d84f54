"""A Swin's map of patches to tokens, with channels last from the start."""

from __future__ import annotations

import torch
from torch import Tensor

from swinclf.models.layers import PatchEmbed


class FastPatchEmbed(PatchEmbed):
    """Patches to tokens, laid out in memory as the norm and the blocks read them."""

    def forward(self, x: Tensor) -> Tensor:
        """Map images to their grids of tokens, (N, 3, H, W) -> (N, h, w, C)."""
        return super().forward(x.contiguous(memory_format=torch.channels_last))
