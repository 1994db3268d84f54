"""The training loop: one for every regime. Knows neither files nor folders.

What trains, at which rate, on what and by which loss are values; the loop is the same for a linear
head on kept features and for a whole network on images.
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

from swinclf.device import Hardware, Precision, StopFlag, is_out_of_memory
from swinclf.errors import DivergedError, ExitCode, Interrupted
from swinclf.models.compute import DTYPES, Computer
from swinclf.models.depthwise import differentiate_depthwise_in_float32
from swinclf.models.freeze import train_mode
from swinclf.reporter import EpochRow, Reporter
from swinclf.training.batches import UNLABELLED, Batch, Batches
from swinclf.training.objective import CrossEntropy
from swinclf.training.optim import lr_scale, set_lr

SOUND_LR = 1e-3  # what is worth trying at most, where a training has diverged
CHECK_EVERY_STEPS = 20  # how often the loss is looked at on a device where looking waits for it


@dataclass(frozen=True)
class Schedule:
    """How long, how fast, and what the loss is.

    Attributes:
        epochs: Passes over the training images.
        lrf: Final rate as a fraction of the peak.
        warmup: Part of all steps in which the rate rises.
        clip_norm: Longest gradient; 0 clips nothing.
        label_smoothing: Part of the target spread over all classes.
        class_weights: (K,) float32, mean 1 over the training images; None for all the same.
        patience: Stop after this many epochs without a better one; 0 never stops.
    """

    epochs: int
    lrf: float
    warmup: float
    clip_norm: float
    label_smoothing: float
    class_weights: torch.Tensor | None
    patience: int


@dataclass
class Sums:
    """Running sums of an epoch, divided once, at its end.

    What a device computes is left there until `settle` fetches it, many steps at once, and adds it
    up in float64 on the host: waiting after every step is slow, and MPS has no float64.

    Attributes:
        loss: Sum of the losses that have been settled.
        correct: Number of right answers among them.
        count: Images.
        seconds: Time spent training.
        labelled: Those of the settled images that have a label, and so may be right.
    """

    loss: float = 0.0
    correct: int = 0
    count: int = 0
    seconds: float = 0.0
    labelled: int = 0
    _losses: list[torch.Tensor] = field(default_factory=list)  # (B,) of each batch
    _hits: list[torch.Tensor] = field(default_factory=list)  # (B,) bool
    _labels: list[torch.Tensor] = field(default_factory=list)  # (B,) bool: whether there is one

    def add(self, losses: torch.Tensor, logits: torch.Tensor, targets: torch.Tensor) -> None:
        """Adds a batch: losses (B,), logits (B, K), targets (B,)."""
        self._losses.append(losses)
        self._hits.append(logits.argmax(1) == targets)
        self._labels.append(targets != UNLABELLED)
        self.count += len(targets)

    def settle(self) -> None:
        """Adds up what is still on the device; when this is called changes no bit of the sums."""
        if not self._losses:
            return
        sizes = [len(losses) for losses in self._losses]
        losses, hits = torch.cat(self._losses).cpu(), torch.cat(self._hits).cpu()
        for batch in losses.double().split(sizes):
            self.loss += float(batch.sum())
        self.correct += int(hits.sum())
        self.labelled += int(torch.cat(self._labels).sum())
        self._losses.clear()
        self._hits.clear()
        self._labels.clear()

    def means(self) -> tuple[float, float]:
        """Mean loss of all images and accuracy of the labelled ones; nan of nothing."""
        self.settle()
        loss = self.loss / self.count if self.count else math.nan
        return loss, self.correct / self.labelled if self.labelled else math.nan


@dataclass
class Best:
    """The best epoch so far, and the weights it ended with."""

    epoch: int
    score: tuple[float, float]
    weights: dict[str, torch.Tensor]


@dataclass
class TrainState:
    """Everything that changes in training, and so everything a checkpoint holds.

    Attributes:
        model: The network, or the head alone.
        optimizer: Over what trains.
        scaler: Of the loss, in fp16; does nothing in other precisions.
        epoch: Epochs finished.
        step: Steps taken in the running epoch.
        sums: Of the running epoch.
        best: None before the first epoch has ended.
        history: A row an epoch.
        micro_batch: Most images whose gradient is computed at once; None for whole batches.
        objective: The loss; what it learns trains with the model.
        frozen_statistics: Whether batch norm goes on with the statistics that it starts with.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    epoch: int = 0
    step: int = 0
    sums: Sums = field(default_factory=Sums)
    best: Best | None = None
    history: list[EpochRow] = field(default_factory=list)
    micro_batch: int | None = None
    objective: CrossEntropy = field(default_factory=CrossEntropy)
    frozen_statistics: bool = False


