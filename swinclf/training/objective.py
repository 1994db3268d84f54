"""The training loss as a value: what the network is asked for a batch, and each image's loss.

An objective is a module, so that what it learns along the way trains and is saved with the network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from swinclf.training.batches import UNLABELLED, Batch

if TYPE_CHECKING:
    from swinclf.training.loop import Schedule

Outputs = tuple[torch.Tensor, ...]


class CrossEntropy(nn.Module):
    """The cross-entropy of the labels, with class weights and label smoothing."""

    def outputs(self, model: nn.Module, batch: Batch) -> Outputs:
        """Return what the model gives for a batch, logits (B, K) first; called under autocast."""
        return (model(batch.inputs),)

    def losses(self, outputs: Outputs, batch: Batch, schedule: Schedule) -> torch.Tensor:
        """Return the loss of each image, (B,).

        Args:
            outputs: Of `outputs`, in float32.
            batch: The same one.
            schedule: Whose class weights and label smoothing are obeyed.
        """
        return label_losses(outputs[0], batch.targets, schedule)


def label_losses(logits: torch.Tensor, targets: torch.Tensor, schedule: Schedule) -> torch.Tensor:
    """Return the cross-entropy of each image, (B,); 0 where there is no label.

    Args:
        logits: (B, K) float32.
        targets: (B,) class indices, or `UNLABELLED`.
        schedule: Whose class weights and label smoothing are obeyed.
    """
    return F.cross_entropy(
        logits,
        targets,
        weight=schedule.class_weights,
        label_smoothing=schedule.label_smoothing,
        reduction="none",
        ignore_index=UNLABELLED,
    )
