"""The schedule of a training: its epochs, the learning rate over time, the options of its loss."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from swinclf.config import EpochScore


@dataclass(frozen=True)
class Schedule:
    """Epochs, learning-rate schedule, early stopping and loss options."""

    epochs: int  # passes over the training images
    lrf: float = 1.0  # final rate as a fraction of the peak
    warmup: float = 0.0  # fraction of all steps in which the rate rises
    clip_norm: float = 0.0  # largest gradient norm; 0 for no clipping
    label_smoothing: float = 0.0  # fraction of the target spread over all classes
    # (K,) float32, mean 1 over the training images; None for equal weights
    class_weights: torch.Tensor | None = None
    patience: int = 0  # epochs without a better loss or accuracy before early stopping; 0: any
    select: EpochScore = EpochScore.LOSS  # what the best epoch is best in, on the validation images

    def lr_scale_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the factor of the peak rate, in [0, 1], at a step of the training, from 0 on.

        A linear ramp, then half a cosine down to `lrf`, which the last step has.

        Source: SGDR, Loshchilov & Hutter 2017, eq. 5; warmup as in Goyal et al. 2017, sec. 2.2.
        """
        total = self.epochs * steps_per_epoch
        warmup = min(int(self.warmup * total), total - 1)
        if step < warmup:
            return (step + 1) / (warmup + 1)
        progress = (step - warmup) / max(1, total - 1 - warmup)
        return self.lrf + (1 - self.lrf) * (1 + math.cos(math.pi * progress)) / 2
