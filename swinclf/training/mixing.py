"""Augmentation of whole batches: mixup, CutMix and random erasing.

What is drawn is a function of (seed, epoch, step) alone, or of (seed, epoch, image), so a resumed
training gets the same, and so do several processes that share a batch.

Sources: mixup, Zhang et al. 2018; CutMix, Yun et al. 2019; random erasing, Zhong et al. 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from swinclf.data.transforms import to_device
from swinclf.training.batches import Batch


@dataclass(frozen=True)
class ImageBatchAugmentation:
    """Augmentation of the batches of a training."""

    mixup: float  # alpha of the Beta distribution of the shares of two images; 0: no mixup
    # the same for the area of a rectangle from another image. With both, one of the two is drawn
    # for each batch
    cutmix: float
    erasing: float  # fraction of the images in which a rectangle gets the mean colour, in [0, 1]
    seed: int  # of what is drawn

    @property
    def mixes(self) -> bool:
        """Return whether each image is mixed with the one before it."""
        return bool(self.mixup or self.cutmix)

    def apply(self, batch: Batch, *, epoch: int, step: int) -> Batch:
        """Return a batch of (B, 3, H, W) normalised inputs, augmented; they may change in-place.

        The batch has the index of each view.

        `epoch`, and `step` in the epoch, are counted from 0.
        """
        alphas = {"mixup": self.mixup, "cutmix": self.cutmix}
        kinds = [kind for kind, alpha in alphas.items() if alpha]
        if not len(batch.targets):
            return batch
        if kinds:
            rng = np.random.default_rng([self.seed, epoch, step, 2])
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(rng.integers(2**63)))
                kind = kinds[rng.integers(len(kinds))]
                batch = _mix(batch, kind, alphas[kind])
        if self.erasing:
            self._erase(batch, epoch)
        return batch

    def _erase(self, batch: Batch, epoch: int) -> None:
        """Erase a rectangle of some images in-place: 0 is the mean colour of normalised inputs."""
        from torchvision.transforms import v2  # takes a second to import

        assert batch.views is not None
        erase = v2.RandomErasing(value=0)
        boxes = np.zeros((len(batch.inputs), 4), np.int64)  # empty where nothing is erased
        for box, view in zip(boxes, batch.views.tolist(), strict=True):
            rng = np.random.default_rng([self.seed, epoch, view, 3])
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(int(rng.integers(2**63)))
                drawn = None if torch.rand(1) >= self.erasing else erase.make_params([batch.inputs])
            if drawn is not None and drawn["v"] is not None:
                box[:] = [drawn[name] for name in ("i", "j", "h", "w")]
        device = batch.inputs.device
        top, left, height, width = to_device(boxes, str(device))[:, :, None].unbind(1)
        down, across = (torch.arange(length, device=device) for length in batch.inputs.shape[2:])
        is_in_row = (down >= top) & (down < top + height)  # (B, H)
        is_in_column = (across >= left) & (across < left + width)  # (B, W)
        batch.inputs.masked_fill_((is_in_row[:, :, None] & is_in_column[:, None])[:, None], 0)


def _mix(batch: Batch, kind: str, alpha: float) -> Batch:
    """Mix each image with its neighbour; `targets` are those of the one with the larger share."""
    from torchvision.transforms import v2

    mixer = v2.MixUp(alpha=alpha) if kind == "mixup" else v2.CutMix(alpha=alpha)
    drawn = mixer.make_params([batch.inputs])
    share = drawn["lam"] if kind == "mixup" else drawn["lam_adjusted"]
    parameters = {"labels": None, "batch_size": len(batch.targets), **drawn}
    targets, others = batch.targets, batch.targets.roll(1, 0)
    if share < 0.5:
        targets, others, share = others, targets, 1 - share
    inputs = mixer.transform(batch.inputs, parameters)
    return batch._replace(inputs=inputs, targets=targets, others=others, share=share)
