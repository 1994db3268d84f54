"""Drop path in a process that has some images of a batch: it draws for all of them.

Several processes that start with the same random state thereby drop what one process would drop.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass
class BatchShare:
    """Which images of a batch the next forward pass computes."""

    start: int = 0  # position of its first image in the batch
    part: int = 0  # number of its images; 0 to draw for these alone
    count: int = 1  # images of the batch


class SharedDropPath(nn.Module):
    """`layers.DropPath` for a share of a batch."""

    def __init__(self, rate: float, share: BatchShare) -> None:
        super().__init__()
        self.rate, self._share = rate, share

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch `x` of some images and scale up the others', (N, ...) -> (N, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        keep, share = 1.0 - self.rate, self._share
        rows = len(x) // share.part if share.part else 0  # of an image: some networks fold patches
        count, start = (rows * share.count, rows * share.start) if rows else (len(x), 0)
        mask = x.new_empty((count,) + (1,) * (x.dim() - 1)).bernoulli_(keep).div_(keep)
        return x * mask[start : start + len(x)]


def share_drop_path(network: nn.Module, share: BatchShare) -> None:
    """Replace a network's drop path, its own or timm's, in-place."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "DropPath" and getattr(child, "scale_by_keep", True):
                rate = child.rate if hasattr(child, "rate") else child.drop_prob
                setattr(parent, name, SharedDropPath(float(rate), share))  # type: ignore[arg-type]
