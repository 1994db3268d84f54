"""The batch size on a GPU, tuned while images are computed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from threading import Lock
from typing import TypeVar

from swinclf.parallel_batches import ParallelBatches

Item = TypeVar("Item")

MIN_SPEEDUP = 1.05  # a doubled batch size is adopted only if it is faster by this factor


class BatchSize:
    """The size of the next batch, doubled for as long as that raises the throughput."""

    def __init__(self, parallel: ParallelBatches) -> None:
        self.size = parallel.first_size
        self._previous, self._max = parallel.first_size, parallel.max_size
        self._settled = parallel.first_size == parallel.max_size
        self._best_rate = 0.0
        self._rates: list[float] = []
        self._lock = Lock()

    def record(self, count: int, seconds: float) -> None:
        """Record how long the network alone took; the first batch of each size is a warm-up."""
        with self._lock:
            if self._settled or count != self.size:  # or it is of the previous size
                return
            self._rates.append(count / seconds)
            if len(self._rates) < 3:
                return
            rate, self._rates = max(self._rates[1:]), []
            if rate < MIN_SPEEDUP * self._best_rate:
                self.size, self._settled = self._previous, True
            elif self.size == self._max:
                self._settled = True
            else:
                self._best_rate, self._previous = rate, self.size
                self.size = min(2 * self.size, self._max)

    def batches(self, items: Iterable[Item]) -> Iterator[list[Item]]:
        """Yield the items in lists of the current size; the last list may be shorter."""
        source = iter(items)
        while batch := list(islice(source, self.size)):
            yield batch
