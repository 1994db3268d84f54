"""check: find the problems of a dataset before training on it. Writes nothing into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from swinclf.data.folder import TRAIN, FolderIndex, ImageFile, SkippedFile, scan_folder
from swinclf.data.value_range import describe_range, measure_ranges
from swinclf.data_quality.findings import (
    Finding,
    FindingKind,
    connected_components,
    find_class_faults,
    find_duplicates,
    find_image_faults,
    find_scan_faults,
    find_unreadable,
    group_identical,
    suggest_fit,
)
from swinclf.data_quality.image_stats import ImageStats, read_image_stats
from swinclf.data_quality.near_duplicates import (
    EMPTY_SPREAD,
    MirroredFeatures,
    NearPair,
    find_near_pairs,
)
from swinclf.device import default_workers
from swinclf.errors import ConfigError
from swinclf.files import check_can_write, write_json
from swinclf.models.embedded import EMBEDDED
from swinclf.preprocess import Fit, ValueRange
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import make_folder, refuse_inside


@dataclass(frozen=True)
class Audit:
    """The result of a check."""

    root: Path
    images: tuple[ImageFile, ...]  # readable images, in order of path
    classes: tuple[str, ...]  # names of the class folders, sorted
    fit: Fit | None  # the recommended --fit for the images' aspect ratios; None without images
    fit_reason: str
    findings: tuple[Finding, ...]  # problems to fix, and remarks
    # near duplicates: two paths and their agreement after registration, in [-1, 1]
    near: tuple[tuple[str, str, float], ...]
    # value ranges of the images for each sample type of more than 8 bits
    ranges: tuple[ValueRange, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether there is nothing to fix."""
        return not any(finding.needs_fix for finding in self.findings)

    @property
    def has_unreadable(self) -> bool:
        """Whether any file cannot be read."""
        return any(finding.kind is FindingKind.UNREADABLE for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON, with all examples of each finding."""
        counts = dict.fromkeys(self.classes, 0)
        for image in self.images:
            counts[image.label] = counts.get(image.label, 0) + 1
        return {
            "data": str(self.root),
            "images": len(self.images),
            "classes": counts,
            "clean": self.is_clean,
            "fit": self.fit,
            "fit_reason": self.fit_reason,
            "value_ranges": {one.kind: [one.low, one.high] for one in self.ranges},
            "findings": [
                {
                    "kind": finding.kind,
                    "mend": finding.needs_fix,
                    "count": finding.count,
                    "says": finding.message,
                    "advice": finding.advice,
                    "examples": [
                        {"paths": list(one.paths), "note": one.note} for one in finding.examples
                    ],
                }
                for finding in self.findings
            ],
            "near_pairs": [
                {"paths": [first, second], "agreement": round(agreement, 4)}
                for first, second, agreement in self.near
            ],
        }


def check(
    data: Path,
    *,
    val: Path | None = None,
    output: Path | None = None,
    page: Path | None = None,
    weights: Path | None = None,
    model: str | None = None,
    workers: int | None = None,
    report: Reporter = SILENT,
) -> Audit:
    """Find the problems of a dataset.

    `data` is a folder of class folders; images in `val` override a split in it, as in training. The
    findings are written to `output` (JSON) and `page` (HTML with thumbnails), if given.

    The features of `weights`, a run or a weights file, are also used to find near duplicates;
    `model` is the network of a weights file without a model card. `workers` is the number of
    threads that decode; None for one a core.

    Raises:
        SwinclfError: If there is no dataset, an output file is inside it or cannot be written, or
            the weights are not available.
    """
    refuse_inside(data, output, "--output")
    refuse_inside(data, page, "--page")
    for path in (output, page):
        if path is not None:
            check_can_write(path)
    index = scan_folder(data, val=val)
    threads = default_workers() if workers is None else workers
    ranges = measure_ranges([index.root / one.path for one in index.images], workers=threads)
    for one in ranges:
        report.note(describe_range(one))
    features = _features(weights, model, index, threads, report, ranges)
    facts = read_image_stats(
        index.root, index.images, workers=threads, report=report, ranges=ranges
    )
    near = find_near_pairs(index.root, facts, workers=threads, report=report, features=features)
    if features is not None:
        added = sum(pair.by_features for pair in near)
        report.note(f"features added {added:,} of {len(near):,} pairs of near duplicates")
    audit = _conclude(index, facts, near)
    if output is not None:
        write_json(make_folder(output.parent) / output.name, audit.to_dict())
    if page is not None:
        _write_page(page, audit, threads)
    return audit


def _write_page(page: Path, audit: Audit, workers: int) -> None:
    from swinclf.data_quality.check_page import (
        write_page,  # its fonts and templates take a second to load
    )

    make_folder(page.parent)
    write_page(
        page,
        root=audit.root,
        images=len(audit.images),
        classes=len(audit.classes),
        fit=f"--fit {audit.fit}: {audit.fit_reason}" if audit.fit else "",
        findings=audit.findings,
        workers=workers,
        ranges=audit.ranges,
    )


def _features(
    weights: Path | None,
    model: str | None,
    index: FolderIndex,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...],
) -> MirroredFeatures | None:
    """Extract features for the search for near duplicates; None if no network is given."""
    if weights is None and model is None:
        return None
    if weights is None and model != EMBEDDED:
        raise ConfigError(
            "weights for the network of --model",
            found="no --weights",
            hint=f"--weights FILE, --weights RUN without --model, or --model {EMBEDDED}",
        )
    from swinclf.pipeline.check_features import extract_duplicate_features  # imports torch: seconds

    return extract_duplicate_features(
        weights, model, index, workers=workers, report=report, ranges=ranges
    )


def _conclude(index: FolderIndex, facts: ImageStats, near: Sequence[NearPair]) -> Audit:
    rows = np.nonzero(facts.readable)[0]
    images = [index.images[row] for row in rows]
    sizes = facts.sizes[rows]
    fit, reason = suggest_fit(sizes) if len(rows) else (None, "")
    return Audit(
        root=index.root,
        images=tuple(images),
        classes=tuple(sorted({image.label for image in index.images})),
        fit=fit,
        fit_reason=reason,
        ranges=facts.ranges,
        findings=tuple(_findings(index, facts, near, images, rows)),
        near=tuple(
            (index.images[one.first].path, index.images[one.second].path, one.agreement)
            for one in near
        ),
    )


def _findings(
    index: FolderIndex,
    facts: ImageStats,
    near: Sequence[NearPair],
    images: Sequence[ImageFile],
    rows: np.ndarray,
) -> Iterator[Finding]:
    """Yield the findings, problems to fix first and in order of severity."""
    broken = [
        SkippedFile(image.path, error, image.label)
        for image, error in zip(index.images, facts.errors, strict=True)
        if error
    ]
    same = group_identical(facts.digests)
    linked = connected_components([*same, *((one.first, one.second) for one in near)])
    empty = facts.spreads[rows] < EMPTY_SPREAD
    scanned = replace(
        index,
        classes=tuple(sorted({image.label for image in images if image.split in ("", TRAIN)})),
        skipped=(*index.skipped, *broken),
    )
    found = [
        *find_scan_faults(scanned),
        *find_unreadable(scanned.skipped),
        *find_duplicates(index.images, same, linked),
        *find_class_faults(images),
        *find_image_faults(images, facts.sizes[rows], facts.orientations[rows], empty),
    ]
    yield from sorted(found, key=lambda finding: not finding.needs_fix)
