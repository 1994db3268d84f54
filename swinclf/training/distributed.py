"""The gradient of a step, averaged over several processes by DistributedDataParallel."""

from __future__ import annotations

import math
import warnings
from functools import cached_property

import torch
from torch.nn.parallel import DistributedDataParallel

from swinclf.device import Hardware
from swinclf.models.batch_share import BatchShare
from swinclf.models.freeze import train_mode
from swinclf.processes import Processes
from swinclf.training.batches import Batch
from swinclf.training.gradient import (
    BatchLoss,
    LocalGradient,
    LossesAndLogits,
    add_gradient,
    concatenate,
)
from swinclf.training.schedule import Schedule
from swinclf.training.state import TrainState


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
        """See `Gradient`; the mean is over the images of all processes."""
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
                added = [add_gradient(state, parallel, share, part, of=of) for part in parts]
            added.append(add_gradient(state, parallel, share, last, of=of))
        losses, logits = concatenate(added)
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


def _one_blank(batch: Batch) -> Batch:
    """Return a batch of one blank image for an empty one: every process takes part in a step."""
    return Batch(
        batch.inputs.new_zeros(1, *batch.inputs.shape[1:]),
        batch.targets.new_zeros(1),
        views=torch.zeros(1, dtype=torch.int64),
    )
