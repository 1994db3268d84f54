"""Files of a dataset scan: images and skipped files, and what messages say of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


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


def most_frequent_reason(skipped: Iterable[SkippedFile]) -> tuple[str, int]:
    """Return the most frequent reason for skipping a file, and the number of files."""
    counts = Counter(one.reason for one in skipped)
    return counts.most_common(1)[0] if counts else ("", 0)


def remedy_for(reason: str) -> str:
    """Return the command that a reason suggests; empty for none."""
    _, found, command = reason.partition("pip install ")
    return found + command


def format_count(count: int, thing: str) -> str:
    """Return a number of things, such as "1 class" or "1,000 classes"."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"