class Saver(Protocol):
    """Keeps the state of a training on disk."""

    def is_due(self) -> bool:
        """Whether it is time to save."""

    def save(self, state: TrainState) -> None:
        """Saves."""


def new_state(model: nn.Module, optimizer: torch.optim.Optimizer, hardware: Hardware) -> TrainState:
    """The state before the first step."""
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
) -> None:
    """Trains from where `state` stands to the end; `state.best` then holds the weights to keep.

    Args:
        state: Changed in place.
        batches: What to train and validate on.
        schedule: How long and how fast.
        hardware: Device and precision of the forward passes; weights and their updates stay in
            float32.
        report: Told of progress and of every epoch.
        stop: Looked at after every step.
        saver: Asked after every step and epoch whether it is time, and called before leaving early.

    Raises:
        DivergedError: If the loss is no number any more.
        Interrupted: If `stop` was set; the state has been saved.
    """
    while state.epoch < schedule.epochs and not _out_of_patience(state, schedule):
        started = time.perf_counter() - state.sums.seconds
        with differentiate_depthwise_in_float32(state.model):
            _train_epoch(state, batches, schedule, hardware, report, stop, saver)
        val_loss, val_accuracy = validate(state.model, batches, hardware, stop)
        if stop:  # the epoch stands before its end, and its validation is done again
            saver.save(state)
            raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)
        _check_finite(state, hardware, val_loss=val_loss if batches.val_count else 0.0)
        _end_epoch(state, schedule, val_loss, val_accuracy, time.perf_counter() - started, report)
        if saver.is_due():
            saver.save(state)


def _train_epoch(
    state: TrainState,
    batches: Batches,
    schedule: Schedule,
    hardware: Hardware,
    report: Reporter,
    stop: StopFlag,
    saver: Saver,
) -> None:
    steps = math.ceil(batches.train_count / batches.batch_size)
    started = time.perf_counter() - state.sums.seconds
    train_mode(state.model, frozen_statistics=state.frozen_statistics)
    if state.step:  # taken up again, perhaps with no step left: the epoch's row names its rate
        set_lr(state.optimizer, _scale_at(schedule, state.epoch * steps + state.step - 1, steps))
    with report.track(f"epoch {state.epoch + 1}/{schedule.epochs}", batches.train_count) as advance:
        advance(state.sums.count)
        for batch in batches.train(state.epoch, state.step):
            set_lr(state.optimizer, _scale_at(schedule, state.epoch * steps + state.step, steps))
            if len(batch.targets):
                whole = state.micro_batch
                _train_step(state, batch, schedule, hardware)
                if state.micro_batch != whole:
                    report.warn(
                        f"memory ran out: from now on {state.micro_batch} images at once, their "
                        f"gradients summed; a step is still {batches.batch_size} images"
                    )
                _check_finite(state, hardware)
            state.step += 1
            state.sums.seconds = time.perf_counter() - started
            advance(len(batch.targets))
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
    state.sums.add(losses, logits, batch.targets)


