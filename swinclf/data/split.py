"""Train-validation split by content: depends only on an image's digest and the seed.

So adding images never moves existing ones to another split, and exact duplicates share a split. In
exchange, a class is split only approximately by the given fraction.

The rule alone may hold out no image of a small class, or all of them. Then one image is moved to
the other split, the only decision that involves more than one image. So the guarantee is exact for
every class that the rule itself divides; in any other class, only the one image that was moved can
move back when images are added. No rule can guarantee more: of three images, each pair of which
must be divided, two share a split.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence


def split_position(digest: bytes, seed: int) -> float:
    """Return a number in [0, 1) that depends only on an image's content and the seed.

    Args:
        digest: The image's content digest.
        seed: The split's seed.
    """
    mixed = hashlib.blake2b(
        digest, digest_size=8, salt=seed.to_bytes(16, "little", signed=True)
    ).digest()
    return int.from_bytes(mixed, "little") / 2**64


def hold_out(
    labels: Sequence[str], digests: Sequence[bytes], *, fraction: float, seed: int
) -> list[bool]:
    """Return for each image whether it is held out.

    Args:
        labels: Class name of each image.
        digests: Content digest of each image.
        fraction: Fraction of each class to hold out, in [0, 1).
        seed: Seed of the split.

    Returns:
        True for held-out images. Every class with two different images that are in no other class
        has at least one in each split; a class with one distinct image is trained on.
    """
    if fraction == 0:
        return [False] * len(labels)
    positions = {digest: split_position(digest, seed) for digest in set(digests)}
    out = {digest for digest, position in positions.items() if position < fraction}
    members: dict[str, set[bytes]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        members[label].add(digest)
    owners = Counter(digest for content in members.values() for digest in content)
    for label in sorted(members, key=lambda name: (len(members[name]), name)):
        content = members[label]
        # Moving an image that another class shares could leave that class in one split only.
        movable = [digest for digest in content if owners[digest] == 1] or content
        if len(content) == 1:
            out -= content
        elif not out & content:
            out.add(min(movable, key=positions.__getitem__))
        elif content <= out:
            out.remove(max(movable, key=positions.__getitem__))
    return [digest in out for digest in digests]
