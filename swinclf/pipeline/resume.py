"""A run that can be gone on with: what it needs is written, read again, and the command said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from swinclf.config import SETTINGS
from swinclf.data.dataset import Dataset
from swinclf.data.folder import FolderIndex
from swinclf.data.relocate import FROM_RUN, path_from_run
from swinclf.data.split_file import read_split, write_split
from swinclf.data.unlabelled import write_unlabelled
from swinclf.device import command_line, versions
from swinclf.errors import Interrupted, RunError
from swinclf.files import cannot_write, write_json
from swinclf.inference.results import write_skipped
from swinclf.pipeline.extract_features import look_at_images
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.run_images import (
    find_run_images,
    images_by_content,
    record_folder,
    renamed_in_words,
)
from swinclf.pipeline.start import Start
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunClaim, RunFolder
from swinclf.settings import Settings, Source, command_of, gather_settings
from swinclf.training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint, step_back
from swinclf.training.feature_extraction import Look
from swinclf.training.logistic_regression import Baseline
from swinclf.training.loop import TrainState
from swinclf.training.resume_guard import Origin, check_images, check_settings, origin_of


def begin_run(
    plan: Plan,
    claim: RunClaim,
    baseline: Baseline | None,
    state: TrainState,
    faults: Sequence[FindingSummary],
) -> Origin:
    """Writes all that is known before training and the state to begin with: now it is a run.

    Args:
        plan: The training.
        claim: A draft of its folder.
        baseline: What a head does on the network as it is, where that is known.
        state: Before the first step.
        faults: What is wrong with the dataset.

    Raises:
        RunError: If a file cannot be written; then there is no run.
    """
    run, dataset = claim.run, plan.dataset
    facts: dict[str, Any] = {
        "command": command_of(plan.settings),
        "versions": versions(),
        FROM_RUN: path_from_run(dataset.root, run),
    }
    if plan.start.loaded is not None:
        facts["weights_loaded"] = plan.start.loaded.to_dict()
    teaching = plan.teaching
    if teaching is not None:
        facts["teacher_digest"] = teaching.digest
    write_json(run.config, {**plan.settings.to_dict(), **facts})
    write_json(run.class_indices, {str(n): name for n, name in enumerate(dataset.classes)})
    write_split(run.split, dataset.images)
    if teaching is not None and teaching.unlabelled is not None:
        write_unlabelled(run.unlabelled, teaching.unlabelled)
    if dataset.skipped:
        write_skipped(run.skipped, [(one.path, one.reason) for one in dataset.skipped])
    if baseline is not None:
        write_json(run.baseline, baseline.facts())
    origin = origin_of(
        plan.settings,
        run,
        dataset,
        plan.look.digests,
        network=plan.start.frozen_digest,
        faults=faults,
        preprocess=plan.start.preprocess,
        teacher=teaching.digest if teaching is not None else "",
    )
    save_checkpoint(run, state, origin)
    claim.publish()
    return origin


def resume_settings(run: RunFolder, given: Mapping[str, Any] | None = None) -> Settings:
    """The settings of an interrupted run, exactly as they were resolved.

    Args:
        run: The run.
        given: New values by name, of `MOVABLE` settings alone: where the images or the weights are
            now, how many threads read. They change no bit.

    Raises:
        RunError: If there is nothing to go on with.
    """
    has_state = run.checkpoint.is_file() or run.previous_checkpoint.is_file()
    if run.is_finished and not has_state:  # with it, something of the end was left to do
        raise RunError(
            f"an interrupted run at '{run.path}'",
            found="a finished one",
            hint=f"swinclf train DATA --weights '{run.path}' starts a new run from its weights",
        )
    if not has_state:
        raise RunError(
            f"the saved state of a run, '{run.checkpoint}'",
            found="none: it stopped before anything was saved",
            hint="swinclf train DATA",
        )
    try:
        saved: Mapping[str, Any] = json.loads(run.config.read_text(encoding="utf-8"))
        values = {name: saved[name] for name in SETTINGS}
        sources = {name: Source(saved["sources"][name]) for name in SETTINGS}
        reasons = dict(saved["reasons"])
        values |= given or {}
        sources |= dict.fromkeys(given or {}, Source.FLAG)
    except KeyError as error:
        raise RunError(
            f"every setting of the run in '{run.config}'",
            found=f"none called {error}: the run was started by another version of swinclf",
            hint="that version, or a new run: swinclf train DATA",
        ) from error
    except (OSError, TypeError, ValueError) as error:
        raise RunError(
            f"the settings of a run in '{run.config}'",
            found=f"{type(error).__name__}: {error}",
            hint="swinclf train DATA",
        ) from error
    # What --freeze-stages settles about --freeze-layers, and that a linear probe has no epochs, is
    # recorded, but not to be asked for.
    settled = {}
    if values["freeze_stages"] is not None:
        settled = {"freeze_layers": values.pop("freeze_layers")}
    elif values["epochs"] == 0:
        settled = {name: values.pop(name) for name in ("epochs", "lr")}
    return Settings(replace(gather_settings(values).config, **settled), sources, reasons)


@dataclass(frozen=True)
class Resumed:
    """What an interrupted run goes on from.

    Attributes:
        saved: Its state.
        settings: Its settings, with the folder where its images are now.
        index: Its images, each in its split, and what it does without.
        changes: What has changed since and may, a line each.
    """

    saved: Checkpoint
    settings: Settings
    index: FolderIndex
    changes: list[str]


def resume_state(run: RunFolder, settings: Settings, report: Reporter) -> Resumed:
    """What an interrupted run goes on from.

    Args:
        run: The run, claimed.
        settings: Its own, before anything is chosen.
        report: Told if the newest checkpoint cannot be read.

    Raises:
        RunError, WeightsError: If there is none that can, or what may not change has.
        DataError: If there is no folder of the name that was given.
    """
    saved = read_checkpoint(run)
    settings, index = find_run_images(run, settings, saved.origin)
    changes = check_settings(saved.origin, settings, run)
    if saved.instead_of:
        report.warn(
            f"{run.checkpoint} cannot be read ({saved.instead_of}): going on from the one before it"
        )
        step_back(run)
    return Resumed(saved, settings, index, changes)


def look_at_run_images(
    run: RunFolder, settings: Settings, resumed: Resumed, start: Start, context: Context
) -> tuple[Look, Dataset, list[str]]:
    """Reads every image of an interrupted run once, under whatever name it has now.

    Args:
        run: The run; its settings are written again if the images have moved.
        settings: With what was chosen by machine and network.
        resumed: What is gone on from.
        start: The network that looks.
        context: Where it runs.

    Returns:
        The look, the images, and what has changed since and may, a line each.

    Raises:
        RunError: If an image of the run has gone, or is another one now.
        Interrupted: If a signal asked to stop.
    """
    origin, index = resumed.saved.origin, resumed.index
    look, dataset = look_at_images(index, start, context, is_resumed=True)
    now = images_by_content(settings, index, origin, look)
    if now is not index:
        look, dataset = look_at_images(now, start, context, is_resumed=True)
    renamed = renamed_in_words(read_split(run.split), dataset.images)
    others = check_images(origin, dataset, look.digests, look.errors, run)
    record_folder(run, settings)
    return look, dataset, [*resumed.changes, *renamed, *others]


def resume_command(run: RunFolder) -> str:
    """What to type to go on with a run."""
    return f"swinclf train --resume {command_line([str(run.path)])}"


@contextmanager
def how_to_go_on(run: RunFolder) -> Iterator[None]:
    """Whatever ends a training that has begun says how to go on with it."""
    try:
        yield
    except Interrupted as interrupted:
        raise Interrupted(interrupted.exit_code, resume_command(run)) from None
    except (RunError, OSError) as error:
        named = Path(getattr(error, "filename", None) or run.path / "a file")
        told = error if isinstance(error, RunError) else cannot_write(named, error)
        hint = f"mend that, then: {resume_command(run)}"
        if not run.checkpoint.is_file():  # the folder itself has gone
            hint = "start again: swinclf train DATA"
        raise RunError(told.expected, found=told.found, hint=hint) from error
