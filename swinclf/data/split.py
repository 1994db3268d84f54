"""The train-validation-test split: exact fractions of each class, by content and seed.

The different images of a class are sorted by a hash of their content and the seed. The first ones
are held out for validation, the last ones for testing. So file names and the order of files do not
matter, exact duplicates share a split, and an image that is in several classes, whose label is
contradictory, is trained on.

Adding images moves few old ones: for each image that is added to a class, at most one image of that
class enters or leaves validation, and at most one enters or leaves the test split. Those next to
the boundaries move; other classes do not change.

`split.csv` of a run has the split of each image.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

from swinclf.data.folder import TEST, TRAIN, VAL, ImageFile
from swinclf.files import read_csv, write_csv

QUOTAS = 2  # version of the rule; 1 is the rule of earlier versions, without exact fractions


@dataclass(frozen=True)
class SplitRule:
    """The rule that assigns images to splits."""

    val: float  # fraction of each class that is held out for validation, in [0, 1)
    test: float = 0.0  # fraction of each class that is held out for testing, in [0, 1)
    seed: int = 0
    version: int = QUOTAS  # of the rule

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a model card."""
        fractions = {"val_split": self.val, "test_split": self.test}
        return {"seed": self.seed, **fractions, "rule": self.version}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Return the rule in a model card."""
        test, version = float(values.get("test_split", 0)), int(values.get("rule", 1))
        return cls(float(values["val_split"]), test, int(values["seed"]), version)

    def position(self, digest: bytes) -> float:
        """Return a number in [0, 1) that depends only on an image's content and the seed."""
        salt = self.seed.to_bytes(16, "little", signed=True)
        mixed = hashlib.blake2b(digest, digest_size=8, salt=salt).digest()
        return int.from_bytes(mixed, "little") / 2**64

    def expected(self, digest: bytes) -> str:
        """Return the probable split of an image, before the others are known."""
        position = self.position(digest)
        return VAL if position < self.val else TEST if position >= 1 - self.test else TRAIN

    def assign(self, labels: Sequence[str], digests: Sequence[bytes]) -> list[str]:
        """Return the split of each image: train, val or test.

        Of every class of m different images, round(val * m) are in validation and round(test * m)
        in test, unless they are in other classes too. With two or more, at least one is in train
        and one in validation (if `val` is not 0); with three, one is in test (if `test` is not 0).
        """
        if self.version != QUOTAS:
            return self._assign_by_position(labels, digests)
        members = _contents_by_class(labels, digests)
        owners = Counter(digest for contents in members.values() for digest in contents)
        split = dict.fromkeys(digests, TRAIN)
        for contents in members.values():
            val, test = self._quotas(len(contents))
            own = sorted((one for one in contents if owners[one] == 1), key=self.position)
            split |= dict.fromkeys(own[:val], VAL)
            split |= dict.fromkeys(own[val:][::-1][:test], TEST)
        return [split[digest] for digest in digests]

    def _quotas(self, count: int) -> tuple[int, int]:
        val = min(max(_rounded(self.val * count), int(self.val > 0)), count - 1)
        test = max(_rounded(self.test * count), int(self.test > 0))
        return val, max(0, min(test, count - 1 - val))

    def _assign_by_position(self, labels: Sequence[str], digests: Sequence[bytes]) -> list[str]:
        """Return the splits by version 1 of the rule, with which older models were trained.

        An image is held out if its position is below the fraction. Where that holds out no image
        of a class or all of them, one is moved.
        """
        positions = {digest: self.position(digest) for digest in set(digests)}
        out = {digest for digest, position in positions.items() if position < self.val}
        members = _contents_by_class(labels, digests)
        owners = Counter(digest for contents in members.values() for digest in contents)
        for label in sorted(members, key=lambda name: (len(members[name]), name)):
            contents = members[label]
            movable = [digest for digest in contents if owners[digest] == 1] or contents
            if len(contents) == 1:
                out -= contents
            elif not out & contents and self.val:
                out.add(min(movable, key=positions.__getitem__))
            elif contents <= out:
                out.remove(max(movable, key=positions.__getitem__))
        return [VAL if digest in out else TRAIN for digest in digests]


def _contents_by_class(labels: Sequence[str], digests: Sequence[bytes]) -> Mapping[str, set[bytes]]:
    members: dict[str, set[bytes]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        members[label].add(digest)
    return members


def _rounded(value: float) -> int:
    """Return the nearest integer, a half upwards: 0.15 of 10 is 2, whatever the rounding error."""
    return math.floor(round(value, 9) + 0.5)


COLUMNS = ("path", "label", "split")


def write_split(path: Path, images: Sequence[ImageFile]) -> None:
    """Write split.csv; see `files.write_bytes`."""
    write_csv(path, COLUMNS, map(astuple, images))


def read_split(path: Path) -> tuple[ImageFile, ...]:
    """Return the images, in order.

    Raises:
        RunError: If the file cannot be read, or is not such a table.
    """
    rows = read_csv(path, COLUMNS)
    return tuple(ImageFile(row["path"], row["label"], row["split"]) for row in rows)
