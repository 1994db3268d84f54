"""A dataset ready to train on: readable images only, each in one split."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from swinclf.data.class_names import quoted_together, similar_names
from swinclf.data.folder import TRAIN, VAL, FolderIndex, ImageFile, Skipped, check_trainable
from swinclf.data.layout import some
from swinclf.data.scan_notes import ScanNotes, commonest_reason
from swinclf.data.split import hold_out

SIMILAR = "differ in case, outer spaces or Unicode form alone"
NAMED = 5  # classes that are said one by one


@dataclass(frozen=True)
class Dataset:
    """Images with their labels and splits.

    Attributes:
        root: The dataset's folder.
        classes: Class names in the order of the logits.
        images: In order of path, each with a split.
        skipped: What could not be used, in order of path.
        lost: Class folders none of whose files can be read, each with the reason.
        empty: Class folders without a file that should be an image.
        notes: What else the scan has seen.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    skipped: tuple[Skipped, ...]
    lost: Mapping[str, str] = field(default_factory=dict)
    empty: tuple[str, ...] = ()
    notes: ScanNotes = field(default_factory=ScanNotes)

    def rows(self, split: str) -> list[int]:
        """The places in `images` of those in a split."""
        return [row for row, image in enumerate(self.images) if image.split == split]

    def of(self, split: str) -> list[ImageFile]:
        """The images in a split."""
        return [image for image in self.images if image.split == split]

    def paths(self, split: str) -> list[Path]:
        """The files in a split."""
        return [self.root / image.path for image in self.of(split)]

    def targets(self, split: str) -> list[int]:
        """The class indices in a split."""
        index = {name: number for number, name in enumerate(self.classes)}
        return [index[image.label] for image in self.of(split)]

    def counts(self, split: str) -> Counter[str]:
        """Images of each class in a split."""
        return Counter(image.label for image in self.of(split))

    def warnings(self) -> Iterator[str]:
        """Yield what of the dataset may be lost or mistaken, a sentence each."""
        yield from lost_in_words(self.lost)
        similar = similar_names(self.classes)
        for names in similar[:NAMED]:
            yield f"the classes {quoted_together(names)} {SIMILAR}: they are trained as separate"
        if len(similar) > NAMED:
            yield f"so do {len(similar) - NAMED:,} more groups of classes (swinclf check lists all)"
        yield from self.notes.warnings()
        yield from self._lone_in_words()

    def _lone_in_words(self) -> Iterator[str]:
        """Yield which classes are not checked, as they have only one image."""
        trained, held_out = self.counts(TRAIN), self.counts(VAL)
        lone = [name for name in self.classes if not held_out[name]]
        if held_out and lone:
            yield (
                f"no image of {some(lone)} is held out: there are not two different ones "
                f"({sum(trained[name] for name in lone):,} to train on)"
            )
        elif trained and max(trained.values()) == 1:
            yield "no class has two images: none is held out, and nothing is known of new images"


def assign_splits(
    index: FolderIndex,
    digests: Mapping[str, bytes],
    errors: Mapping[str, str],
    *,
    val_split: float,
    seed: int,
) -> Dataset:
    """Drops what could not be read and gives every other image a split.

    Args:
        index: The dataset as it lies on disk.
        digests: Content digest of every readable image, by path.
        errors: Why an image could not be read, by path.
        val_split: Part of each class to hold out where the folders do not say.
        seed: Of the holding out.

    Raises:
        DataError: If what is left cannot be trained on.
    """
    readable = [image for image in index.images if image.path not in errors]
    broken = [
        Skipped(image.path, errors[image.path], image.label)
        for image in index.images
        if image.path in errors
    ]
    skipped = (*index.skipped, *broken)
    trained = {image.label for image in readable if image.split in ("", TRAIN)}
    cleaned = replace(
        index,
        images=tuple(readable),
        classes=tuple(name for name in index.classes if name in trained),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
    )
    check_trainable(cleaned)
    if not index.has_val:
        cleaned = replace(cleaned, images=_hold_out(readable, digests, val_split, seed))
    lost, empty = classes_without_images(cleaned)
    return Dataset(
        cleaned.root,
        cleaned.classes,
        cleaned.images,
        cleaned.skipped,
        lost=lost,
        empty=empty,
        notes=index.notes,
    )


def classes_without_images(index: FolderIndex) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the class folders that give no class.

    Args:
        index: A dataset; in `skipped` all that could not be read.

    Returns:
        Those with files that could not be used, each with the commonest reason, and the names of
        those without any.
    """
    lost, empty = {}, []
    skipped = defaultdict(list)
    for one in index.skipped:
        skipped[one.label].append(one)
    for name in sorted(set(index.folders) - set(index.classes)):
        reason, _ = commonest_reason(skipped[name])
        if reason:
            lost[name] = f"{len(skipped[name]):,} skipped ({reason})"
        else:
            empty.append(name)
    return lost, tuple(empty)


def lost_in_words(lost: Mapping[str, str]) -> Iterator[str]:
    """Yield a sentence for each class folder that is lost, of many for the first ones."""
    for name, reason in list(lost.items())[:NAMED]:
        yield f"class {name!r} has no readable image: {reason}"
    if len(lost) > NAMED:
        rest = list(lost)[NAMED:]
        yield f"{len(rest)} more classes have no readable image: {some(rest)}"


def _hold_out(
    images: Sequence[ImageFile], digests: Mapping[str, bytes], fraction: float, seed: int
) -> tuple[ImageFile, ...]:
    """Splits what may be trained on; a test folder's images stay where they are."""
    open_images = [image for image in images if image.split in ("", TRAIN)]
    held_out = hold_out(
        [image.label for image in open_images],
        [digests[image.path] for image in open_images],
        fraction=fraction,
        seed=seed,
    )
    split = {
        image.path: VAL if out else TRAIN for image, out in zip(open_images, held_out, strict=True)
    }
    return tuple(replace(image, split=split.get(image.path, image.split)) for image in images)
