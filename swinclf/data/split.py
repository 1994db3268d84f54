"""Which images are held out: a rule of an image's content and the seed alone.

So adding images never moves old ones across, and identical images stay on one side. The price is
that a class gives about, not exactly, the wished fraction.

The rule alone may hold out no image of a small class, or all of them. One image is then moved to
the other side, the only choice that looks at more than one image. So the promise is exact for
every class that the rule itself gives an image on either side, and stays so from then on; in any
other class, at most the one image that was moved can move back when images are added. No rule can
promise more: of three images, each two of which must have one on either side, two are on the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence


def held_out_position(digest: bytes, seed: int) -> float:
    """A number in [0, 1) that an image keeps for good under one seed.

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
    """Says of each image whether it is held out.

    Args:
        labels: Class name of each image.
        digests: Content digest of each image.
        fraction: Part of each class to hold out, in [0, 1). 0 holds nothing out.
        seed: Another seed gives another split.

    Returns:
        For each image, True where it is held out. Every class with two different images that are
        in no other class has at least one on either side; one whose images are all the same is
        trained on.
    """
    if fraction == 0:
        return [False] * len(labels)
    positions = {digest: held_out_position(digest, seed) for digest in set(digests)}
    out = {digest for digest, position in positions.items() if position < fraction}
    members: dict[str, set[bytes]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        members[label].add(digest)
    owners = Counter(digest for content in members.values() for digest in content)
    for label in sorted(members, key=lambda name: (len(members[name]), name)):
        content = members[label]
        # Moving what is in another class too could leave that one with one side only.
        movable = [digest for digest in content if owners[digest] == 1] or content
        if len(content) == 1:
            out -= content
        elif not out & content:
            out.add(min(movable, key=positions.__getitem__))
        elif content <= out:
            out.remove(max(movable, key=positions.__getitem__))
    return [digest in out for digest in digests]
