"""Drop path for a part of a batch: what is drawn does not depend on how a batch is divided.

A batch is divided into micro-batches if memory is short, and among processes. The first part draws
for the whole batch, and each takes its own rows.
"""

from __future__ import annotations

from torch import Tensor, nn


class BatchShare:
    """The part of a batch that the next forward pass computes, and the masks of the whole batch.

    Processes that start with the same random state draw the same masks.
    """

    def __init__(self) -> None:
        self._count = 0  # images of the batch; 0 before the first one
        self._start = self._first = 0  # position of the next image, and of the first one here
        self._part = 0  # images of the part
        self._masks: list[Tensor] = []  # in the order of their use in a forward pass
        self._used = 0  # masks that the current forward pass has used

    def begin_batch(self, count: int, first: int = 0) -> None:
        """Begin a batch of `count` images, of which this process has those from `first` on."""
        self._count, self._first, self._masks = count, first, []
        self.rewind()

    def rewind(self) -> None:
        """Begin again with the first part of the batch, with the same masks."""
        self._start, self._part = self._first, 0

    def begin_part(self, size: int) -> None:
        """Begin the next part of the batch, of `size` images."""
        self._start += self._part
        self._part, self._used = size, 0

    def mask(self, x: Tensor, rate: float) -> Tensor:
        """Return the factors of a branch `x`, (N, ...) -> (N, 1, ...): 0 or 1 / (1 - rate).

        N is the number of images of the part, or a multiple of it.
        """
        rows = len(x) // self._part if self._part else 1  # of an image
        count = rows * self._count if self._part else len(x)
        if self._used == len(self._masks):
            shape = (count,) + (1,) * (x.dim() - 1)
            self._masks.append(x.new_empty(shape).bernoulli_(1 - rate).div_(1 - rate))
        mask = self._masks[self._used]
        self._used += 1
        start = rows * self._start if self._part else 0
        return mask[start : start + len(x)]


class SharedDropPath(nn.Module):
    """`layers.DropPath` for a part of a batch."""

    def __init__(self, rate: float, share: BatchShare) -> None:
        super().__init__()
        self.rate, self._share = rate, share

    def forward(self, x: Tensor) -> Tensor:
        """Drop the branch `x` of some images and scale up the others', (N, ...) -> (N, ...)."""
        if self.rate == 0.0 or not self.training:
            return x
        return x * self._share.mask(x, self.rate)


def share_drop_path(network: nn.Module, share: BatchShare) -> None:
    """Replace a network's drop path, its own or timm's, in-place; not that of a compiled one."""
    if getattr(network, "_compiled_call_impl", None) is not None:
        return
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "DropPath" and getattr(child, "scale_by_keep", True):
                rate = float(child.rate if hasattr(child, "rate") else child.drop_prob)  # type: ignore[arg-type]
                setattr(parent, name, SharedDropPath(rate, share).train(child.training))
