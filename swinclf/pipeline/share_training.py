"""The steps of a training that other processes take part in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch

from swinclf.device import Hardware, StopFlag
from swinclf.errors import DivergedError, Interrupted
from swinclf.pipeline.fit import fit_share
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.prepare import prepare_training
from swinclf.processes import Processes, own_device
from swinclf.reporter import Reporter
from swinclf.settings import Settings, command_of
from swinclf.training.checkpoint import Checkpoint
from swinclf.training.defaults import Regime
from swinclf.training.logistic_regression import Baseline
from swinclf.training.loop import Saver
from swinclf.training.state import EpochSums


def unused_gpus_hint(hardware: Hardware, settings: Settings, processes: Processes) -> str:
    """Return the command that would use all GPUs of this machine; empty if this one does."""
    count = torch.cuda.device_count() if hardware.device == "cuda" else 0
    if count < 2 or processes.count > 1:
        return ""
    return (
        f"this machine has {count} GPUs, of which one is used; all of them: "
        f"torchrun --standalone --nproc-per-node={count} -m {command_of(settings)}"
    )


@contextmanager
def sharing_training(
    plan: Plan, context: Context, baseline: Baseline | None, saved: Checkpoint | None
) -> Iterator[None]:
    """Let the other processes prepare the training that is prepared and run in the `with` block.

    A head is trained by the first process alone. The arguments are those of `prepare_training`.
    """
    if context.processes.count == 1 or plan.start.regime is Regime.HEAD:
        yield
        return
    _move_networks(plan, "cpu")  # where they can be sent from
    slim = replace(plan, extracted=replace(plan.extracted, features=None))
    task = TrainingTask(slim, context.hardware, baseline, saved)
    ends = (DivergedError, Interrupted)
    with context.processes.sharing(task, ends=ends), context.stop.deferring_signals():
        _move_networks(plan, context.hardware.device)
        yield


@dataclass(frozen=True)
class TrainingTask:
    """All steps of a training, on a share of every batch."""

    plan: Plan
    hardware: Hardware
    baseline: Baseline | None
    saved: Checkpoint | None

    def run(self, processes: Processes, report: Reporter, stop: StopFlag) -> None:
        """See `processes.Task`."""
        hardware = replace(self.hardware, device=own_device(self.hardware.device))
        context = Context(hardware, report, stop, processes)
        _move_networks(self.plan, hardware.device)
        state, batches = prepare_training(self.plan, context, None, self.baseline, self.saved)
        state.sums = EpochSums(seconds=state.sums.seconds)  # the first process has those of all
        fit_share(self.plan, context, state, batches, Saver())


def _move_networks(plan: Plan, device: str) -> None:
    """Move the network and a teacher that computes during the training to a device."""
    plan.start.network.to(device)
    if plan.teacher_data is not None and plan.teacher_data.online is not None:
        plan.teacher_data.online.to(device)
