"""Results of a dataset scan: images, skipped files and other observations, with their messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from swinclf.data.class_names import list_some

NOTED = 5  # kinds of files that are listed


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image of a dataset."""

    path: str  # relative to the dataset's root, with "/" between folders
    label: str  # the name of its class folder
    split: str = ""  # train, val or test; empty if the folders define no split


@dataclass(frozen=True, slots=True)
class SkippedFile:
    """A file that cannot be used, the reason, and its class if known."""

    path: str
    reason: str
    label: str = ""


@dataclass(frozen=True)
class ScanNotes:
    """Observations of a scan besides its images."""

    layout: tuple[str, ...] = ()  # how unusual folders were interpreted, a sentence each
    warning: str = ""  # why the class folders may not be classes; empty for no doubt
    # classes matched despite different Unicode forms, a sentence each
    renamed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()  # folders next to the splits that are not splits
    loose: int = 0  # number of images outside class folders
    linked_out: int = 0  # number of images outside the dataset that links lead to
    # number of images recognized by content, by extension
    unusual: Mapping[str, int] = field(default_factory=dict)
    # number of files that are not images, by extension
    ignored: Mapping[str, int] = field(default_factory=dict)
    unopened: int = 0  # number of files classified by others of the same extension

    def notes(self) -> Iterator[str]:
        """Yield remarks, a sentence each."""
        yield from self.layout
        yield from self.renamed
        if self.linked_out:
            yield f"{_count(self.linked_out, 'image')} by links to outside the dataset"
        if self.unusual:
            yield (
                f"{_count(sum(self.unusual.values()), 'image')} recognized by content, under other "
                f"extensions: {counts_by_extension(self.unusual)}"
            )
        if self.ignored:
            yield f"ignored, not images: {counts_by_extension(self.ignored)}"
        if self.unopened:
            yield (
                f"{_count(self.unopened, 'file')} classified by others of the same extension, "
                "without being opened"
            )

    def warnings(self) -> Iterator[str]:
        """Yield possible losses, a sentence each."""
        if self.warning:
            yield self.warning
        if self.loose:
            yield f"{_count(self.loose, 'image')} in no class folder: not used"
        if self.unused:
            names = list_some(self.unused)
            yield f"folders next to train that are not splits are not used: {names}"


def counts_by_extension(counts: Mapping[str, int]) -> str:
    """Return the number of files by extension, the most frequent first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {extension or 'without one'}" for extension, count in ranked[:NOTED]]
    more = sum(count for _, count in ranked[NOTED:])
    return ", ".join(shown) + (f" and {more:,} others" if more else "")


def most_frequent_reason(skipped: Iterable[SkippedFile]) -> tuple[str, int]:
    """Return the most frequent reason for skipping a file, and the number of files."""
    counts = Counter(one.reason for one in skipped)
    return counts.most_common(1)[0] if counts else ("", 0)


def remedy_for(reason: str) -> str:
    """Return the command that a reason suggests; empty for none."""
    _, found, command = reason.partition("pip install ")
    return found + command


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
