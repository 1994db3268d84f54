"""The training loop, the same for every regime. Knows neither files nor folders.

Model, schedule, batches and objective are arguments: a linear head on cached features and a whole
network on images train by the same loop.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn
from torch.nn import functional as F

from swinclf.config import EpochScore
from swinclf.device import Hardware, StopFlag
from swinclf.errors import DivergedError, ExitCode, Interrupted
from swinclf.models.compute import Computer
from swinclf.models.depthwise import differentiate_depthwise_in_float32
from swinclf.models.freeze import train_mode
from swinclf.processes import ALONE, Processes
from swinclf.reporter import EpochRow, Reporter
from swinclf.training.batches import Batch, Batches
from swinclf.training.gradient import Gradient, LocalGradient, SharedGradient
from swinclf.training.optim import set_lr
from swinclf.training.schedule import Schedule
from swinclf.training.state import BestEpoch, EpochSums, TrainState, copy_weights
from swinclf.training.time_estimate import TimeEstimate

SAFE_LR = 1e-3  # largest rate to suggest after a training has diverged


class Saver:
    """Storage of checkpoints; none here, for a training that another process stores, or nobody."""

    def is_due(self) -> bool:
        """Return whether the next save is due."""
        return False

    def save(self, state: TrainState) -> None:
        """Save the state."""


@dataclass(frozen=True)
class TrainingLoop:
    """A training from a state to the end.

    Each of several processes runs this with the same state and its share of every batch; all take
    the same steps, and have the same state at the end.
    """

    state: TrainState  # changed in-place
    batches: Batches
    schedule: Schedule
    hardware: Hardware  # only forward passes use its precision; weights and updates are in float32
    report: Reporter
    stop: StopFlag  # checked after every step
    # called when a save is due, before an interruption, and by several processes after every epoch
    saver: Saver
    estimate: TimeEstimate  # of the time left, which is reported after every step
    processes: Processes = ALONE

    def run(self) -> None:
        """Train to the end; `state.best` then has the best weights.

        Raises:
            DivergedError: If the loss is NaN or infinite.
            Interrupted: If `stop` was set; the state has been saved.
            LostProcessError: If another process has ended; the last checkpoint is intact.
        """
        state, schedule = self.state, self.schedule
        while state.epoch < schedule.epochs and not _out_of_patience(state, schedule):
            self._train_epoch()
        if state.epoch < schedule.epochs:
            epochs = "one epoch" if schedule.patience == 1 else f"{schedule.patience} epochs"
            self.report.note(
                f"stopped after epoch {state.epoch}: neither validation loss nor accuracy has "
                f"improved for {epochs} (--patience)"
            )

    @cached_property
    def _gradient(self) -> Gradient:
        """The gradient of a step, of this process or averaged over all."""
        if self.processes.count == 1:
            return LocalGradient(self.state, self.schedule, self.hardware)
        return SharedGradient(self.state, self.schedule, self.hardware, self.processes)

    def _train_epoch(self) -> None:
        """Train an epoch, or what is left of it, validate, and note its figures."""
        state, report = self.state, self.report
        started = time.perf_counter() - state.sums.seconds
        self.estimate.begin_epoch(state.step)
        with differentiate_depthwise_in_float32(state.model):
            self._take_steps()
        val_loss, val_accuracy = validate(
            state.evaluated, self.batches, self.hardware, self.stop, self.processes
        )
        if self.processes.agree(bool(self.stop))[0]:  # the validation is repeated when resumed
            self._save()
            raise self._interrupted()
        self._check_all(val_loss if self.batches.val_count else 0.0)
        self.estimate.end_epoch()
        state.sums.add_others(self.processes)
        seconds = time.perf_counter() - started
        _end_epoch(state, self.schedule, val_loss, val_accuracy, seconds, report)
        # A lost process takes its sums of an epoch with it: the others cannot save in the middle.
        if self.processes.count > 1 or self.saver.is_due():
            self._save()

    def _take_steps(self) -> None:
        state, batches, report = self.state, self.batches, self.report
        steps = math.ceil(batches.train_count / batches.batch_size)
        started = time.perf_counter() - state.sums.seconds
        train_mode(state.model, frozen_statistics=state.frozen_statistics)
        if state.step:  # resumed, perhaps with no step left: the epoch's row records the rate
            self._set_lr(state.step - 1, steps)
        done = state.step * batches.batch_size
        task = f"epoch {state.epoch + 1}/{self.schedule.epochs}"
        with report.track(task, batches.train_count, done=done) as advance:
            for batch in batches.train(state.epoch, state.step):
                self._set_lr(state.step, steps)
                self._step(batch)
                state.step += 1
                state.sums.seconds = time.perf_counter() - started
                advance(min(batches.batch_size, batches.train_count - done))
                done += batches.batch_size
                if (seconds_left := self.estimate.after_step(state.epoch, state.step)) is not None:
                    report.time_left(seconds_left)
                self._end_step()
        state.sums.fetch()  # waits for the device
        state.sums.seconds = time.perf_counter() - started

    def _set_lr(self, step: int, steps: int) -> None:
        scale = self.schedule.lr_scale_at(self.state.epoch * steps + step, steps)
        set_lr(self.state.optimizer, scale)

    def _step(self, batch: Batch) -> None:
        """Take a step; report a smaller micro-batch."""
        state = self.state
        micro_batch = state.micro_batch
        _train_step(state, batch, self.schedule, self._gradient)
        if state.micro_batch != micro_batch:
            self.report.warn(
                f"out of memory: now accumulating gradients over micro-batches of "
                f"{state.micro_batch} images; the batch size is still {self.batches.batch_size}"
            )

    def _end_step(self) -> None:
        """Check the loss, save if that is due, and stop if asked to; all processes agree.

        Other devices than the CPU are not waited for: their losses are checked before a save.
        """
        fault = _loss_fault(self.state) if self.hardware.device == "cpu" else ""
        diverges, saves, stops = self.processes.agree(
            bool(fault), self.saver.is_due(), bool(self.stop)
        )
        if diverges:
            raise _diverged(self.state, fault)
        if saves or stops:
            self._check_all(0.0)
            self._save()
        if stops:
            raise self._interrupted()

    def _check_all(self, val_loss: float) -> None:
        """Check losses and weights before the state is saved."""
        fault = _loss_fault(self.state) or _result_fault(self.state, val_loss)
        if self.processes.agree(bool(fault))[0]:
            raise _diverged(self.state, fault)

    def _save(self) -> None:
        """Save the state with the sums of all processes, which only the first one keeps."""
        self.state.sums.add_others(self.processes)
        self.saver.save(self.state)
        if self.processes.rank:
            self.state.sums = EpochSums(seconds=self.state.sums.seconds)

    def _interrupted(self) -> Interrupted:
        return Interrupted(self.stop.exit_code or ExitCode.INTERRUPTED)


def _train_step(state: TrainState, batch: Batch, schedule: Schedule, gradient: Gradient) -> None:
    """Update the weights by the gradient of a batch, unless it has no images."""
    computed = gradient.compute(batch)
    if computed is None:
        return
    if schedule.clip_norm:
        state.scaler.unscale_(state.optimizer)
        trained = [one for group in state.optimizer.param_groups for one in group["params"]]
        nn.utils.clip_grad_norm_(trained, schedule.clip_norm)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    if state.average is not None:
        state.average.update_parameters(state.model)
    losses, logits = computed
    state.sums.add(losses, logits, batch.targets)


def validate(
    model: nn.Module,
    batches: Batches,
    hardware: Hardware,
    stop: StopFlag,
    processes: Processes = ALONE,
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
    sums.add_others(processes)
    return sums.means()


def _loss_fault(state: TrainState) -> str:
    """Return what is wrong with the losses of the epoch so far; empty if they are finite."""
    state.sums.fetch()
    return "" if math.isfinite(state.sums.loss) else f"{state.sums.loss}{_position(state)}"


def _result_fault(state: TrainState, val_loss: float) -> str:
    """Return what is wrong with a validation loss or the weights; empty if they are finite."""
    if not math.isfinite(val_loss):
        return f"{val_loss} on the validation images of epoch {state.epoch + 1}"
    if not torch.stack([one.isfinite().all() for one in state.model.parameters()]).all():
        return f"NaN or infinite weights{_position(state)}"
    return ""


def _position(state: TrainState) -> str:
    return f" in epoch {state.epoch + 1}, by step {state.step}"


def _diverged(state: TrainState, fault: str) -> DivergedError:
    """Return the error of a training that has diverged; the fault of another process is empty."""
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    peak = max(group["peak"] for group in state.optimizer.param_groups)
    found = fault or f"a loss that is NaN or infinite{_position(state)}"
    return DivergedError(
        "a finite loss",
        found=f"{found}, at learning rate {rate:.3g}",
        hint=f"--lr {min(peak / 10, SAFE_LR):.1g}",
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
        score = (row.val_accuracy or 0.0, -(row.val_loss or 0.0))
        state.best = BestEpoch(row.epoch, score, copy_weights(state.evaluated))
    state.history.append(row)
    state.epoch, state.step, state.sums = state.epoch + 1, 0, EpochSums()
    report.epoch(row, total=schedule.epochs, best=is_best)


def _is_best(state: TrainState, row: EpochRow, select: EpochScore) -> bool:
    """Return whether an epoch is the best so far; without validation images the last is the best.

    The best has the least validation loss of all epochs that are not clearly less accurate than
    the linear probe (`TrainState.floor`). Selected by accuracy, an epoch is less accurate on few
    new images, as one image more or less decides (`benchmarks/held_out.py`); of equal accuracy, the
    one of less loss is better.
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
