"""The HTML page of `check`: one file with thumbnails of a bounded number of examples.

The JSON output has all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from swinclf import __version__
from swinclf.data.thumbnails import thumbnail
from swinclf.data_quality.findings import Example, Finding
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
class ExampleView:
    """An example with its thumbnails.

    Attributes:
        thumbnails: Of the first few files.
        more: Number of files that are not shown.
        note: As in `Example`.
    """

    thumbnails: tuple[Thumbnail, ...]
    more: int
    note: str


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
    shown = [
        (finding, [_shown(root, one, ranges) for one in finding.examples[:EXAMPLES]])
        for finding in findings
    ]
    page = page_template("data_quality", "page.html.jinja").render(
        data=str(root),
        name_of_data=root.name,
        images=images,
        classes=classes,
        fit=fit,
        findings=shown,
        fixes=sum(finding.needs_fix for finding in findings),
        version=__version__,
    )
    write_text(path, page)


def _shown(root: Path, example: Example, ranges: tuple[ValueRange, ...]) -> ExampleView:
    paths = example.paths[:PICTURES]
    pictures = [thumbnail(root / path, THUMBNAIL_PX, ranges=ranges) for path in paths]
    shown = tuple(
        Thumbnail(path, data_uri(picture, "jpeg") if picture else "")
        for path, picture in zip(paths, pictures, strict=True)
    )
    return ExampleView(shown, len(example.paths) - len(paths), example.note)
