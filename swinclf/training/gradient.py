"""The gradient of a training step, over micro-batches if memory is short, or several processes."""

from __future__ import annotations

import contextlib
import math
import warnings
from functools import cached_property

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from swinclf.device import Hardware, Precision
from swinclf.models.batch_share import BatchShare, share_drop_path
from swinclf.models.compute import DTYPES
from swinclf.models.freeze import train_mode
from swinclf.out_of_memory import is_out_of_memory
from swinclf.processes import Processes
from swinclf.training.batches import Batch
from swinclf.training.objective import CrossEntropy
from swinclf.training.schedule import Schedule
from swinclf.training.state import TrainState

LossesAndLogits = tuple[torch.Tensor, torch.Tensor]  # (B,) and (B, K), float32


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
        """Compute the gradient of the mean loss; return the losses and logits of the batch.

        Returns None if there is no image to learn from.
        """
        state, share, count = self._state, self._share, len(batch.targets)
        if not count:
            return None
        share.begin_batch(count)
        while True:
            images = min(state.micro_batch or count, count)
            state.optimizer.zero_grad(set_to_none=True)
            share.rewind()
            try:
                return _concatenate(
                    [
                        _add_gradient(state, self._loss, share, part, of=count)
                        for part in batch.split(images)
                    ]
                )
            except (RuntimeError, MemoryError) as error:
                if images == 1 or not is_out_of_memory(error):
                    raise
            # Here the exception is gone, and with it the tensors of the failed attempt.
            state.micro_batch = math.ceil(images / 2)


class SharedGradient:
    """The gradient of a batch of which each process has a part, perhaps none.

    Gradients are exchanged during the last backward pass of a step, which cannot be repeated after
    an out-of-memory error: other processes would wait for the rest of it. Therefore the size of the
    micro-batches is found beforehand, by rehearsing the first step, and the first one with the
    optimizer's state in memory, without exchange.

    Batch norm uses the statistics of the images that a process computes at once, as for
    micro-batches.
    """

    def __init__(
        self, state: TrainState, schedule: Schedule, hardware: Hardware, processes: Processes
    ) -> None:
        self._state, self._processes = state, processes
        self._loss = BatchLoss(state.model, state.objective, schedule, hardware)
        self._share = BatchShare()
        self._local = LocalGradient(state, schedule, hardware, self._share)  # of the rehearsals
        self._rehearsed = (False, 0)  # whether the optimizer had a state, and the number of images

    def compute(self, batch: Batch) -> LossesAndLogits | None:
        """Do as `LocalGradient`, with the mean over the images of all processes."""
        state, processes, share = self._state, self._processes, self._share
        local = len(batch.targets)
        own = [local * (rank == processes.rank) for rank in range(processes.count)]
        of_each = list(map(int, processes.total(own)))
        total = sum(of_each)
        if not total:
            return None
        if not local:  # every process takes part in every step
            batch = _one_blank(batch)
        rehearsal = (bool(state.optimizer.state), len(batch.targets))
        if rehearsal > self._rehearsed:
            self._rehearse(batch)
            self._rehearsed = rehearsal
        parallel = self._parallel
        state.optimizer.zero_grad(set_to_none=True)
        share.begin_batch(total, sum(of_each[: processes.rank]) if local else 0)
        # DistributedDataParallel divides the sum of all processes by their number.
        of = total / processes.count if local else math.inf
        *parts, last = batch.split(min(state.micro_batch or len(batch.targets), len(batch.targets)))
        with processes.noticing_losses():
            with parallel.no_sync():
                added = [_add_gradient(state, parallel, share, part, of=of) for part in parts]
            added.append(_add_gradient(state, parallel, share, last, of=of))
        losses, logits = _concatenate(added)
        return losses[:local], logits[:local]

    def _rehearse(self, batch: Batch) -> None:
        """Find the size of the micro-batches that fit, without a trace in the state."""
        state = self._state
        with torch.random.fork_rng([torch.cuda.current_device()] if batch.inputs.is_cuda else []):
            train_mode(state.model, frozen_statistics=True)
            self._local.compute(batch)
            train_mode(state.model, frozen_statistics=state.frozen_statistics)

    @cached_property
    def _parallel(self) -> DistributedDataParallel:
        """Wrap the loss after the first rehearsal, which shows the parameters that are not used."""
        trained = [one for group in self._state.optimizer.param_groups for one in group["params"]]
        has_unused = self._processes.agree(any(one.grad is None for one in trained))[0]
        # The warning is harmless: such a gradient is copied once more.
        warnings.filterwarnings("ignore", "Grad strides do not match", UserWarning)
        with self._processes.noticing_losses():
            return DistributedDataParallel(
                self._loss, gradient_as_bucket_view=True, find_unused_parameters=has_unused
            )


Gradient = LocalGradient | SharedGradient


def _add_gradient(
    state: TrainState, loss: nn.Module, share: BatchShare, part: Batch, *, of: float
) -> LossesAndLogits:
    """Add the gradient of the next part of a step's `of` images; return its losses and logits."""
    share.begin_part(len(part.targets))
    losses, logits = loss(part)
    state.scaler.scale(losses.sum() / of).backward()
    return losses.detach(), logits.detach()


def _concatenate(parts: list[LossesAndLogits]) -> LossesAndLogits:
    """Return the losses and logits of all parts."""
    losses, logits = zip(*parts, strict=True)
    return torch.cat(losses), torch.cat(logits)


def autocast(hardware: Hardware) -> contextlib.AbstractContextManager[object]:
    """Return a context for forward passes in the hardware's precision."""
    if hardware.precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(hardware.device.partition(":")[0], DTYPES[hardware.precision])


def _one_blank(batch: Batch) -> Batch:
    """Return a batch of one blank image for an empty one: every process takes part in a step."""
    return Batch(
        batch.inputs.new_zeros(1, *batch.inputs.shape[1:]),
        batch.targets.new_zeros(1),
        views=torch.zeros(1, dtype=torch.int64),
    )
