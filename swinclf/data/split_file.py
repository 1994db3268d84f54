"""split.csv: the images of a run, each with its label and its split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from swinclf.data.folder import ImageFile
from swinclf.files import read_csv, write_csv

COLUMNS = ("path", "label", "split")


def write_split(path: Path, images: Sequence[ImageFile]) -> None:
    """Write split.csv; see `files.write_bytes`."""
    write_csv(path, COLUMNS, map(astuple, images))


def read_split(path: Path) -> tuple[ImageFile, ...]:
    """Return the images, in order.

    Raises:
        RunError: If the file cannot be read, or is not such a table.
    """
    rows = read_csv(path, COLUMNS)
    return tuple(ImageFile(row["path"], row["label"], row["split"]) for row in rows)
