"""The gradient of a training step, accumulated over micro-batches if memory is short."""

from __future__ import annotations

import contextlib
import math
from typing import Protocol

import torch
from torch import nn

from swinclf.device import Hardware, Precision, is_out_of_memory
from swinclf.models.batch_share import BatchShare, share_drop_path
from swinclf.models.compute import DTYPES
from swinclf.training.batches import Batch
from swinclf.training.objective import CrossEntropy
from swinclf.training.schedule import Schedule
from swinclf.training.state import TrainState

LossesAndLogits = tuple[torch.Tensor, torch.Tensor]  # (B,) and (B, K), float32


class Gradient(Protocol):
    """Computation of the gradient of a step."""

    def compute(self, batch: Batch) -> LossesAndLogits | None:
        """Compute the gradient of the mean loss; return the losses and logits of the batch.

        Returns None if there is no image to learn from.
        """


class BatchLoss(nn.Module):
    """The loss of each image of a batch by a model and an objective, in a precision."""

    def __init__(
        self, model: nn.Module, objective: CrossEntropy, schedule: Schedule, hardware: Hardware
    ) -> None:
        super().__init__()
        self.model, self.objective = model, objective
        self._schedule, self._hardware = schedule, hardware

    def forward(self, batch: Batch) -> LossesAndLogits:
        """Return losses and logits, with gradient."""
        with autocast(self._hardware):
            outputs = self.objective.outputs(self.model, batch)
        outputs = tuple(one.float() for one in outputs)
        return self.objective.losses(outputs, batch, self._schedule), outputs[0]


class LocalGradient:
    """The gradient of a whole batch, in this process.

    It is computed in the largest micro-batches that fit: on out-of-memory the micro-batch is
    halved; the summed gradient is the same up to rounding.
    """

    def __init__(
        self,
        state: TrainState,
        schedule: Schedule,
        hardware: Hardware,
        share: BatchShare | None = None,
    ) -> None:
        self._state, self._share = state, share or BatchShare()
        self._loss = BatchLoss(state.model, state.objective, schedule, hardware)
        share_drop_path(state.model, self._share)

    def compute(self, batch: Batch) -> LossesAndLogits | None:
        """See `Gradient`."""
        state, share, count = self._state, self._share, len(batch.targets)
        if not count:
            return None
        share.begin_batch(count)
        while True:
            images = min(state.micro_batch or count, count)
            state.optimizer.zero_grad(set_to_none=True)
            share.rewind()
            try:
                return concatenate(
                    [
                        add_gradient(state, self._loss, share, part, of=count)
                        for part in batch.split(images)
                    ]
                )
            except (RuntimeError, MemoryError) as error:
                if images == 1 or not is_out_of_memory(error):
                    raise
            # Here the exception is gone, and with it the tensors of the failed attempt.
            state.micro_batch = math.ceil(images / 2)


def add_gradient(
    state: TrainState, loss: nn.Module, share: BatchShare, part: Batch, *, of: float
) -> LossesAndLogits:
    """Add the gradient of the next part of a step's `of` images; return its losses and logits."""
    share.begin_part(len(part.targets))
    losses, logits = loss(part)
    state.scaler.scale(losses.sum() / of).backward()
    return losses.detach(), logits.detach()


def concatenate(parts: list[LossesAndLogits]) -> LossesAndLogits:
    """Return the losses and logits of all parts."""
    losses, logits = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(logits)


def autocast(hardware: Hardware) -> contextlib.AbstractContextManager[object]:
    """Return a context for forward passes in the hardware's precision."""
    if hardware.precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(hardware.device.partition(":")[0], DTYPES[hardware.precision])
