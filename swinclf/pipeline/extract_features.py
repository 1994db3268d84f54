"""The one look at every image: which can be read, what a frozen network sees, what is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing

from swinclf.data.dataset import Dataset, assign_splits
from swinclf.data.folder import TRAIN, FolderIndex, SkippedFile
from swinclf.data_quality.quick_check import format_finding, quick_findings, to_report_finding
from swinclf.device import command_line, fixed_batch_size, translate_out_of_memory
from swinclf.errors import DataError, ExitCode, Interrupted
from swinclf.models.compute import Computer
from swinclf.pipeline.plan import Context
from swinclf.pipeline.start import Start
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import FindingSummary
from swinclf.training.feature_extraction import (
    MIRROR,
    PLAIN,
    Known,
    Look,
    Looker,
    open_known,
    views_by_split,
    views_missing,
)


def look_at_images(
    index: FolderIndex,
    start: Start,
    context: Context,
    *,
    is_resumed: bool = False,
) -> tuple[Look, Dataset]:
    """Reads every image once; where trained weights can tell something by it, keeps its features.

    Which images are held out is known when all have been read; those that are trained on after all
    are then looked at once more.

    Args:
        index: The images.
        start: The network, and how images are read.
        context: Where it runs.
        is_resumed: Whether the images are those of a run, each in its split.

    Raises:
        DataError: If what can be read cannot be trained on.
        Interrupted: If a signal asked to stop; what is known so far is kept.
    """
    hardware, stop, options = context.hardware, context.stop, start.extraction
    looker = Looker(
        index.root,
        start.preprocess,
        Computer(start.network, hardware) if start.keeps_features else None,
        hardware,
        workers=options.workers,
        report=context.report,
        stop=stop,
        known=known_features(start, context),
    )
    views_of = views_by_split(
        index, mirror=options.mirror, val_split=options.val_split, seed=options.seed
    )
    with closing(looker), translate_out_of_memory(fixed_batch_size(hardware.device)):
        look = looker.seen
        looker.look([image.path for image in index.images], views_of)
        if not stop:
            dataset = (
                Dataset(index.root, index.classes, index.images, index.skipped)
                if is_resumed
                else assign_splits(
                    index, look.digests, look.errors, val_split=options.val_split, seed=options.seed
                )
            )
        if not stop and options.mirror:
            trained_on = [image.path for image in dataset.of(TRAIN)]
            looker.look(views_missing(look, trained_on), lambda *_: (PLAIN, MIRROR))
        if stop:
            raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)
    return look, dataset


def known_features(start: Start, context: Context) -> Known:
    """What the user's cache holds for this network; nothing where it is not to be used."""
    options = start.extraction
    if not options.is_cached:
        return Known()
    return open_known(
        start.network if start.keeps_features else None,
        options.described,
        start.preprocess,
        context.hardware,
        limit_bytes=options.cache_bytes,
        say=context.report.note,
    )


def find_faults(index: FolderIndex, look: Look, report: Reporter) -> list[FindingSummary]:
    """What the look has shown to be wrong with the images, for the report; says it, too."""
    faults = [one for one in quick_findings(index.images, look.digests) if one.needs_fix]
    for fault in faults:
        report.warn(format_finding(fault))
    if faults:
        report.note(f"all of it, and near copies: swinclf check {command_line([str(index.root)])}")
    return [to_report_finding(fault) for fault in faults]


def refuse_skipped(skipped: Sequence[SkippedFile]) -> None:
    """What --strict says to files that cannot be read.

    Raises:
        DataError: If there are any.
    """
    if skipped:
        raise DataError(
            "every file named like an image to be one, as --strict asks",
            found=f"{len(skipped)} that cannot be read, e.g. {skipped[0].path}: "
            f"{skipped[0].reason}",
            hint="swinclf check DATA lists them all; or leave them out: --no-strict",
        )
