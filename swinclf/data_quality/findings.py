"""Findings of a dataset check, each with examples and advice, from metadata and image statistics.

Opens no files: works on paths, labels, splits, digests and a few numbers per image.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from swinclf.data.class_names import quote_names, similar_names
from swinclf.data.dataset import SIMILAR, classes_without_images
from swinclf.data.folder import TRAIN, FolderIndex, ImageFile, SkippedFile
from swinclf.data.scanned_files import format_count, most_frequent_reason, remedy_for
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
    SINGLE_CLASS = "single_class"
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
            f"{format_count(len(examples), 'file')} cannot be read",
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
    if len(trained) == 1:
        yield Finding(
            FindingKind.SINGLE_CLASS,
            True,
            "one class only, and training needs two",
            "put the images of each class into a folder of its own",
            tuple(Example((), _images_of(name, count)) for name, count in trained.items()),
        )
    tiny = [(count, name) for name, count in trained.items() if count < TINY]
    if tiny:
        yield Finding(
            FindingKind.TINY_CLASSES,
            True,
            f"{format_count(len(tiny), 'class')} of fewer than {TINY} images to train on",
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

    `same` has the groups of rows with equal bytes; `near` the groups that show one image, those of
    equal bytes included, or () if near duplicates were not searched.
    """
    exact = set(map(tuple, same))
    known_near = [group for group in near if tuple(group) not in exact]
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
            "delete the copies in all splits but one: what trained or chose a model is no test",
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
                message.format(format_count(len(groups), "image")),
                advice,
                tuple(_group(images, group) for group in groups),
            )


def find_image_faults(
    images: Sequence[ImageFile], sizes: np.ndarray, orientations: np.ndarray, empty: np.ndarray
) -> Iterator[Finding]:
    """Yield nearly empty images, odd sizes, and photographs with a rotation in EXIF.

    Of N readable images: (N, 2) width and height, px, (N,) EXIF tags, 1 upright, and (N,) whether
    an image is nearly of one colour.
    """
    if empty.any():
        yield Finding(
            FindingKind.NEAR_EMPTY,
            True,
            f"{format_count(int(empty.sum()), 'image')} of nearly one colour",
            "delete those that show nothing"
            if empty.mean() < MOSTLY
            else "delete none of them yet: with this many, they are probably too dark or bright; "
            "compare how they were exported",
            tuple(Example((images[row].path,), "") for row in np.flatnonzero(empty).tolist()),
        )
    yield from _odd_sizes(images, sizes)
    turned = np.flatnonzero(orientations > 1).tolist()
    if turned:
        yield Finding(
            FindingKind.ROTATED,
            False,
            f"{format_count(len(turned), 'photograph')} stored rotated or mirrored, with an EXIF "
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
    causes = (
        (
            longer > LONG * shorter,
            -longer / shorter,
            f"more than {LONG} times as long as wide",
            f"train with --fit {fit}: {reason}",
        ),
        (
            shorter < TOO_SMALL_PX,
            shorter,
            f"below {TOO_SMALL_PX} px",
            "replace them by larger ones, if there are any: enlarging adds no detail",
        ),
    )
    for odd, order, message, advice in causes:
        rows = [row for row in np.argsort(order, kind="stable").tolist() if odd[row]]
        if rows:
            yield Finding(
                FindingKind.ODD_SIZES,
                False,
                f"{format_count(len(rows), 'image')} {message}",
                advice,
                tuple(
                    Example((images[row].path,), f"{sizes[row][0]} x {sizes[row][1]} px")
                    for row in rows
                ),
            )


def _class_sets(by_split: Mapping[str, Counter[str]]) -> Iterator[Finding]:
    trained = set(by_split.get(TRAIN, ()))
    notes: list[str] = []
    names: set[str] = set()  # a class may be missing in two splits
    for split, counts in sorted(by_split.items()):
        if split not in ("", TRAIN) and trained:
            missing, further = sorted(trained - set(counts)), sorted(set(counts) - trained)
            names.update(missing, further)
            notes += [f"{split} lacks {name}" for name in missing]
            notes += [f"{split} has {name}, which {TRAIN} lacks" for name in further]
    if notes:
        yield Finding(
            FindingKind.CLASS_SETS,
            True,
            f"{format_count(len(names), 'class')} not in every split",
            "fix the folder names, or move images: the splits need the same classes",
            tuple(Example((), note) for note in notes),
        )


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
            f"{format_count(len(similar), 'group')} of class names that {SIMILAR}",
            "if they are one class, move the images into one folder: each folder is a class now",
            tuple(Example((), quote_names(names)) for names in similar),
        )
    for warning in index.warnings:
        yield Finding(
            FindingKind.LAYOUT,
            True,
            warning,
            "move them, if they should be used",
            (Example((), ""),),
        )
    for note in index.notes:
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
            f"{format_count(len(lost), 'class folder')} without an image that can be read",
            (f"{remedy}, or " if remedy else "")
            + "replace the files, or remove the folder: training goes without the class",
            tuple(Example((), f"{name}: {reason}") for name, reason in lost.items()),
        )
    if empty:
        yield Finding(
            FindingKind.LOST_CLASSES,
            False,
            f"{format_count(len(empty), 'folder')} without an image",
            "these are no classes",
            tuple(Example((), name) for name in empty),
        )


def quick_findings(images: Sequence[ImageFile], digests: Mapping[str, bytes]) -> Iterator[Finding]:
    """Yield exact duplicates, conflicting labels, leaks, tiny classes and class imbalance.

    `digests` has the content digest of every readable image, by path.
    """
    readable = [image for image in images if image.path in digests]
    yield from find_duplicates(readable, group_identical([digests[one.path] for one in readable]))
    yield from find_class_faults(readable)


def format_finding(finding: Finding) -> str:
    """Return a finding in one line, with its first example and the advice."""
    first = finding.examples[0]
    return f"{finding.message}, e.g. {' = '.join(first.paths[:2]) or first.note}: {finding.advice}"


def group_identical(digests: Sequence[bytes]) -> list[list[int]]:
    """Return groups of rows with equal digests, each ascending; empty digests are left out."""
    rows: dict[bytes, list[int]] = defaultdict(list)
    for row, digest in enumerate(digests):
        if digest:
            rows[digest].append(row)
    return [group for group in rows.values() if len(group) > 1]


def connected_components(links: Iterable[Sequence[int]]) -> list[list[int]]:
    """Return the connected components of links of two or more rows, all in ascending order."""
    from scipy.cluster.hierarchy import DisjointSet  # takes a while to load

    rows: DisjointSet[int] = DisjointSet()
    for link in links:
        for row in link:
            rows.add(row)
            rows.merge(link[0], row)
    return sorted(sorted(component) for component in rows.subsets())


def _group(images: Sequence[ImageFile], group: Sequence[int]) -> Example:
    """Return a group of duplicates, with its labels and splits where there are several."""
    labels = sorted({images[row].label for row in group})
    splits = sorted({images[row].split for row in group})
    notes = [", ".join(names) for names in (labels, splits) if len(names) > 1]
    return Example(tuple(images[row].path for row in group), "; ".join(notes))


def _images_of(name: str, count: int) -> str:
    """Return a class and its size, the name last: a right-to-left name reorders what follows."""
    return f"{format_count(count, 'image')} of {name}"
