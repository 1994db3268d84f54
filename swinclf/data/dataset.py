"""A dataset ready to train on: readable images only, each in one split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from swinclf.data.folder import TRAIN, VAL, FolderIndex, ImageFile, Skipped, check_trainable
from swinclf.data.split import hold_out


@dataclass(frozen=True)
class Dataset:
    """Images with their labels and splits.

    Attributes:
        root: The dataset's folder.
        classes: Class names in the order of the logits.
        images: In order of path, each with a split.
        skipped: What could not be used, in order of path.
    """

    root: Path
    classes: tuple[str, ...]
    images: tuple[ImageFile, ...]
    skipped: tuple[Skipped, ...]

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
    skipped = (*index.skipped, *(Skipped(path, reason) for path, reason in errors.items()))
    trained = {image.label for image in readable if image.split in ("", TRAIN)}
    cleaned = replace(
        index,
        images=tuple(readable),
        classes=tuple(name for name in index.classes if name in trained),
        skipped=tuple(sorted(skipped, key=lambda one: one.path)),
    )
    check_trainable(cleaned, held_out=val_split > 0)
    if not index.has_val:
        cleaned = replace(cleaned, images=_hold_out(readable, digests, val_split, seed))
    return Dataset(cleaned.root, cleaned.classes, cleaned.images, cleaned.skipped)


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
