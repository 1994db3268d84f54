"""The training loop, the same for every regime. Knows neither files nor folders.

Model, schedule, batches and objective are arguments: a linear head on cached features and a whole
network on images train by the same loop.
"""

from __future__ import annotations

import contextlib
import math
import time
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from swinclf.config import EpochScore
from swinclf.device import Hardware, Precision, StopFlag, is_out_of_memory
from swinclf.errors import DivergedError, ExitCode, Interrupted
from swinclf.models.compute import DTYPES, Computer
from swinclf.models.depthwise import differentiate_depthwise_in_float32
from swinclf.models.freeze import train_mode
from swinclf.reporter import EpochRow, Reporter
from swinclf.training.batches import Batch, Batches
from swinclf.training.epoch_sums import EpochSums
from swinclf.training.objective import CrossEntropy
from swinclf.training.optim import set_lr
from swinclf.training.schedule import Schedule
from swinclf.training.time_estimate import TimeEstimate

SAFE_LR = 1e-3  # largest rate to suggest after a training has diverged
CHECK_EVERY_STEPS = 20  # how often the loss is checked where that waits for the device


@dataclass
class BestEpoch:
    """The best epoch so far, with its weights."""

    epoch: int  # from 1 on; 0 for the linear probe
    score: tuple[float, float]  # validation accuracy and negative validation loss
    weights: dict[str, torch.Tensor]  # by name


@dataclass
class TrainState:
    """Everything that changes in training: the content of a checkpoint."""

    model: nn.Module  # the network, or the head alone
    optimizer: torch.optim.Optimizer  # over the trainable parameters
    scaler: torch.amp.GradScaler  # of the loss, in fp16; has no effect in other precisions
    epoch: int = 0  # epochs finished
    step: int = 0  # steps taken in the current epoch
    sums: EpochSums = field(default_factory=EpochSums)  # of the current epoch
    best: BestEpoch | None = None  # none before the first epoch has ended
    # validation accuracy that an epoch must reach to be the best: the linear probe's
    floor: float = 0.0
    history: list[EpochRow] = field(default_factory=list)  # a row an epoch
    # largest number of images per backward pass; None for whole batches
    micro_batch: int | None = None
    # the loss; its own parameters train with the model
    objective: CrossEntropy = field(default_factory=CrossEntropy)
    frozen_statistics: bool = False  # whether batch-norm statistics are frozen
    average: AveragedModel | None = None  # of the model's weights over the steps; None without one

    @property
    def evaluated(self) -> nn.Module:
        """Return the model that is validated and saved: the average, if there is one."""
        return self.model if self.average is None else self.average.module


class Saver(Protocol):
    """Storage of checkpoints."""

    def is_due(self) -> bool:
        """Return whether the next save is due."""

    def save(self, state: TrainState) -> None:
        """Save the state."""


def build_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, hardware: Hardware
) -> TrainState:
    """Return the state before the first step."""
    kind = hardware.device.partition(":")[0]
    scaler = torch.amp.GradScaler(kind, enabled=hardware.precision is Precision.FP16)
    return TrainState(model, optimizer, scaler)


def fit(
    state: TrainState,
    batches: Batches,
    schedule: Schedule,
    hardware: Hardware,
    *,
    report: Reporter,
    stop: StopFlag,
    saver: Saver,
    estimate: TimeEstimate,
) -> None:
    """Train from `state` to the end; `state.best` then has the best weights.

    The state is changed in-place. Only forward passes use the precision of `hardware`; weights and
    updates are in float32. `stop` is checked after every step. `saver` is called after a step or
    epoch when a save is due, and before an interruption. The `estimate` of the time left is
    reported after every step.

    Raises:
        DivergedError: If the loss is NaN or infinite.
        Interrupted: If `stop` was set; the state has been saved.
    """
    while state.epoch < schedule.epochs and not _out_of_patience(state, schedule):
        started = time.perf_counter() - state.sums.seconds
        estimate.begin_epoch(state.step)
        with differentiate_depthwise_in_float32(state.model):
            _train_epoch(state, batches, schedule, hardware, report, stop, saver, estimate)
        val_loss, val_accuracy = validate(state.evaluated, batches, hardware, stop)
        if stop:  # before the end of the epoch, so that its validation is repeated
            saver.save(state)
            raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)
        _check_finite(state, hardware, val_loss=val_loss if batches.val_count else 0.0)
        estimate.end_epoch()
        _end_epoch(state, schedule, val_loss, val_accuracy, time.perf_counter() - started, report)
        if saver.is_due():
            saver.save(state)
    if state.epoch < schedule.epochs:
        report.note(
            f"stopped after epoch {state.epoch}: neither validation loss nor accuracy has improved "
            f"for {schedule.patience} epochs (--patience)"
        )


