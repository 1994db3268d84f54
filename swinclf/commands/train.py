"""train: one folder in, one finished run out.

Reads as the story of a run: look at the data, build the network, settle what was left open, train,
score the file that was written. Each step is told in `pipeline`. Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf.config import ResolvedConfig
from swinclf.data.folder import FolderIndex, SkippedFile, scan_folder
from swinclf.data.split_file import read_split, write_split
from swinclf.device import StopFlag, choose_hardware
from swinclf.files import check_free_space
from swinclf.latest_run import mark_latest
from swinclf.metrics import Metrics
from swinclf.pipeline.extract_features import find_faults, look_at_images, refuse_skipped
from swinclf.pipeline.finish import finish
from swinclf.pipeline.fit import fit_best
from swinclf.pipeline.plan import Context, Plan, settle_plan, tell_plan
from swinclf.pipeline.prepare import prepare_baseline, prepare_training
from swinclf.pipeline.ranges import settle_ranges
from swinclf.pipeline.resume import (
    Resumed,
    begin_run,
    how_to_go_on,
    look_at_run_images,
    resume_state,
)
from swinclf.pipeline.start import build_start, settle_machine
from swinclf.pipeline.teacher import find_teacher, teach
from swinclf.reporter import SILENT, Reporter
from swinclf.reporting.report_data import FindingSummary
from swinclf.run_folder import RunClaim, RunFolder, claim_new_run, claim_run
from swinclf.settings import Settings
from swinclf.training.checkpoint import remove_checkpoints
from swinclf.training.compilation import require_compiler
from swinclf.training.setup import feature_batches


@dataclass(frozen=True, repr=False)
class Run:
    """A finished training.

    Attributes:
        folder: Its files by name, such as `run.folder.history`.
        metrics: Scores on the held-out images.
        skipped: Files that could not be used.
        config: The settings it was trained with, defaults resolved.
        epochs: That it trained for; 0 where the head was fitted by L-BFGS alone.
    """

    folder: RunFolder
    metrics: Metrics
    skipped: tuple[SkippedFile, ...]
    epochs: int
    config: ResolvedConfig

    @property
    def path(self) -> Path:
        """The run's folder."""
        return self.folder.path

    def __repr__(self) -> str:
        """Return one line: the folder, the validation images and the accuracy on them."""
        scores = f"images={self.metrics.images}, accuracy={self.metrics.accuracy:.3f}"
        return f"Run(path={self.path.as_posix()!r}, {scores}, skipped={len(self.skipped)})"


def train(
    settings: Settings,
    *,
    report: Reporter = SILENT,
    resume: RunFolder | None = None,
    num_classes: int | None = None,
) -> Run:
    """Trains a classifier on a folder of class folders.

    Args:
        settings: What was asked for (`settings.gather_settings`); of an interrupted run, its own
            (`resume.resume_settings`).
        report: Told of progress, choices and their reasons.
        resume: The interrupted run to go on with.
        num_classes: How many classes the user expects; others are trained all the same, with a
            warning.

    Returns:
        The finished run.

    Raises:
        SwinclfError: If it cannot be done; the text says why, and what to do.
        Interrupted: If a signal asked to stop; everything has been saved.
    """
    stop = StopFlag()
    with stop.handling_signals():
        hardware = choose_hardware(settings.config.device, settings.config.precision)
        if hardware.note:
            report.warn(hardware.note)
        if settings.config.compile:
            require_compiler(hardware.device)
        context = Context(hardware, report, stop)
        if resume is not None:
            with claim_run(resume) as claim:
                resumed = resume_state(claim.run, settings, report)
                return _train(resumed.settings, resumed.index, resumed, claim, context, num_classes)
        config = settings.config
        index = scan_folder(Path(config.data), val=Path(config.val) if config.val else None)
        with claim_new_run(Path(config.out), name=config.name, dataset=index.root) as claim:
            return _train(settings, index, None, claim, context, num_classes)


def _train(
    settings: Settings,
    index: FolderIndex,
    resumed: Resumed | None,
    claim: RunClaim,
    context: Context,
    num_classes: int | None,
) -> Run:
    """Train in a folder that is claimed: first the plan, then the epochs, then the scores."""
    saved = resumed.saved if resumed else None
    plan, faults = _plan(settings, index, resumed, claim.run, context, num_classes)
    features = feature_batches(plan.dataset, plan.look, plan.config, context.hardware.device)
    baseline = prepare_baseline(plan, context, features) if features else None
    state, batches = prepare_training(plan, context, features, baseline, saved)
    origin = saved.origin if saved else begin_run(plan, claim, baseline, state, faults)

    with how_to_go_on(claim.run):
        with context.stop.deferring_signals():
            fit_best(plan, context, state, batches, claim.run, origin)
        scored = finish(plan, context, state.history, claim.run, origin.faults)
        mark_latest(claim.run.path)
        remove_checkpoints(claim.run)
        if resumed and plan.dataset.images != read_split(claim.run.split):
            write_split(claim.run.split, plan.dataset.images)
        return Run(claim.run, scored.metrics, tuple(scored.skipped), state.epoch, plan.config)


def _plan(
    settings: Settings,
    index: FolderIndex,
    resumed: Resumed | None,
    run: RunFolder,
    context: Context,
    num_classes: int | None,
) -> tuple[Plan, list[FindingSummary]]:
    """Build the network, read the images, and settle what was left open.

    Returns:
        The plan, and what is wrong with the dataset; of a resumed run that is known.
    """
    report, saved = context.report, resumed.saved if resumed else None
    settings = settle_machine(settings, context.hardware, index.root)
    settings, start = build_start(settings, index.classes, saved, report)
    settings, teacher = find_teacher(settings, index.classes, saved, context)
    check_free_space(run.path.parent, start.bytes_on_disk, "the weights and what --resume needs")

    start = settle_ranges(index, start, context, saved.origin.ranges if saved else None)
    if resumed:
        look, dataset, changes = look_at_run_images(run, settings, resumed, start, context)
    else:
        look, dataset = look_at_images(index, start, context)
        changes = []
    settings, dataset, teaching = teach(
        settings, teacher, start, dataset, look, context, run if resumed else None
    )
    if num_classes not in (None, len(dataset.classes)):
        report.warn(_other_count(num_classes, dataset.classes))
    if settings.config.strict:
        refuse_skipped(dataset.skipped)
    faults = [] if resumed else find_faults(index, look, report)

    plan = settle_plan(settings, start, dataset, look, teaching)
    tell_plan(plan, context, changes)
    return plan, faults


def _other_count(expected: int | None, classes: Sequence[str]) -> str:
    names = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
    return f"--num-classes {expected}, but the folders hold {len(classes)} classes ({names})"
