"""Findings of a dataset check, each with examples and advice, from metadata and image statistics.

Opens no files: works on paths, labels, splits, digests and a few numbers per image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from swinclf.data.folder import TRAIN, ImageFile, SkippedFile
from swinclf.data.scan_notes import most_frequent_reason, remedy_for
from swinclf.preprocess import Fit
from swinclf.reporter import format_percent

TINY = 10  # images of a class below which training and validation are unreliable
IMBALANCE = 10.0  # the largest class over the smallest
LONG = 1.6  # longer over shorter side; from here a centre crop loses more than a third
CROPPED = 0.1  # share of such long images from which another --fit is suggested
ALIKE = 1.1  # spread of the aspect ratios (95 % over 5 % quantile) that counts as one shape
MOSTLY = 0.5  # share of the images from which the cause is systematic
TOO_SMALL_PX = 32  # the shorter side


class FindingKind(StrEnum):
    """Kinds of findings, in the order in which they are reported."""

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
    """Files or a class that a finding applies to."""

    paths: tuple[str, ...]  # the files, relative to the dataset; empty for a class
    note: str


@dataclass(frozen=True)
class Finding:
    """A problem or a remark, with its examples."""

    kind: FindingKind
    needs_fix: bool  # whether it should be fixed; otherwise it is a note
    message: str
    advice: str
    examples: tuple[Example, ...]  # all occurrences, the worst first

    @property
    def count(self) -> int:
        """Number of occurrences."""
        return len(self.examples)


def find_unreadable(skipped: Iterable[SkippedFile]) -> Iterator[Finding]:
    """Yield the image files that cannot be read."""
    skipped = list(skipped)
    examples = tuple(Example((one.path,), one.reason) for one in skipped)
    remedy = remedy_for(most_frequent_reason(skipped)[0])
    if examples:
        yield Finding(
            FindingKind.UNREADABLE,
            True,
            f"{_count(len(examples), 'file')} cannot be read",
            f"{remedy}, or replace or delete them; training skips them".removeprefix(", or "),
            examples,
        )


def find_class_faults(images: Sequence[ImageFile]) -> Iterator[Finding]:
    """Yield class sets that differ between splits, tiny classes and class imbalance."""
    by_split: dict[str, Counter[str]] = defaultdict(Counter)
    for image in images:
        by_split[image.split][image.label] += 1
    yield from _class_sets(by_split)
    trained = by_split.get("", Counter()) + by_split.get(TRAIN, Counter())
    tiny = [(count, name) for name, count in trained.items() if count < TINY]
    if tiny:
        yield Finding(
            FindingKind.TINY_CLASSES,
            True,
            f"{_count(len(tiny), 'class')} of fewer than {TINY} images to train on",
            f"add images, to at least {TINY} each, or remove the folder",
            tuple(Example((), _images_of(name, count)) for count, name in sorted(tiny)),
        )
    counts = sorted((count, name) for name, count in trained.items())
    if counts and counts[-1][0] >= IMBALANCE * counts[0][0]:
        yield Finding(
            FindingKind.IMBALANCE,
            False,
            f"the largest class has {counts[-1][0] / counts[0][0]:.0f} times the images "
            "of the smallest",
            "train with --class-weights sqrt or balanced, and read balanced accuracy, not accuracy",
            (
                Example((), f"largest: {_images_of(counts[-1][1], counts[-1][0])}"),
                Example((), f"smallest: {_images_of(counts[0][1], counts[0][0])}"),
            ),
        )


def find_duplicates(
    images: Sequence[ImageFile], same: Sequence[Sequence[int]], near: Sequence[Sequence[int]] = ()
) -> Iterator[Finding]:
    """Yield duplicates, and those with conflicting labels or on both sides of a split.

    Args:
        images: All images.
        same: Groups of rows with equal bytes.
        near: Groups of rows that show one image, those of equal bytes included; () if near
            duplicates were not searched.
    """
    known_near = [group for group in near if group not in same]
    every = near or same
    labels = [group for group in every if len({images[row].label for row in group}) > 1]
    leaks = [group for group in every if len({images[row].split for row in group}) > 1]
    kinds = (
        (
            FindingKind.TWO_LABELS,
            labels,
            "{} under two or more labels",
            "decide which label is right and delete the other copies",
        ),
        (
            FindingKind.LEAKS,
            leaks,
            "{} on both sides of a split",
            "delete the copies that are held out: images trained on are no test",
        ),
        (
            FindingKind.EXACT_DUPLICATES,
            same,
            "{} several times, byte for byte",
            "keep one file of each; duplicates count twice in training",
        ),
        (
            FindingKind.NEAR_DUPLICATES,
            known_near,
            "{} several times: re-encoded, resized, mirrored, cropped, or taken a moment apart",
            "keep the best one of each; near duplicates may fall on both sides of a held-out split",
        ),
    )
    for kind, groups, message, advice in kinds:
        if groups:
            yield Finding(
                kind,
                True,
                message.format(_count(len(groups), "image")),
                advice,
                tuple(_group(images, group) for group in groups),
            )


def find_image_faults(
    images: Sequence[ImageFile], sizes: np.ndarray, orientations: np.ndarray, empty: np.ndarray
) -> Iterator[Finding]:
    """Yield nearly empty images, odd sizes, and photographs with a rotation in EXIF.

    Args:
        images: Readable ones only.
        sizes: (N, 2) width and height, px.
        orientations: (N,) EXIF tags, 1 upright.
        empty: (N,) whether an image is nearly of one colour.
    """
    if empty.any():
        yield Finding(
            FindingKind.NEAR_EMPTY,
            True,
            f"{_count(int(empty.sum()), 'image')} of nearly one colour",
            "delete those that show nothing"
            if empty.mean() < MOSTLY
            else "delete none of them yet: with this many, they are probably too dark or bright; "
            "compare how they were exported",
            tuple(Example((images[row].path,), "") for row in _rows(empty)),
        )
    yield from _odd_sizes(images, sizes)
    turned = _rows(orientations > 1)
    if turned:
        yield Finding(
            FindingKind.ROTATED,
            False,
            f"{_count(len(turned), 'photograph')} stored rotated or mirrored, with an EXIF "
            "orientation tag",
            "nothing to do for swinclf, which turns them upright; other programs may not",
            tuple(Example((images[row].path,), f"tag {orientations[row]}") for row in turned),
        )


def suggest_fit(sizes: np.ndarray) -> tuple[Fit, str]:
    """Return the --fit that suits the images' (N, 2) widths and heights, px, and the reason.

    `crop` keeps the centre only, so it is wrong once many images are long. If all have one shape,
    `squash` distorts all of them in the same way, which a network learns; otherwise `pad` keeps
    every pixel.
    """
    ratios = sizes[:, 0] / sizes[:, 1]
    longer = np.maximum(ratios, 1 / ratios)
    share = float((longer > LONG).mean())
    if share <= CROPPED:
        crops = format_percent(1 - share, 0)
        return Fit.CROP, f"{crops} of the images are at most {LONG} times as long as wide"
    low, high = np.quantile(ratios, (0.05, 0.95))
    if high / low <= ALIKE:
        return Fit.SQUASH, "the images are long, but all of one shape"
    cut = format_percent(share, 0)
    return Fit.PAD, f"a crop would cut more than a third off {cut} of the images"


def _odd_sizes(images: Sequence[ImageFile], sizes: np.ndarray) -> Iterator[Finding]:
    if not len(sizes):
        return
    fit, reason = suggest_fit(sizes)
    shorter, longer = sizes.min(axis=1), sizes.max(axis=1)
    odd = (longer > LONG * shorter) | (shorter < TOO_SMALL_PX)
    if odd.any():
        rows = sorted(_rows(odd), key=lambda row: -longer[row] / shorter[row])
        yield Finding(
            FindingKind.ODD_SIZES,
            False,
            f"{_count(len(rows), 'image')} more than {LONG} times as long as wide, "
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
            FindingKind.CLASS_SETS,
            True,
            f"{_count(len(notes), 'class')} not in every split",
            "fix the folder names, or move images: the splits need the same classes",
            tuple(Example((), note) for note in notes),
        )


def _group(images: Sequence[ImageFile], group: Sequence[int]) -> Example:
    """Return a group of duplicates, with its labels and splits where there are several."""
    labels = sorted({images[row].label for row in group})
    splits = sorted({images[row].split for row in group})
    notes = [", ".join(names) for names in (labels, splits) if len(names) > 1]
    return Example(tuple(images[row].path for row in group), "; ".join(notes))


def _rows(chosen: np.ndarray) -> list[int]:
    return [int(row) for row in np.nonzero(chosen)[0]]


def _images_of(name: str, count: int) -> str:
    """Return a class and its size, the name last: a right-to-left name reorders what follows."""
    return f"{_count(count, 'image')} of {name}"


def _count(count: int, thing: str) -> str:
    plural = f"{thing}es" if thing.endswith("s") else f"{thing}s"
    return f"{count:,} {thing if count == 1 else plural}"
