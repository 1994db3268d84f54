"""The page of a check: one HTML file with thumbnails, for looking through what was found.

Bounded: so many examples of each finding, so many pictures of each; all of them stand in the JSON.
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

EXAMPLES, PICTURES = 24, 6  # of a finding; of an example
THUMBNAIL_PX = 160


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """A file on the page; `uri` is empty where it gives no picture."""

    path: str
    uri: str


@dataclass(frozen=True, slots=True)
class ShownExample:
    """An example with its pictures.

    Attributes:
        thumbnails: The first few files.
        more: How many there are besides.
        note: What is special about them.
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
    """Writes the page, without scripts and without outside requests.

    Args:
        path: The file, replaced if it is there.
        root: The dataset, which the findings' paths are relative to.
        images: How many are readable.
        classes: How many there are.
        fit: The --fit that is suggested, and why.
        findings: What was found, in the order to be shown.
        ranges: Which values of more than 8 bits are black and white.
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
        mend=sum(finding.mend for finding in findings),
        version=__version__,
    )
    write_text(path, page)


def _shown(root: Path, example: Example, ranges: tuple[ValueRange, ...]) -> ShownExample:
    paths = example.paths[:PICTURES]
    pictures = [thumbnail(root / path, THUMBNAIL_PX, ranges=ranges) for path in paths]
    shown = tuple(
        Thumbnail(path, data_uri(picture, "jpeg") if picture else "")
        for path, picture in zip(paths, pictures, strict=True)
    )
    return ShownExample(shown, len(example.paths) - len(paths), example.note)
