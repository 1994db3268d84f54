"""What a scan of a dataset has seen besides images that can be used, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

NOTED = 5  # kinds of files that are named


class SkippedFile(Protocol):
    """A file that could not be used."""

    @property
    def reason(self) -> str:
        """Why."""


@dataclass(frozen=True)
class ScanNotes:
    """What a scan has seen besides images that can be used.

    Attributes:
        layout: How unusual folders were understood, a sentence each.
        warning: What makes it doubtful that the class folders are classes; empty for nothing.
        renamed: Which classes were matched over their Unicode form, a sentence each.
        unused: Folders next to the splits, which are no split.
        loose: Images in no class folder.
        linked_out: Images that links lead to, outside the dataset.
        unusual: Images that were recognized by their content, by extension.
        ignored: Files that are no images, by extension.
        unopened: Files that were judged by others of the same extension.
    """

    layout: tuple[str, ...] = ()
    warning: str = ""
    renamed: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    loose: int = 0
    linked_out: int = 0
    unusual: Mapping[str, int] = field(default_factory=dict)
    ignored: Mapping[str, int] = field(default_factory=dict)
    unopened: int = 0

    def notes(self) -> Iterator[str]:
        """Yield what is good to know, a sentence each."""
        yield from self.layout
        yield from self.renamed
        if self.linked_out:
            yield f"{_count(self.linked_out, 'image')} by links that lead out of the dataset"
        if self.unusual:
            yield (
                f"{_count(sum(self.unusual.values()), 'image')} recognized by content, under other "
                f"extensions: {by_extension(self.unusual)}"
            )
        if self.ignored:
            yield f"passed over, as they are no images: {by_extension(self.ignored)}"
        if self.unopened:
            yield (
                f"{_count(self.unopened, 'file')} judged by others of the same extension, without "
                "being opened"
            )

    def warnings(self) -> Iterator[str]:
        """Yield what may be a loss, a sentence each."""
        if self.warning:
            yield self.warning
        if self.loose:
            yield f"{_count(self.loose, 'image')} in no class folder: not used"
        if self.unused:
            names = ", ".join(map(repr, self.unused[:NOTED]))
            more = f" and {len(self.unused) - NOTED} more" if len(self.unused) > NOTED else ""
            yield f"folders next to train that are no split are not used: {names}{more}"


def by_extension(counts: Mapping[str, int]) -> str:
    """Return numbers of files by extension, the commonest first."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{count:,} {extension or 'without one'}" for extension, count in ranked[:NOTED]]
    more = sum(count for _, count in ranked[NOTED:])
    return ", ".join(shown) + (f" and {more:,} others" if more else "")


def commonest_reason(skipped: Iterable[SkippedFile]) -> tuple[str, int]:
    """Return why most of the skipped files could not be used, and how many these are."""
    counts = Counter(one.reason for one in skipped)
    return counts.most_common(1)[0] if counts else ("", 0)


def remedy_for(reason: str) -> str:
    """Return the command that a reason names as its remedy; empty where it names none."""
    _, found, command = reason.partition("pip install ")
    return found + command


def _count(count: int, thing: str) -> str:
    return f"{count:,} {thing}{'' if count == 1 else 's'}"
