"""Trains to the end, or to where the loss is lost; either way the best weights are kept."""

from __future__ import annotations

from contextlib import suppress

from swinclf.device import command_line, translate_out_of_memory
from swinclf.errors import DivergedError, RunError
from swinclf.files import write_csv
from swinclf.models.store import save_model
from swinclf.pipeline.plan import Context, Plan
from swinclf.reporter import EpochRow
from swinclf.run_folder import RunFolder
from swinclf.training.batches import Batches
from swinclf.training.checkpoint import CheckpointSaver
from swinclf.training.defaults import Regime
from swinclf.training.loop import TrainState, fit
from swinclf.training.resume_guard import Origin
from swinclf.training.setup import head_hardware, install_best, schedule_of


def fit_best(
    plan: Plan,
    context: Context,
    state: TrainState,
    batches: Batches,
    run: RunFolder,
    origin: Origin,
) -> None:
    """Trains to the end; the network then holds the best weights.

    Args:
        plan: The training.
        context: Where it runs.
        state: Where it stands; changed in place.
        batches: What it trains on.
        run: Gets history.csv, and the state now and then.
        origin: What the run was begun with.

    Raises:
        DivergedError: If the loss is no number any more.
        DeviceError: If memory does not suffice.
        Interrupted: If a signal asked to stop; the state has been saved.
    """
    hardware = context.hardware
    schedule = schedule_of(plan.config, plan.dataset, hardware.device)
    if plan.start.regime is Regime.HEAD:
        hardware = head_hardware(hardware.device)
    saver = CheckpointSaver(run, origin)
    try:
        with translate_out_of_memory(batches.batch_size):
            fit(
                state,
                batches,
                schedule,
                hardware,
                report=context.report,
                stop=context.stop,
                saver=saver,
            )
    except DivergedError as error:
        raise _keep_last_good(error, plan, context, state, run) from None
    finally:  # whatever ends it, and if it is a full disk
        with suppress(RunError):
            write_csv(run.history, EpochRow.header(), (row.values() for row in state.history))
    saver.save(state)
    if schedule.epochs and state.best is not None and state.best.epoch == 0:
        context.report.warn(
            "no epoch has as many of the held-out images right as the linear probe "
            f"({state.best.score[0]:.1%}): the probe is kept"
        )
    install_best(state, plan.start.network)


def _keep_last_good(
    error: DivergedError, plan: Plan, context: Context, state: TrainState, run: RunFolder
) -> DivergedError:
    """Leaves a diverged run with its best weights as its model, if it has any; returns what to say.

    Before the end of an epoch there are none that were ever better than those it began with.
    """
    kept = f"no epoch had ended, and {run.checkpoint} holds the last good state"
    if state.best is not None:
        install_best(state, plan.start.network)
        save_model(run.model, plan.start.network, plan.card(context.hardware))
        kept = f"the weights of epoch {state.best.epoch} are kept: {run.model}"
    return DivergedError(
        error.expected,
        found=f"{error.found}; {kept}",
        hint=f"swinclf train {command_line([str(plan.dataset.root)])} {error.hint}",
    )
