"""train: one folder in, one finished run out.

Reads as the story of a run: look at the data, build the network, settle what was left open, train,
score the file that was written. Each step is told in `pipeline`. Knows no terminal.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from swinclf.config import Settings
from swinclf.data.folder import FolderIndex, Skipped, scan_folder
from swinclf.evaluation.metrics import Metrics
from swinclf.files import check_room
from swinclf.latest import mark_latest
from swinclf.pipeline.finish import finish
from swinclf.pipeline.fit import fit_best
from swinclf.pipeline.look import find_faults, look_at_images, refuse_skipped
from swinclf.pipeline.plan import Context, settle_plan, tell_plan
from swinclf.pipeline.prepare import prepare_baseline, prepare_training
from swinclf.pipeline.resume import begin_run, how_to_go_on, resume_images, resume_state
from swinclf.pipeline.start import build_start, settle_machine
from swinclf.progress import SILENT, Reporter
from swinclf.runs import Claim, RunFolder, claim_new_run, claim_run
from swinclf.runtime import StopFlag, choose_hardware
from swinclf.training.checkpoint import remove_checkpoints
from swinclf.training.compiling import require_compiler
from swinclf.training.origin import check_images
from swinclf.training.regimes import feature_batches


@dataclass(frozen=True)
class Run:
    """A finished training.

    Attributes:
        folder: Its files.
        metrics: On the images that were held out.
        skipped: Files that could not be used.
    """

    folder: RunFolder
    metrics: Metrics
    skipped: tuple[Skipped, ...]


def train(settings: Settings, *, report: Reporter = SILENT, resume: RunFolder | None = None) -> Run:
    """Trains a classifier on a folder of class folders.

    Args:
        settings: What was asked for (`config.gather_settings`); of an interrupted run, its own
            (`resume.resume_settings`).
        report: Told of progress, choices and their reasons.
        resume: The interrupted run to go on with.

    Returns:
        The finished run.

    Raises:
        SwinclfError: If it cannot be done; the text says why, and what to do.
        Interrupted: If a signal asked to stop; everything has been saved.
    """
    stop = StopFlag()
    with stop.listening():
        hardware = choose_hardware(settings.config.device, settings.config.precision)
        if settings.config.compile:
            require_compiler(hardware.device)
        context = Context(hardware, report, stop)
        index = _list_images(settings, resume)
        with _claim(settings, index, resume) as claim:
            saved, changes = resume_state(claim.run, settings, report) if resume else (None, [])

            settings = settle_machine(settings, hardware, index.root)
            settings, start = build_start(settings, index.classes, saved, report)
            large = "the weights and what --resume needs"
            check_room(claim.run.path.parent, start.bytes_on_disk, large)

            look, dataset = look_at_images(
                settings.config, index, start, context, is_resumed=saved is not None
            )
            if settings.config.strict:
                refuse_skipped(dataset.skipped)
            faults = [] if saved else find_faults(index, look, report)
            if saved:
                changes += check_images(saved.origin, dataset, look.digests, look.errors, claim.run)

            plan = settle_plan(settings, start, dataset, look)
            tell_plan(plan, context, changes)
            features = feature_batches(dataset, look, plan.config, hardware.device)
            baseline = prepare_baseline(plan, context, features) if features else None
            state, batches = prepare_training(plan, context, features, baseline, saved)
            origin = saved.origin if saved else begin_run(plan, claim, baseline, state, faults)

            with how_to_go_on(claim.run):
                with stop.patiently():
                    fit_best(plan, context, state, batches, claim.run, origin)
                scored = finish(plan, context, state.history, claim.run, origin.faults)
                mark_latest(claim.run.path)
                remove_checkpoints(claim.run)
                return Run(claim.run, scored.metrics, tuple(scored.skipped))


def _list_images(settings: Settings, resume: RunFolder | None) -> FolderIndex:
    """The images: those in the folder, or those that the run to resume was begun with."""
    config = settings.config
    if resume is not None:
        return resume_images(resume, config)
    return scan_folder(Path(config.data), val=Path(config.val) if config.val else None)


def _claim(
    settings: Settings, index: FolderIndex, resume: RunFolder | None
) -> AbstractContextManager[Claim]:
    """The run's folder, for this process alone."""
    if resume is not None:
        return claim_run(resume)
    config = settings.config
    return claim_new_run(Path(config.out), name=config.name, dataset=index.root)
