"""How many pictures go through a network together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import TypeVar

from swinclf.parallel_batches import Lanes

Item = TypeVar("Item")

WORTH_IT = 1.05  # a batch twice as large has to be so much faster to be kept


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
