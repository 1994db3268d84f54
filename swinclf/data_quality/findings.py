"""What one may want to mend in a dataset: each finding with a count, examples and what to do.

Knows files by their names, labels, splits and digests, and pictures by a few numbers; opens none.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from swinclf.data.folder import TRAIN, ImageFile, Skipped
from swinclf.data.scan_notes import commonest_reason, remedy_for
from swinclf.preprocess import Fit

TINY = 10  # images of a class below which little can be learned, and less be checked
IMBALANCE = 10.0  # the largest class over the smallest
LONG = 1.6  # longer over shorter side; from here a centre crop loses more than a third
CROPPED = 0.1  # part of the images that may be so long before another --fit is suggested
ALIKE = 1.1  # width over height, largest over smallest of nine in ten images, that is one shape
MOSTLY = 0.5  # part of the images from which on it is no fault of single ones
TOO_SMALL_PX = 32  # the shorter side


class Kind(StrEnum):
    """What can be found, in the order it is told."""

    LOST_CLASSES = "lost_classes"
    SIMILAR_NAMES = "similar_names"
    LAYOUT = "layout"
    UNREADABLE = "unreadable"
    CLASS_SETS = "class_sets"
    TWO_LABELS = "two_labels"
    LEAKS = "leaks"
    EXACT_DUPLICATES = "exact_duplicates"
    NEAR_DUPLICATES = "near_duplicates"
    NEAR_EMPTY = "near_empty"
    TINY_CLASSES = "tiny_classes"
    IMBALANCE = "imbalance"
    ODD_SIZES = "odd_sizes"
    ROTATED = "rotated"


@dataclass(frozen=True, slots=True)
class Example:
    """One place to look at.

    Attributes:
        paths: The files, relative to the dataset; none where it is about a class.
        note: What is special about them.
    """

    paths: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Finding:
    """Something found.

    Attributes:
        kind: What.
        mend: Whether it should be mended; otherwise it is good to know.
        says: What was found, with its count.
        advice: What to do.
        examples: All places, the worst first.
    """

    kind: Kind
    mend: bool
    says: str
    advice: str
    examples: tuple[Example, ...]

    @property
    def count(self) -> int:
        """How many places there are."""
        return len(self.examples)


def find_unreadable(skipped: Iterable[Skipped]) -> Iterator[Finding]:
    """Files named like images that give none."""
    skipped = list(skipped)
    examples = tuple(Example((one.path,), one.reason) for one in skipped)
    remedy = remedy_for(commonest_reason(skipped)[0])
    if examples:
        yield Finding(
            Kind.UNREADABLE,
            True,
            f"{_count(len(examples), 'file')} cannot be read",
            f"{remedy}, or replace or delete them; training skips them".removeprefix(", or "),
            examples,
        )


def find_class_faults(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Class sets that differ between splits, tiny classes, imbalance.

    Args:
        images: Readable ones only.
    """
    by_split: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images:
        by_split[image.split][image.label] += 1
    yield from _class_sets(by_split)
    trained = by_split.get("", Counter()) + by_split.get(TRAIN, Counter())
    tiny = [(count, name) for name, count in trained.items() if count < TINY]
    if tiny:
        yield Finding(
            Kind.TINY_CLASSES,
            True,
            f"{_count(len(tiny), 'class')} of fewer than {TINY} images to train on",
            f"add images of it, to {TINY} at the least, or take the folder out",
            tuple(Example((), _images_of(name, count)) for count, name in sorted(tiny)),
        )
    counts = sorted((count, name) for name, count in trained.items())
    if counts and counts[-1][0] >= IMBALANCE * counts[0][0]:
        yield Finding(
            Kind.IMBALANCE,
            False,
            f"the largest class has {counts[-1][0] / counts[0][0]:.0f} times the images "
            "of the smallest",
            "train with --class-weights sqrt or balanced, and read balanced accuracy, not accuracy",
            (
                Example((), f"largest: {_images_of(counts[-1][1], counts[-1][0])}"),
                Example((), f"smallest: {_images_of(counts[0][1], counts[0][0])}"),
            ),
        )


def find_copies(
    images: Sequence[ImageFile], same: Sequence[Sequence[int]], near: Sequence[Sequence[int]] = ()
) -> Iterator[Finding]:
    """Copies, and what makes them harmful: two labels, or both sides of a split.

    Args:
        images: All, by row.
        same: Rows of files with equal bytes, in groups.
        near: Rows that show one picture, equal bytes among them, in groups; () where nobody
            looked.
    """
    known_near = [group for group in near if group not in same]
    every = near or same
    labels = [group for group in every if len({images[row].label for row in group}) > 1]
    leaks = [group for group in every if len({images[row].split for row in group}) > 1]
    told = (
        (
            Kind.TWO_LABELS,
            labels,
            "{} under two labels or more",
            "decide which label is right and delete the other copies",
        ),
        (
            Kind.LEAKS,
            leaks,
            "{} on both sides of a split",
            "delete the copies that are held out: what was trained on is no test",
        ),
        (
            Kind.EXACT_DUPLICATES,
            same,
            "{} several times, byte for byte",
            "keep one file of each; copies weigh double in training",
        ),
        (
            Kind.NEAR_DUPLICATES,
            known_near,
            "{} several times: encoded anew, resized, mirrored, cropped, or taken a moment apart",
            "keep the best one of each; near copies may fall on both sides of a held-out split",
        ),
    )
    for kind, groups, says, advice in told:
        if groups:
            yield Finding(
                kind,
                True,
                says.format(_count(len(groups), "picture")),
                advice,
                tuple(_group(images, group) for group in groups),
            )


