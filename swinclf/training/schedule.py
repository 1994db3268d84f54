"""The schedule of a training: its epochs, the learning rate over time, the options of its loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from swinclf.config import EpochScore
from swinclf.training.optim import lr_scale


@dataclass(frozen=True)
class Schedule:
    """Epochs, learning-rate schedule, early stopping and loss options."""

    epochs: int  # passes over the training images
    lrf: float  # final rate as a fraction of the peak
    warmup: float  # fraction of all steps in which the rate rises
    clip_norm: float  # largest gradient norm; 0 for no clipping
    label_smoothing: float  # fraction of the target spread over all classes
    # (K,) float32, mean 1 over the training images; None for equal weights
    class_weights: torch.Tensor | None
    patience: int  # epochs without a better loss or accuracy before early stopping; 0 turns it off
    select: EpochScore = EpochScore.LOSS  # what the best epoch is best in, on the validation images

    def lr_scale_at(self, step: int, steps_per_epoch: int) -> float:
        """Return the factor of the peak rate at a step of the training, from 0 on."""
        total = self.epochs * steps_per_epoch
        warmup = min(int(self.warmup * total), total - 1)
        return lr_scale(step, total_steps=total, warmup_steps=warmup, final=self.lrf)
