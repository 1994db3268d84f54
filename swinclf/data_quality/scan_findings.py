"""Findings from the scan of a dataset: names, layout and unreadable files."""

from __future__ import annotations

from collections.abc import Iterator

from swinclf.data.class_names import quote_names, similar_names
from swinclf.data.dataset import SIMILAR, classes_without_images
from swinclf.data.folder import FolderIndex
from swinclf.data.scan_notes import most_frequent_reason, remedy_for
from swinclf.data_quality.findings import Example, Finding, FindingKind


def find_scan_faults(index: FolderIndex) -> Iterator[Finding]:
    """Yield lost classes, similar class names and layout problems.

    The scan's `skipped` includes the unreadable files.
    """
    yield from _lost_classes(index)
    similar = similar_names(index.folders)
    if similar:
        yield Finding(
            FindingKind.SIMILAR_NAMES,
            True,
            f"{_count(len(similar), 'group')} of class names that {SIMILAR}",
            "if they are one class, move the images into one folder: each folder is a class now",
            tuple(Example((), quote_names(names)) for names in similar),
        )
    for warning in index.notes.warnings():
        yield Finding(
            FindingKind.LAYOUT,
            True,
            warning,
            "move them, if they should be used",
            (Example((), ""),),
        )
    for note in index.notes.notes():
        yield Finding(
            FindingKind.LAYOUT, False, note, "nothing to do if intended", (Example((), ""),)
        )


def _lost_classes(index: FolderIndex) -> Iterator[Finding]:
    lost, empty = classes_without_images(index)
    if lost:
        reason, _ = most_frequent_reason(one for one in index.skipped if one.label in lost)
        remedy = remedy_for(reason)
        yield Finding(
            FindingKind.LOST_CLASSES,
            True,
            f"{_count(len(lost), 'class folder')} without an image that can be read",
            (f"{remedy}, or " if remedy else "")
            + "replace the files, or remove the folder: training goes without the class",
            tuple(Example((), f"{name}: {reason}") for name, reason in lost.items()),
        )
    if empty:
        yield Finding(
            FindingKind.LOST_CLASSES,
            False,
            f"{_count(len(empty), 'folder')} without an image",
            "these are no classes",
            tuple(Example((), name) for name in empty),
        )


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
