"""The HTML page of `check`: one file with thumbnails of a bounded number of examples.

The JSON output has all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf import __version__
from swinclf.data.thumbnails import thumbnail
from swinclf.data_quality.findings import Example, Finding, FindingKind
from swinclf.files import write_text
from swinclf.preprocess import ValueRange
from swinclf.reporting.html import data_uri, page_template

EXAMPLES, PICTURES = 24, 6  # per finding; per example
THUMBNAIL_PX = 160


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image file on the page; `uri` is empty if it cannot be read."""

    path: str
    uri: str


@dataclass(frozen=True, slots=True)
class FindingView:
    """A finding as the page shows it."""

    finding: Finding
    examples: tuple[ExampleView, ...]  # the first of its examples that no earlier finding has shown
    repeated: int  # number of its examples that an earlier finding has shown
    more: int  # number of examples left out
    spare: tuple[str, ...]  # files that can be deleted, as an equal file remains


@dataclass(frozen=True, slots=True)
class ExampleView:
    """An example with its thumbnails."""

    thumbnails: tuple[Thumbnail, ...]  # of the first few files
    more: int  # number of files that are not shown
    note: str  # as in `Example`


def write_page(
    path: Path,
    *,
    root: Path,
    images: int,
    classes: int,
    fit: str,
    findings: Sequence[Finding],
    ranges: tuple[ValueRange, ...] = (),
) -> None:
    """Write the page, which has no scripts and makes no requests.

    Args:
        path: The file; overwritten.
        root: The dataset; paths in the findings are relative to it.
        images: Number of readable images.
        classes: Number of classes.
        fit: The suggested --fit and the reason.
        findings: In display order.
        ranges: Black and white points of images of more than 8 bits.
    """
    page = page_template("data_quality", "page.html.jinja").render(
        name_of_data=root.name,
        images=images,
        classes=classes,
        fit=fit,
        findings=list(_finding_views(root, findings, ranges)),
        fixes=sum(finding.needs_fix for finding in findings),
        version=__version__,
    )
    write_text(path, page)


def _finding_views(
    root: Path, findings: Sequence[Finding], ranges: tuple[ValueRange, ...]
) -> Iterator[FindingView]:
    """Yield the findings, without groups of files that an earlier one has shown."""
    shown: set[frozenset[str]] = set()
    for finding in findings:
        groups = [(frozenset(one.paths), one) for one in finding.examples]
        new = [one for group, one in groups if len(group) < 2 or group not in shown]
        repeated = len(groups) - len(new)
        views = tuple(_shown(root, one, ranges) for one in new[:EXAMPLES])
        spare: tuple[str, ...] = ()
        if finding.kind is FindingKind.EXACT_DUPLICATES:
            # Of a group in an earlier finding, the right copy is not known.
            earlier = frozenset().union(*shown)
            decided = (one for one in new if earlier.isdisjoint(one.paths))
            spare = tuple(path for one in decided for path in one.paths[1:])
        shown |= {group for group, _ in groups}
        yield FindingView(finding, views, repeated, finding.count - repeated - len(views), spare)


def _shown(root: Path, example: Example, ranges: tuple[ValueRange, ...]) -> ExampleView:
    paths = example.paths[:PICTURES]
    pictures = [thumbnail(root / path, THUMBNAIL_PX, ranges=ranges) for path in paths]
    shown = tuple(
        Thumbnail(path, data_uri(picture, "jpeg") if picture else "")
        for path, picture in zip(paths, pictures, strict=True)
    )
    return ExampleView(shown, len(example.paths) - len(paths), example.note)
