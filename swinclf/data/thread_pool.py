"""Threads that read: one that waits for a disk which does not answer is left behind.

A read from a network disk that has gone can neither be ended nor waited for. So these threads do
not keep the process alive, and whoever waits for one of them gives it a time and goes on without
it. A pool of the standard library waits for all of its threads, for ever.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread, local
from typing import Generic, TypeVar

DEADLINE_VARIABLE = "SWINCLF_READ_DEADLINE_S"
DEFAULT_DEADLINE_S = 30.0
LOOK_EVERY_S = 1.0  # how often a wait looks at the clock
GOODBYE_S = 1.0  # how long the end waits for what is still being read

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_deadline() -> float:
    """Seconds within which a file is read and decoded; longer by the environment's leave."""
    try:
        return float(os.environ.get(DEADLINE_VARIABLE, DEFAULT_DEADLINE_S))
    except ValueError:
        return DEFAULT_DEADLINE_S


class Stuck(Exception):
    """What was asked for has not come within the deadline."""


@dataclass
class Job(Generic[Item, Result]):
    """One item, and what will become of it."""

    item: Item
    future: Future[Result] = field(default_factory=Future)
    started: float = 0.0
    left_behind: bool = False


_here = local()  # .job: what this thread is doing


@contextmanager
def clock_stopped() -> Iterator[None]:
    """Around a wait for other threads: it does not count as time in which a file does not come."""
    job: Job[object, object] | None = getattr(_here, "job", None)
    if job is not None:
        job.started = 0.0
    yield
    if job is not None:
        job.started = time.monotonic()


class Readers(Generic[Item, Result]):
    """A few threads that call one function.

    Args:
        function: Called in a thread.
        count: Threads.
    """

    def __init__(self, function: Callable[[Item], Result], count: int) -> None:
        self._function, self._count = function, count
        self._jobs: SimpleQueue[Job[Item, Result] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._left_behind = 0

    def submit(self, item: Item) -> Job[Item, Result]:
        """Has the function called with an item."""
        job: Job[Item, Result] = Job(item)
        self._jobs.put(job)
        if len(self._threads) < self._count + self._left_behind:
            self._start_thread()
        return job

    def wait_for(self, job: Job[Item, Result], deadline_s: float) -> Result:
        """A job's result.

        Args:
            job: One that was submitted.
            deadline_s: Seconds from when a thread took it up. Time in which this process itself
                stood still, stopped or asleep, does not count.

        Raises:
            Stuck: If it has not come; its thread is then left behind and replaced.
        """
        still = 0.0
        while True:
            looked = time.monotonic()
            try:
                return job.future.result(timeout=min(LOOK_EVERY_S, deadline_s))
            except TimeoutError:
                if job.future.done():  # the function's own
                    raise
            now = time.monotonic()
            still += max(0.0, now - looked - 2 * LOOK_EVERY_S)
            if job.started and now - job.started - still >= deadline_s:
                job.left_behind = True
                self._left_behind += 1
                self._start_thread()
                raise Stuck

    def close(self) -> None:
        """Lets the threads go; what is still being read is waited for, but not long."""
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + GOODBYE_S * (len(self._threads) > self._left_behind)
        for thread in self._threads:
            thread.join(timeout=max(0.0, until - time.monotonic()))

    def _start_thread(self) -> None:
        thread = Thread(target=self._work, daemon=True, name="swinclf-reader")
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if not job.future.set_running_or_notify_cancel():
                continue
            job.started = time.monotonic()
            _here.job = job
            try:
                result = self._function(job.item)
            except BaseException as error:
                job.future.set_exception(error)
            else:
                job.future.set_result(result)
            if job.left_behind:  # another has taken this thread's place
                return
