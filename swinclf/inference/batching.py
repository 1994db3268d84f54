"""How many pictures go through a network together, and how many batches side by side."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Lock
from typing import TypeVar

Item = TypeVar("Item")

LANES_MAX = 8
WORTH_IT = 1.05  # a batch twice as large has to be so much faster to be kept


@dataclass(frozen=True)
class Lanes:
    """How a predictor is kept busy.

    Attributes:
        count: Batches computed side by side, each in a thread of its own.
        first: Pictures of the first batch.
        most: Pictures that a batch may come to have.
    """

    count: int
    first: int
    most: int


# On a CPU, a network on one thread a core beats one on all cores: its threads wait for each other
# after every layer, and for the threads that decode. Small batches stay in the caches. Their size
# is no matter of clocks, as it is on a GPU: it moves the last digits, and the same pictures are to
# give the same ones.
def cpu_lanes(threads: int, pixels: int) -> Lanes:
    """For a network on a CPU.

    Args:
        threads: That it may use.
        pixels: Of one picture as the network sees it; a batch has as many as eight of 224 x 224.
    """
    size = min(max(8 * 224 * 224 // pixels, 8), 32)
    return Lanes(min(threads, LANES_MAX), first=size, most=size)


GPU_LANES = Lanes(1, first=32, most=512)
OTHER_LANES = Lanes(1, first=32, most=32)  # it uses its own threads, or nothing is known of it


class BatchSize:
    """The size of the next batch: doubled for as long as that makes the pictures go faster.

    Args:
        lanes: Between which bounds.
    """

    def __init__(self, lanes: Lanes) -> None:
        self.size = lanes.first
        self._before, self._most = lanes.first, lanes.most
        self._settled = lanes.first == lanes.most
        self._best_rate = 0.0
        self._rates: list[float] = []
        self._lock = Lock()

    def took(self, count: int, seconds: float) -> None:
        """Tells how long a batch took; of each size the first one, which warms up, is not judged.

        Args:
            count: Pictures in it.
            seconds: Of the network alone.
        """
        with self._lock:
            if self._settled or count != self.size:  # or it is one of the size before
                return
            self._rates.append(count / seconds)
            if len(self._rates) < 3:
                return
            rate, self._rates = max(self._rates[1:]), []
            if rate < WORTH_IT * self._best_rate:
                self.size, self._settled = self._before, True
            elif self.size == self._most:
                self._settled = True
            else:
                self._best_rate, self._before = rate, self.size
                self.size = min(2 * self.size, self._most)

    def batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Items in lists of the size of the moment; the last one shorter, nothing dropped."""
        source = iter(items)
        while batch := list(islice(source, self.size)):
            yield batch


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