def _gradient(
    state: TrainState, batch: Batch, schedule: Schedule, hardware: Hardware
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes the gradient of the batch's mean loss, in as large parts as memory holds.

    Where it runs out, the parts become half as large and their gradients are summed: the step stays
    what it was, up to rounding.

    Returns:
        The losses, (B,), and logits, (B, K).
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
        # Out here nothing holds the exception any more, nor it the tensors of the failed attempt.
        state.micro_batch = math.ceil(images / 2)


def _add_gradient(
    state: TrainState, part: Batch, schedule: Schedule, hardware: Hardware, *, of: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Adds the gradient of some of a step's `of` images; returns their losses and logits."""
    with autocast(hardware):
        outputs = state.objective.outputs(state.model, part)
    outputs = tuple(one.float() for one in outputs)
    losses = state.objective.losses(outputs, part, schedule)
    state.scaler.scale(losses.sum() / of).backward()
    return losses.detach(), outputs[0].detach()


def validate(
    model: nn.Module, batches: Batches, hardware: Hardware, stop: StopFlag
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over the validation images; (nan, nan) without any.

    Once `stop` is set, over those until then.
    """
    sums = Sums()
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
    """Forward passes in the hardware's precision, weights in float32."""
    if hardware.precision is Precision.FP32:
        return contextlib.nullcontext()
    return torch.autocast(hardware.device.partition(":")[0], DTYPES[hardware.precision])


def _scale_at(schedule: Schedule, step: int, steps_per_epoch: int) -> float:
    total = schedule.epochs * steps_per_epoch
    warmup = min(int(schedule.warmup * total), total - 1)
    return lr_scale(step, total_steps=total, warmup_steps=warmup, final=schedule.lrf)


def _check_finite(state: TrainState, hardware: Hardware, *, val_loss: float | None = None) -> None:
    """Stops a training whose loss or weights are no numbers any more.

    Args:
        state: Of the training.
        hardware: Where waiting for a loss costs time, it is looked at less often.
        val_loss: Given where a state is about to be kept, which must be a good one: then everything
            is looked at.
    """
    if val_loss is None and hardware.device != "cpu" and state.step % CHECK_EVERY_STEPS:
        return
    step = f"in epoch {state.epoch + 1}, step {state.step + 1}"
    state.sums.settle()
    if not math.isfinite(state.sums.loss):
        found = f"{state.sums.loss} {step}"
    elif val_loss is None:
        return
    elif not math.isfinite(val_loss):
        found = f"{val_loss} on the held-out images of epoch {state.epoch + 1}"
    elif not all(bool(one.isfinite().all()) for one in state.model.parameters()):
        found = f"weights that are none {step}"
    else:
        return
    rate = max(group["lr"] for group in state.optimizer.param_groups)
    raise DivergedError(
        "a loss that is a number",
        found=f"{found}, at a rate of {rate:.3g}",
        hint=f"--lr {min(rate / 10, SOUND_LR):.1g}",
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
    score = _score(row.epoch, row.val_loss, row.val_accuracy)
    is_best = state.best is None or score > state.best.score
    if is_best:
        weights = {
            name: one.detach().cpu().clone() for name, one in state.model.state_dict().items()
        }
        state.best = Best(row.epoch, score, weights)
    state.history.append(row)
    state.epoch, state.step, state.sums = state.epoch + 1, 0, Sums()
    report.epoch(row, total=schedule.epochs, best=is_best)


def _out_of_patience(state: TrainState, schedule: Schedule) -> bool:
    """Whether the epochs have not got better for so long: than each other, not than a baseline.

    A good head's first epochs of fine-tuning are often worse than it alone.
    """
    scores = [_score(row.epoch, row.val_loss, row.val_accuracy) for row in state.history]
    if not scores:
        return False
    waited = len(scores) - 1 - scores.index(max(scores))
    return 0 < schedule.patience <= waited


def _score(epoch: int, val_loss: float | None, val_accuracy: float | None) -> tuple[float, float]:
    """What epochs are compared by; without validation images the last one is the best."""
    if val_loss is None or val_accuracy is None:
        return float(epoch), 0.0
    return val_accuracy, -val_loss
