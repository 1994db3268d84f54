"""How many batches a network computes side by side.

On a CPU, a network on one thread a core beats one on all cores: its threads wait for each other
after every layer, and for the threads that decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

LANES_MAX = 8


@dataclass(frozen=True)
class Lanes:
    """How a network is kept busy.

    Attributes:
        count: Batches computed side by side, each in a thread of its own.
        first: Pictures of the first batch.
        most: Pictures that a batch may come to have.
    """

    count: int
    first: int
    most: int


OWN_THREADS = Lanes(1, first=32, most=32)  # it uses its own, or nothing is known of it


def lanes_on(device: str, pixels: int) -> Lanes:
    """For a network of torch.

    On a CPU small batches stay in the caches. Their size is no matter of clocks, as it is on a GPU:
    it moves the last digits, and the same pictures are to give the same ones.

    Args:
        device: Where it runs.
        pixels: Of one picture as the network sees it; a CPU's batch has as many as eight of
            224 x 224, and from 8 to 32 pictures.
    """
    if device == "cpu":
        import torch

        size = min(max(8 * 224 * 224 // pixels, 8), 32)
        return Lanes(min(torch.get_num_threads(), LANES_MAX), first=size, most=size)
    return Lanes(1, first=32, most=512) if device.startswith("cuda") else OWN_THREADS


@contextmanager
def threads_shared(lanes: Lanes) -> Iterator[None]:
    """Inside it, new threads compute with their part of torch's threads, not with all of them."""
    if lanes.count == 1:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // lanes.count))
    try:
        yield
    finally:
        torch.set_num_threads(before)
