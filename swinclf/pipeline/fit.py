"""Run the training loop with checkpoints; the network ends with the best weights.

Several processes may share the steps.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, fields, replace

import torch
from torch import nn

from swinclf.device import Hardware, StopFlag
from swinclf.durations import duration_text
from swinclf.errors import DivergedError, Interrupted, RunError
from swinclf.files import write_csv
from swinclf.models.compute import is_convolutional
from swinclf.models.store import save_model
from swinclf.out_of_memory import translate_out_of_memory
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.prepare import build_schedule, head_hardware, prepare_training
from swinclf.processes import ALONE, Processes, own_device
from swinclf.reporter import EpochRow, Reporter, format_percent
from swinclf.run_folder import RunFolder
from swinclf.settings import Settings, command_of
from swinclf.training.batches import Batches
from swinclf.training.checkpoint import Checkpoint, CheckpointSaver
from swinclf.training.defaults import Regime
from swinclf.training.linear_probe import Probe
from swinclf.training.logistic_regression import Baseline
from swinclf.training.loop import Saver, TrainingLoop
from swinclf.training.resume_guard import RunFingerprint
from swinclf.training.state import EpochSums, TrainState
from swinclf.training.time_estimate import TimeEstimate

# Of an image in validation, relative to training: no backward pass. Convolutional networks are
# folded for it, too (docs/recipe.md, Speed).
VAL_COST, CONV_VAL_COST = 1 / 3, 0.18
SHORT_S, LONG_S = 10, 30 * 60  # of a training: its time is not worth a line; it is worth advice


def fit_best(
    plan: Plan,
    context: Context,
    state: TrainState,
    batches: Batches,
    run: RunFolder,
    fingerprint: RunFingerprint,
) -> None:
    """Train to the end; the network then has the best weights.

    The state, new or resumed, is changed in-place; history.csv and checkpoints are written.

    Raises:
        DivergedError: If the loss is NaN or infinite.
        DeviceError: If memory runs out.
        Interrupted: If a signal asked to stop; the state has been saved.
    """
    saver = CheckpointSaver(run, fingerprint)
    try:
        with context.report.training(is_head=plan.start.regime is Regime.HEAD):
            _fit_share(plan, context, state, batches, saver)
    except DivergedError as error:
        raise _save_best_weights(error, plan, context, state, run) from None
    finally:  # after any error, even a full disk
        with suppress(RunError):
            columns = [field.name for field in fields(EpochRow)]
            write_csv(run.history, columns, map(astuple, state.history))
    saver.save(state)
    if plan.config.epochs and state.best is not None and state.best.epoch == 0:
        context.report.warn(
            "no epoch reached the validation accuracy of the linear probe "
            f"({format_percent(state.best.score[0])}): the model is the probe"
        )
    _install_best(state, plan.start.network)


def _fit_share(
    plan: Plan, context: Context, state: TrainState, batches: Batches, saver: Saver
) -> None:
    """Train to the end, with this process's share of every batch; raises as `fit_best`."""
    hardware, processes = context.hardware, context.processes
    if plan.start.regime is Regime.HEAD:  # too small to share
        hardware, processes = head_hardware(hardware.device), ALONE
    with translate_out_of_memory(batches.batch_size):
        TrainingLoop(
            state,
            batches,
            build_schedule(plan, hardware.device),
            hardware,
            report=context.report,
            stop=context.stop,
            saver=saver,
            estimate=_time_estimate(plan, batches, context.report, done=state.epoch),
            processes=processes,
        ).run()


def _time_estimate(plan: Plan, batches: Batches, report: Reporter, *, done: int) -> TimeEstimate:
    """Return the estimate of the time left, which is announced in a line if it is long.

    `done` is the number of epochs that a resumed training has behind it.
    """
    config = plan.config
    left = config.epochs - done
    steps = math.ceil(batches.train_count / batches.batch_size)
    scale = (config.img_size / config.train_size) ** 2
    start = plan.start
    is_cheap = start.regime is Regime.FULL and is_convolutional(start.network)
    cost = (CONV_VAL_COST if is_cheap else VAL_COST) * scale
    val_steps = cost * batches.val_count / batches.batch_size

    def announce(seconds: float) -> None:
        report.record("estimate", {"seconds": round(seconds, 1), "epochs": left})
        if seconds < SHORT_S:
            return
        until = time.strftime("%H:%M", time.localtime(time.time() + seconds))
        most = "at most " if config.patience else ""
        what = f"the {left} epochs left" if done else f"{left} epochs"
        report.note(f"{most}about {duration_text(seconds)} for {what} (until {until})")
        if seconds > LONG_S:
            report.note(_faster(plan))

    return TimeEstimate(config.epochs, steps, val_steps, announce)


def _faster(plan: Plan) -> str:
    """Return what would take less time, and what it would cost in accuracy."""
    config, start = plan.config, plan.start
    if not start.trained_weights:
        return (
            "faster: --model embedded trains only the head of a trained network, in seconds, and "
            "is usually more accurate on few images (64.1 % instead of 30.0 % on 200 of "
            "CIFAR-10, docs/decisions)"
        )
    if start.regime is Regime.HEAD:
        fewer = max(1, config.epochs // 5)
        return f"faster: --epochs {fewer}; a head rarely becomes more accurate with more"
    fewer = max(1, config.epochs // 2)
    return (
        "faster: --freeze-layers takes about a tenth of the time (4.5 points less accurate on "
        f"photographs of flowers, docs/recipe.md); --epochs {fewer} takes half, at some cost in "
        "accuracy"
    )


def _save_best_weights(
    error: DivergedError, plan: Plan, context: Context, state: TrainState, run: RunFolder
) -> DivergedError:
    """Save the best weights of a diverged run, if an epoch has ended; return the full error."""
    saved = f"no epoch was complete; {run.checkpoint} is the last good checkpoint"
    if state.best is not None:
        _install_best(state, plan.start.network)
        save_model(run.model, plan.start.network, plan.card(context.hardware))
        saved = f"the weights of epoch {state.best.epoch} are saved: {run.model}"
    settings = plan.settings.replaced("lr", None, "the hint has another")
    return DivergedError(
        error.expected,
        found=f"{error.found}; {saved}",
        hint=f"{command_of(settings)} {error.hint}",
    )


def _install_best(state: TrainState, network: nn.Module) -> None:
    """Load the best weights of a training into the network."""
    assert state.best is not None
    state.model.load_state_dict(state.best.weights)
    if isinstance(state.model, Probe):
        state.model.to("cpu").install(network.to("cpu"))


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
    task = _TrainingTask(slim, context.hardware, baseline, saved)
    ends = (DivergedError, Interrupted)
    with context.processes.sharing(task, ends=ends), context.stop.deferring_signals():
        _move_networks(plan, context.hardware.device)
        yield


@dataclass(frozen=True)
class _TrainingTask:
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
        _fit_share(self.plan, context, state, batches, Saver())


def _move_networks(plan: Plan, device: str) -> None:
    """Move the network and a teacher that computes during the training to a device."""
    plan.start.network.to(device)
    if plan.teacher_data is not None and plan.teacher_data.online is not None:
        plan.teacher_data.online.to(device)
