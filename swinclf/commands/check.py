"""check: what is wrong with a dataset, before training on it. Writes nothing into it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swinclf.data.folder import TRAIN, FolderIndex, ImageFile, Skipped, scan_folder
from swinclf.data.value_range import describe_range, measure_ranges
from swinclf.data_quality.duplicate_groups import groups_of, same_bytes
from swinclf.data_quality.findings import (
    Finding,
    Kind,
    find_class_faults,
    find_copies,
    find_pictures,
    find_unreadable,
    suggest_fit,
)
from swinclf.data_quality.image_stats import Facts, read_facts
from swinclf.data_quality.near_duplicates import EMPTY_SPREAD, NearPair, near_pairs
from swinclf.data_quality.scan_findings import find_scan_faults
from swinclf.device import default_workers
from swinclf.errors import ConfigError
from swinclf.files import write_json
from swinclf.preprocess import Fit, ValueRange
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import make_folder

if TYPE_CHECKING:
    from swinclf.pipeline.check_features import DuplicateFeatureExtractor


@dataclass(frozen=True)
class Audit:
    """What a check has found.

    Attributes:
        root: The dataset.
        images: Readable ones, in order of path.
        classes: Names of the class folders, sorted.
        fit: The --fit that suits the pictures' proportions; None without pictures.
        fit_reason: Why.
        findings: What should be mended or is good to know.
        near: Pairs of paths that show one picture in different files, and how well their details
            agree, in [-1, 1].
        ranges: Which values the images use of each sample type of more than 8 bits.
    """

    root: Path
    images: tuple[ImageFile, ...]
    classes: tuple[str, ...]
    fit: Fit | None
    fit_reason: str
    findings: tuple[Finding, ...]
    near: tuple[tuple[str, str, float], ...]
    ranges: tuple[ValueRange, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing should be mended."""
        return not any(finding.mend for finding in self.findings)

    @property
    def has_unreadable(self) -> bool:
        """Whether any file cannot be read."""
        return any(finding.kind is Kind.UNREADABLE for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for JSON; every place of every finding."""
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
                    "mend": finding.mend,
                    "count": finding.count,
                    "says": finding.says,
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
    """Looks for what is wrong with a dataset.

    Args:
        data: A folder of class folders.
        val: A folder that is held out instead of what `data` says, as in a training.
        output: A JSON file for everything found.
        page: An HTML file for it, with thumbnails.
        weights: A run or a weights file whose network looks for near copies, too.
        model: What network a bare weights file is of.
        workers: Threads that read; None for one a core.
        report: Told of progress.

    Raises:
        SwinclfError: If there is no dataset, a file is to be written into it, or the weights are
            not to be had.
    """
    for path in (output, page):
        _refuse_inside(path, data)
    index = scan_folder(data, val=val)
    threads = default_workers() if workers is None else workers
    ranges = measure_ranges([index.root / one.path for one in index.images], workers=threads)
    for one in ranges:
        report.note(describe_range(one))
    viewer = _viewer(weights, model, index, threads, report, ranges)
    facts = read_facts(index.root, index.images, workers=threads, report=report, ranges=ranges)
    rows = np.nonzero(facts.readable)[0]
    seen = (
        viewer.extract(index.root, [index.images[row].path for row in rows], rows)
        if viewer
        else None
    )
    near = near_pairs(index.root, facts, workers=threads, report=report, seen=seen)
    if viewer:
        added = sum(pair.by_features for pair in near)
        report.note(f"features added {added:,} of {len(near):,} pairs of near copies")
    audit = _conclude(index, facts, near)
    if output is not None:
        write_json(make_folder(output.parent) / output.name, audit.to_dict())
    if page is not None:
        _write_page(page, audit)
    return audit


def _write_page(page: Path, audit: Audit) -> None:
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
        ranges=audit.ranges,
    )


def _viewer(
    weights: Path | None,
    model: str | None,
    index: FolderIndex,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...],
) -> DuplicateFeatureExtractor | None:
    """The network that looks for copies, if one was given."""
    if weights is None and model is None:
        return None
    if weights is None:
        raise ConfigError(
            "weights for the network of --model",
            found="no --weights",
            hint="--weights FILE, or a run, which knows its model",
        )
    from swinclf.pipeline.check_features import (
        build_duplicate_extractor,
    )  # torch takes seconds to load

    return build_duplicate_extractor(
        weights, model, index, workers=workers, report=report, ranges=ranges
    )


def _conclude(index: FolderIndex, facts: Facts, near: Sequence[NearPair]) -> Audit:
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
    facts: Facts,
    near: Sequence[NearPair],
    images: Sequence[ImageFile],
    rows: np.ndarray,
) -> Iterator[Finding]:
    """What should be mended first, and the more harmful first of these."""
    broken = [
        Skipped(image.path, error, image.label)
        for image, error in zip(index.images, facts.errors, strict=True)
        if error
    ]
    same = same_bytes(facts.digests)
    linked = groups_of([*same, *((one.first, one.second) for one in near)])
    empty = facts.spreads[rows] < EMPTY_SPREAD
    scanned = replace(
        index,
        classes=tuple(sorted({image.label for image in images if image.split in ("", TRAIN)})),
        skipped=(*index.skipped, *broken),
    )
    found = [
        *find_scan_faults(scanned),
        *find_unreadable(scanned.skipped),
        *find_copies(index.images, same, linked),
        *find_class_faults(images),
        *find_pictures(images, facts.sizes[rows], facts.orientations[rows], empty),
    ]
    yield from sorted(found, key=lambda finding: not finding.mend)


def _refuse_inside(path: Path | None, data: Path) -> None:
    if path is not None and path.resolve().is_relative_to(data.resolve()):
        raise ConfigError(
            f"a file outside the dataset '{data}' (nothing is ever written into a dataset)",
            found=f"'{path}'",
            hint=f"'{data.resolve().parent / path.name}'",
        )