def _train_epoch(
    state: TrainState,
    batches: Batches,
    schedule: Schedule,
    hardware: Hardware,
    report: Reporter,
    stop: StopFlag,
    saver: Saver,
    estimate: TimeEstimate,
) -> None:
    steps = math.ceil(batches.train_count / batches.batch_size)
    started = time.perf_counter() - state.sums.seconds
    train_mode(state.model, frozen_statistics=state.frozen_statistics)
    if state.step:  # resumed, perhaps with no step left: the epoch's row records the rate
        set_lr(state.optimizer, schedule.lr_scale_at(state.epoch * steps + state.step - 1, steps))
    task, done = f"epoch {state.epoch + 1}/{schedule.epochs}", state.sums.count
    with report.track(task, batches.train_count, done=done) as advance:
        for batch in batches.train(state.epoch, state.step):
            set_lr(state.optimizer, schedule.lr_scale_at(state.epoch * steps + state.step, steps))
            if len(batch.targets):
                micro_batch = state.micro_batch
                _train_step(state, batch, schedule, hardware)
                if state.micro_batch != micro_batch:
                    report.warn(
                        f"out of memory: now accumulating gradients over micro-batches of "
                        f"{state.micro_batch} images; the batch size is still {batches.batch_size}"
                    )
                _check_finite(state, hardware)
            state.step += 1
            state.sums.seconds = time.perf_counter() - started
            advance(len(batch.targets))
            if (seconds_left := estimate.after_step(state.epoch, state.step)) is not None:
                report.time_left(seconds_left)
            if stop or saver.is_due():
                _check_finite(state, hardware, val_loss=0.0)
                saver.save(state)
            if stop:
                raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)


