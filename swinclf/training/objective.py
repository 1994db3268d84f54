"""The training loss: which outputs of the network it needs, and the loss of each image.

An objective is a module, so that its own parameters are trained and saved with the network's.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from swinclf.training.batches import UNLABELLED, Batch
from swinclf.training.schedule import Schedule

ModelOutputs = tuple[torch.Tensor, ...]


class CrossEntropy(nn.Module):
    """Cross-entropy of the labels, with class weights and label smoothing."""

    def outputs(self, model: nn.Module, batch: Batch) -> ModelOutputs:
        """Return the model's outputs for a batch, logits (B, K) first; called under autocast."""
        return (model(batch.inputs),)

    def losses(self, outputs: ModelOutputs, batch: Batch, schedule: Schedule) -> torch.Tensor:
        """Return the loss of each image, (B,), from the results of `outputs` in float32."""
        return label_losses(outputs[0], batch, schedule)


def label_losses(logits: torch.Tensor, batch: Batch, schedule: Schedule) -> torch.Tensor:
    """Return the cross-entropy of each image, (B,); 0 where there is no label.

    Logits are (B, K) float32. The loss of a mixed image is the mean of those of its two labels,
    weighted by their shares.
    """
    losses = _cross_entropy(logits, batch.targets, schedule)
    if batch.others is None:
        return losses
    return batch.share * losses + (1 - batch.share) * _cross_entropy(logits, batch.others, schedule)


def _cross_entropy(logits: torch.Tensor, targets: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    return F.cross_entropy(
        logits,
        targets,
        weight=schedule.class_weights,
        label_smoothing=schedule.label_smoothing,
        reduction="none",
        ignore_index=UNLABELLED,
    )
