"""Which images are held out: a rule of an image's content and the seed alone.

So adding images never moves old ones across, and identical images stay on one side. The price is
that a class gives about, not exactly, the wished fraction. Where a class would give no image (or
all), its nearest one is moved, which is the only choice that looks at more than one image.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
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
        For each image, True where it is held out. Every class with two different images has at
        least one on either side.
    """
    if fraction == 0:
        return [False] * len(labels)
    positions = {digest: held_out_position(digest, seed) for digest in set(digests)}
    out = {digest for digest, position in positions.items() if position < fraction}
    members: dict[str, set[bytes]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        members[label].add(digest)
    for label in sorted(members):
        content = sorted(members[label], key=positions.__getitem__)
        if len(content) > 1 and not out & members[label]:
            out.add(content[0])
        elif len(content) > 1 and members[label] <= out:
            out.remove(content[-1])
    return [digest in out for digest in digests]