def _train_step(state: TrainState, batch: Batch, schedule: Schedule, hardware: Hardware) -> None:
    losses, logits = _gradient(state, batch, schedule, hardware)
    if schedule.clip_norm:
        state.scaler.unscale_(state.optimizer)
        trained = [one for group in state.optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(trained, schedule.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    state.sums.add(losses, logits, batch.targets)


def _gradient(
    state: TrainState, batch: Batch, schedule: Schedule, hardware: Hardware
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the losses, (B,), and logits, (B, K), and compute the gradient of the mean loss.

    It is computed in the largest micro-batches that fit: on out-of-memory the micro-batch is
    halved; the summed gradient is the same up to rounding.
    """
    while True:
        images = min(state.micro_batch or len(batch.targets), len(batch.targets))
        state.optimizer.zero_grad(set_to_none=True)
        try:
            parts = [
                _add_gradient(state, part, schedule, hardware, of=len(batch.targets))
                for part in batch.split(images)
            ]
            losses, logits = zip(*parts, strict=True)
            return torch.cat(losses), torch.cat(logits)
        except (RuntimeError, MemoryError) as error:
            if images == 1 or not is_out_of_memory(error):
                raise
        # Here the exception is gone, and with it the tensors of the failed attempt.
        state.micro_batch = math.ceil(images / 2)


def _add_gradient(
    state: TrainState, part: Batch, schedule: Schedule, hardware: Hardware, *, of: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Add the gradient of a part of a step's `of` images; return its losses and logits."""
    with autocast(hardware):
        outputs = state.objective.outputs(state.model, part)
    outputs = tuple(one.float() for one in outputs)
    losses = state.objective.losses(outputs, part, schedule)
    state.scaler.scale(losses.sum() / of).backward()
    return losses.detach(), outputs[0].detach()


def validate(
    model: nn.Module, batches: Batches, hardware: Hardware, stop: StopFlag
) -> tuple[float, float]:
    """Return mean cross-entropy and accuracy on the validation images; (nan, nan) without any.

    Stops early, with those of the images so far, once `stop` is set.
    """
    sums = EpochSums()
    if batches.val_count:
        computer = Computer(model, hardware)
        for batch in batches.val():
            if stop:
                break
            if len(batch.targets):
                logits = computer.logits(batch.inputs)
                sums.add(
                    F.cross_entropy(logits, batch.targets, reduction="none"), logits, batch.targets
                )
    return sums.means()


def autocast(hardware: Hardware) -> contextlib.AbstractContextManager[object]:
    """Return a context for forward passes in the hardware's precision."""
    if hardware.precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(hardware.device.partition(":")[0], DTYPES[hardware.precision])


def _check_finite(state: TrainState, hardware: Hardware, *, val_loss: float | None = None) -> None:
    """Raise `DivergedError` if the loss or the weights are not finite.

    On other devices than a CPU, the loss is checked less often. With `val_loss`, which is given
    before the state is saved, everything is checked.
    """
    if val_loss is None and hardware.device != "cpu" and state.step % CHECK_EVERY_STEPS:
        return
    step = f"in epoch {state.epoch + 1}, step {state.step + 1}"
    state.sums.fetch()
    if not math.isfinite(state.sums.loss):
        found = f"{state.sums.loss} {step}"
    elif val_loss is None:
        return
    elif not math.isfinite(val_loss):
        found = f"{val_loss} on the validation images of epoch {state.epoch + 1}"
    elif not all(bool(one.isfinite().all()) for one in state.model.parameters()):
        found = f"NaN or infinite weights {step}"
    else:
        return
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    raise DivergedError(
        "a finite loss",
        found=f"{found}, at learning rate {rate:.3g}",
        hint=f"--lr {min(rate / 10, SAFE_LR):.1g}",
    )


def _end_epoch(
    state: TrainState,
    schedule: Schedule,
    val_loss: float,
    val_accuracy: float,
    seconds: float,
    report: Reporter,
) -> None:
    train_loss, train_accuracy = state.sums.means()
    has_val = math.isfinite(val_accuracy)
    row = EpochRow(
        epoch=state.epoch + 1,
        train_loss=train_loss,
        train_accuracy=train_accuracy,
        val_loss=val_loss if has_val else None,
        val_accuracy=val_accuracy if has_val else None,
        lr=max(group["lr"] for group in state.optimizer.param_groups),
        seconds=seconds,
        images_per_second=state.sums.count / max(state.sums.seconds, 1e-9),
    )
    is_best = _is_best(state, row, schedule.select)
    if is_best:
        weights = {
            name: one.detach().cpu().clone() for name, one in state.evaluated.state_dict().items()
        }
        score = (row.val_accuracy or 0.0, -(row.val_loss or 0.0))
        state.best = BestEpoch(row.epoch, score, weights)
    state.history.append(row)
    state.epoch, state.step, state.sums = state.epoch + 1, 0, EpochSums()
    report.epoch(row, total=schedule.epochs, best=is_best)


def _is_best(state: TrainState, row: EpochRow, select: EpochScore) -> bool:
    """Return whether an epoch is the best so far; without validation images the last is the best.

    The best has the least validation loss of all epochs that are as accurate as the linear probe.
    Selected by accuracy, an epoch is less accurate on few new images, as one image more or less
    decides (`benchmarks/held_out.py`); of equal accuracy, the one of less loss is better.
    """
    if row.val_loss is None or row.val_accuracy is None:
        return True
    if row.val_accuracy < state.floor:
        return False
    if state.best is None:
        return True
    score = (row.val_accuracy, -row.val_loss)
    if select is EpochScore.ACCURACY:
        return score > state.best.score
    return score[1] > state.best.score[1]


def _out_of_patience(state: TrainState, schedule: Schedule) -> bool:
    """Return whether neither loss nor accuracy has improved on an earlier epoch for too long.

    The baseline does not count: the first epochs of fine-tuning are often worse than a good head.
    """
    least, highest, since = math.inf, -math.inf, 0
    for row in state.history:
        loss, accuracy = row.val_loss, row.val_accuracy
        if loss is None or accuracy is None or loss < least or accuracy > highest:
            since = 0
        else:
            since += 1
        least = min(least, math.inf if loss is None else loss)
        highest = max(highest, -math.inf if accuracy is None else accuracy)
    return 0 < schedule.patience <= since
