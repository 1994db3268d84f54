"""Findings about the files and names of a dataset, as far as its scan sees them."""

from __future__ import annotations

from collections.abc import Iterator

from swinclf.data.class_names import quoted_together, similar_names
from swinclf.data.dataset import SIMILAR, classes_without_images
from swinclf.data.folder import FolderIndex
from swinclf.data.scan_notes import commonest_reason, remedy_for
from swinclf.data_quality.findings import Example, Finding, Kind


def find_scan_faults(index: FolderIndex) -> Iterator[Finding]:
    """Yield what the names and kinds of files tell.

    Args:
        index: A scan, with what could not be read among what is skipped.
    """
    yield from _lost_classes(index)
    similar = similar_names(index.folders)
    if similar:
        yield Finding(
            Kind.SIMILAR_NAMES,
            True,
            f"{_count(len(similar), 'group')} of class names that {SIMILAR}",
            "if they are one class, move the images into one folder: each folder is a class now",
            tuple(Example((), quoted_together(names)) for names in similar),
        )
    for warning in index.notes.warnings():
        yield Finding(
            Kind.LAYOUT, True, warning, "move them, if they should be used", (Example((), ""),)
        )
    for note in index.notes.notes():
        yield Finding(Kind.LAYOUT, False, note, "nothing to do, if so meant", (Example((), ""),))


def _lost_classes(index: FolderIndex) -> Iterator[Finding]:
    lost, empty = classes_without_images(index)
    if lost:
        reason, _ = commonest_reason(one for one in index.skipped if one.label in lost)
        remedy = remedy_for(reason)
        yield Finding(
            Kind.LOST_CLASSES,
            True,
            f"{_count(len(lost), 'class folder')} without an image that can be read",
            (f"{remedy}, or " if remedy else "")
            + "replace the files, or take the folder out: training goes without the class",
            tuple(Example((), f"{name}: {reason}") for name, reason in lost.items()),
        )
    if empty:
        yield Finding(
            Kind.LOST_CLASSES,
            False,
            f"{_count(len(empty), 'folder')} without an image",
            "these are no classes",
            tuple(Example((), name) for name in empty),
        )


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
