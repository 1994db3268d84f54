"""A Swin stage on a CPU, without gradients: as many images at a time as the caches hold."""

from __future__ import annotations

import torch
from torch import Tensor

from swinclf.models.accelerated.linear import is_eager_cpu, is_hooked
from swinclf.models.swin import SwinStage

# What one block writes is then still in the caches for the next. The fastest of the values tried on
# two cores of a Xeon with AMX, 2026-11-22; `python benchmarks/networks.py --constants` measures it.
PORTION_TOKENS = 12544


class FastSwinStage(SwinStage):
    """Patch merging, then blocks, a few images at a time."""

    def forward(self, x: Tensor) -> Tensor:
        """Run the stage, (N, H, W, C) -> (N, H/2, W/2, 2C); the first one keeps the shape."""
        count = max(1, PORTION_TOKENS // (x.shape[1] * x.shape[2]))
        in_parts = is_eager_cpu(x) and not torch.is_grad_enabled() and x.shape[0] > count
        parts = (*self.downsample.modules(), *self.blocks.modules())
        if not in_parts or is_hooked(*parts):  # a hook is to get the whole batch
            return super().forward(x)
        return torch.cat([super(FastSwinStage, self).forward(part) for part in x.split(count)])