def find_pictures(
    images: Sequence[ImageFile], sizes: np.ndarray, orientations: np.ndarray, empty: np.ndarray
) -> Iterator[Finding]:
    """Nearly empty pictures, odd sizes, photographs that lie on their side.

    Args:
        images: Readable ones only.
        sizes: (N, 2) width and height, px.
        orientations: (N,) EXIF tags, 1 upright.
        empty: (N,) whether a picture is nearly of one colour.
    """
    if empty.any():
        yield Finding(
            Kind.NEAR_EMPTY,
            True,
            f"{_count(int(empty.sum()), 'picture')} of nearly one colour",
            "delete those that show nothing"
            if empty.mean() < MOSTLY
            else "delete none of them yet: so many are rather stored too dark or too bright; "
            "compare how they were exported",
            tuple(Example((images[row].path,), "") for row in _rows(empty)),
        )
    yield from _odd_sizes(images, sizes)
    turned = _rows(orientations > 1)
    if turned:
        yield Finding(
            Kind.ROTATED,
            False,
            f"{_count(len(turned), 'photograph')} stored lying or mirrored, with an EXIF tag that "
            "says how to turn it",
            "nothing to do for swinclf, which turns them upright; other programs may not",
            tuple(Example((images[row].path,), f"tag {orientations[row]}") for row in turned),
        )


def suggest_fit(sizes: np.ndarray) -> tuple[Fit, str]:
    """The --fit that suits the pictures' proportions, and why.

    `crop` keeps the middle, so it is wrong once many pictures are long. If they all have one shape,
    `squash` distorts all of them alike, which a network learns; if not, `pad` keeps every pixel.

    Args:
        sizes: (N, 2) width and height, px.
    """
    ratios = sizes[:, 0] / sizes[:, 1]
    longer = np.maximum(ratios, 1 / ratios)
    share = float((longer > LONG).mean())
    if share <= CROPPED:
        return Fit.CROP, f"{1 - share:.0%} of the pictures are at most {LONG} times as long as wide"
    low, high = np.quantile(ratios, (0.05, 0.95))
    if high / low <= ALIKE:
        return Fit.SQUASH, "the pictures are long, but all of one shape"
    return Fit.PAD, f"a crop would cut more than a third off {share:.0%} of the pictures"


def _odd_sizes(images: Sequence[ImageFile], sizes: np.ndarray) -> Iterator[Finding]:
    if not len(sizes):
        return
    fit, reason = suggest_fit(sizes)
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    odd = (longer > LONG * shorter) | (shorter < TOO_SMALL_PX)
    if odd.any():
        rows = sorted(_rows(odd), key=lambda row: -longer[row] / shorter[row])
        yield Finding(
            Kind.ODD_SIZES,
            False,
            f"{_count(len(rows), 'picture')} more than {LONG} times as long as wide, "
            f"or below {TOO_SMALL_PX} px",
            f"train with --fit {fit}: {reason}",
            tuple(
                Example((images[row].path,), f"{sizes[row][0]} x {sizes[row][1]} px")
                for row in rows
            ),
        )


def _class_sets(by_split: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    trained = set(by_split.get(TRAIN, ()))
    notes = []
    for split, counts in sorted(by_split.items()):
        if split not in ("", TRAIN) and trained:
            notes += [f"{split} lacks {name}" for name in sorted(trained - set(counts))]
            notes += [
                f"{split} has {name}, which {TRAIN} lacks" for name in sorted(set(counts) - trained)
            ]
    if notes:
        yield Finding(
            Kind.CLASS_SETS,
            True,
            f"{_count(len(notes), 'class')} not in every split",
            "mend the folder names, or move images: the splits need the same classes",
            tuple(Example((), note) for note in notes),
        )


def _group(images: Sequence[ImageFile], group: Sequence[int]) -> Example:
    """A group of copies, and the labels and splits it stands under where these are several."""
    labels = sorted({images[row].label for row in group})
    splits = sorted({images[row].split for row in group})
    notes = [", ".join(names) for names in (labels, splits) if len(names) > 1]
    return Example(tuple(images[row].path for row in group), "; ".join(notes))


def _rows(chosen: np.ndarray) -> list[int]:
    """The places of what is true."""
    return [int(row) for row in np.nonzero(chosen)[0]]


def _images_of(name: str, count: int) -> str:
    """A class and its size, the name last: one written from right to left turns what follows it."""
    return f"{_count(count, 'image')} of {name}"


def _count(count: int, thing: str) -> str:
    """A number of things in words."""
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"
