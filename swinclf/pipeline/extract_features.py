"""Read every image once: extract features, find unreadable files, report dataset problems."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

from swinclf.data.dataset import Dataset, assign_splits
from swinclf.data.folder import TRAIN, FolderIndex, SkippedFile
from swinclf.data_quality.findings import Finding, format_finding, quick_findings
from swinclf.device import command_line, fixed_batch_size, translate_out_of_memory
from swinclf.errors import DataError, ExitCode, Interrupted
from swinclf.models.compute import Computer
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import StartingModel
from swinclf.reporter import Reporter
from swinclf.reporting.report_data import EXAMPLES, FindingSummary
from swinclf.training.feature_extraction import (
    MIRROR,
    PLAIN,
    ExtractedFeatures,
    FeatureCaches,
    FeatureExtractor,
    missing_views,
    open_feature_caches,
    views_by_split,
)


def extract_features(
    index: FolderIndex,
    start: StartingModel,
    context: Context,
    *,
    is_resumed: bool = False,
) -> tuple[ExtractedFeatures, Dataset]:
    """Read every image once and, if `start.extracts_features`, extract its features.

    The split is known when all images have been read; missing mirrored views of training images
    are extracted afterwards.

    `is_resumed` is whether the images are those of a run, each in its split.

    Raises:
        DataError: If the readable images are not enough to train on.
        Interrupted: If a signal asked to stop; features computed so far are cached.
    """
    hardware, stop, options = context.hardware, context.stop, start.extraction
    extractor = FeatureExtractor(
        index.root,
        start.preprocess,
        Computer(start.network, hardware) if start.extracts_features else None,
        hardware,
        workers=options.workers,
        report=context.report,
        stop=stop,
        caches=open_user_caches(start, context),
    )
    rule = replace(options.split, val=0.0) if index.has_val else options.split
    views_of = views_by_split(index, rule, mirror=options.mirror)
    with closing(extractor), translate_out_of_memory(fixed_batch_size(hardware.device)):
        extracted = extractor.extracted
        extractor.extract([image.path for image in index.images], views_of)
        if not stop:
            dataset = (
                Dataset(index.root, index.classes, index.images, index.skipped)
                if is_resumed
                else assign_splits(index, extracted.digests, extracted.errors, rule)
            )
        if not stop and options.mirror:
            train_paths = [image.path for image in dataset.of(TRAIN)]
            extractor.extract(missing_views(extracted, train_paths), lambda *_: (PLAIN, MIRROR))
        if stop:
            raise Interrupted(stop.exit_code or ExitCode.INTERRUPTED)
    return extracted, dataset


def open_user_caches(start: StartingModel, context: Context) -> FeatureCaches:
    """Open the user's caches for this network; none if caching is off."""
    options = start.extraction
    if not options.is_cached:
        return FeatureCaches()
    return open_feature_caches(
        start.network if start.extracts_features else None,
        options.network_id,
        start.preprocess,
        context.hardware,
        limit_bytes=options.cache_bytes,
        note=context.report.note,
    )


def report_findings(
    index: FolderIndex, extracted: ExtractedFeatures, report: Reporter
) -> list[FindingSummary]:
    """Warn about dataset problems that reading the images has shown; return them for the report."""
    findings = [one for one in quick_findings(index.images, extracted.digests) if one.needs_fix]
    for finding in findings:
        report.warn(format_finding(finding))
    if findings:
        folder = command_line([str(index.root)])
        report.note(f"all findings, with near-duplicates: swinclf check {folder}")
    return [_summarize(finding) for finding in findings]


def refuse_skipped(skipped: Sequence[SkippedFile]) -> None:
    """Raise a DataError if there are unreadable files, under --strict."""
    if skipped:
        raise DataError(
            "only readable image files, as --strict requires",
            found=f"{len(skipped)} unreadable, e.g. {skipped[0].path}: {skipped[0].reason}",
            hint="swinclf check DATA lists them all; --no-strict skips them",
        )


def _summarize(finding: Finding) -> FindingSummary:
    """Return a finding as a run's report shows it, with its first few images and notes."""
    paths = [path for example in finding.examples for path in example.paths]
    notes = [example.note for example in finding.examples if not example.paths]
    return FindingSummary(finding.message, finding.advice, paths[:EXAMPLES], notes[:EXAMPLES])
