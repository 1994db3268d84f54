"""The HTML page of `check`: one file with thumbnails of a bounded number of examples.

The JSON output has all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from swinclf.data.thumbnails import thumbnails
from swinclf.data_quality.findings import Example, Finding, FindingKind
from swinclf.files import write_text
from swinclf.preprocess import ValueRange
from swinclf.reporting.html import data_uri, page_template

EXAMPLES, PICTURES = 24, 6  # per finding; per example
THUMBNAIL_PX = 160


def write_page(
    path: Path,
    *,
    root: Path,
    images: int,
    classes: int,
    fit: str,
    findings: Sequence[Finding],
    workers: int,
    ranges: tuple[ValueRange, ...] = (),
) -> None:
    """Write the page, which has no scripts and makes no requests.

    `images` and `classes` are the numbers of readable images and of classes, `fit` the suggested
    --fit and the reason. Paths in the findings are relative to `root`. `workers` is the number of
    threads that read thumbnails, as of `map_ahead`; a file without one is listed all the same.
    """
    views = list(_finding_views(findings))
    files = [path for view in views for one in view["shown"] for path in one.paths[:PICTURES]]
    pictures = thumbnails(root, files, workers=workers, side_px=THUMBNAIL_PX, ranges=ranges)
    for view in views:
        view["examples"] = [_example(one, pictures) for one in view["shown"]]
    page = page_template("data_quality", "page.html.jinja").render(
        name_of_data=root.name,
        images=images,
        classes=classes,
        fit=fit,
        findings=views,
        fixes=sum(finding.needs_fix for finding in findings),
    )
    write_text(path, page)


def _finding_views(findings: Sequence[Finding]) -> Iterator[dict[str, Any]]:
    """Yield the findings, without groups of files that an earlier one has shown."""
    shown: set[frozenset[str]] = set()
    for finding in findings:
        groups = [(frozenset(one.paths), one) for one in finding.examples]
        new = [one for group, one in groups if len(group) < 2 or group not in shown]
        repeated = len(groups) - len(new)
        spare = []
        if finding.kind is FindingKind.EXACT_DUPLICATES:
            # Of a group in an earlier finding, the right copy is not known.
            earlier = frozenset().union(*shown)
            decided = (one for one in new if earlier.isdisjoint(one.paths))
            spare = [path for one in decided for path in one.paths[1:]]
        shown |= {group for group, _ in groups}
        yield {
            "finding": finding,
            "shown": new[:EXAMPLES],
            "repeated": repeated,
            "more": len(new[EXAMPLES:]),
            "spare": spare,  # files that can be deleted, as an equal file remains
        }


def _example(example: Example, pictures: Iterator[bytes | None]) -> dict[str, Any]:
    """Return an example with the next of the `pictures`, which end early if the disk is gone."""
    paths = example.paths[:PICTURES]
    jpegs = [next(pictures, None) for _ in paths]
    return {
        "thumbnails": [
            (path, data_uri(jpeg, "jpeg") if jpeg else "")
            for path, jpeg in zip(paths, jpegs, strict=True)
        ],
        "more": len(example.paths) - len(paths),
        "note": example.note,
    }
