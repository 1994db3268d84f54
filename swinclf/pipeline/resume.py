"""A run that can be gone on with: what it needs is written, read again, and the command said."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from swinclf.config import SETTINGS, Settings, Source, TrainConfig, command_of, gather_settings
from swinclf.data.folder import FolderIndex, Skipped
from swinclf.data.split_file import read_split, write_split
from swinclf.errors import Interrupted, RunError
from swinclf.evaluation.sections import Finding
from swinclf.files import cannot_write, read_csv, read_json, write_json
from swinclf.inference.results import write_skipped
from swinclf.pipeline.plan import Plan
from swinclf.progress import Reporter
from swinclf.runs import Claim, RunFolder
from swinclf.runtime import command_line, versions
from swinclf.training.checkpoint import Checkpoint, read_checkpoint, save_checkpoint, step_back
from swinclf.training.logistic import Baseline
from swinclf.training.loop import TrainState
from swinclf.training.origin import Origin, check_settings, origin_of


def begin_run(
    plan: Plan,
    claim: Claim,
    baseline: Baseline | None,
    state: TrainState,
    faults: Sequence[Finding],
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
    facts = {"command": command_of(plan.settings), "versions": versions()}
    write_json(run.config, {**plan.settings.to_dict(), **facts})
    write_json(run.class_indices, {str(n): name for n, name in enumerate(dataset.classes)})
    write_split(run.split, dataset.images)
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
    )
    save_checkpoint(run, state, origin)
    claim.publish()
    return origin


def resume_settings(run: RunFolder, *, workers: int | None = None) -> Settings:
    """The settings of an interrupted run, exactly as they were resolved.

    Args:
        run: The run.
        workers: Threads that read, another number than before; it changes no bit.

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
        if workers is not None:
            values["workers"], sources["workers"] = workers, Source.FLAG
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"the settings of a run in '{run.config}'",
            found=f"{type(error).__name__}: {error}",
            hint="swinclf train DATA",
        ) from error
    # What --freeze-stages settles about --freeze-layers is recorded, but not to be asked for.
    settled = (
        {"freeze_layers": values.pop("freeze_layers")}
        if values["freeze_stages"] is not None
        else {}
    )
    return Settings(replace(gather_settings(values).config, **settled), sources, reasons)


def resume_images(run: RunFolder, config: TrainConfig) -> FolderIndex:
    """The images of an interrupted run, each in its split, and what it does without.

    Raises:
        RunError: If its tables cannot be read.
    """
    images, classes = read_split(run.split), read_json(run.class_indices)
    skipped = read_csv(run.skipped) if run.skipped.is_file() else []
    return FolderIndex(
        root=Path(config.data),
        classes=tuple(map(str, classes.values())),
        images=images,
        skipped=tuple(Skipped(row["path"], row["reason"]) for row in skipped),
        has_val=True,
    )


def resume_state(
    run: RunFolder, settings: Settings, report: Reporter
) -> tuple[Checkpoint, list[str]]:
    """What an interrupted run goes on from, and what has changed since and may.

    Args:
        run: The run, claimed.
        settings: Its own, before anything is chosen.
        report: Told if the newest checkpoint cannot be read.

    Raises:
        RunError, WeightsError: If there is none that can, or what may not change has.
    """
    saved = read_checkpoint(run)
    if saved.instead_of:
        report.warn(
            f"{run.checkpoint} cannot be read ({saved.instead_of}): going on from the one before it"
        )
        step_back(run)
    return saved, check_settings(saved.origin, settings, run)


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
