"""Reader threads with a timeout: a thread that waits for an unresponsive disk is abandoned.

A read from a network disk that is gone can be neither interrupted nor awaited. So these are daemon
threads, and waiting for a result has a deadline. The executors of the standard library wait for all
of their threads for ever.
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
POLL_S = 1.0  # how often a wait checks the clock
JOIN_S = 1.0  # how long `close` waits for running reads

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_deadline() -> float:
    """Return the seconds allowed for reading and decoding a file, from the environment."""
    try:
        return float(os.environ.get(DEADLINE_VARIABLE, DEFAULT_DEADLINE_S))
    except ValueError:
        return DEFAULT_DEADLINE_S


class ReadTimeout(Exception):
    """A read that has exceeded its deadline."""


@dataclass
class Job(Generic[Item, Result]):
    """One item and the future of its result."""

    item: Item
    future: Future[Result] = field(default_factory=Future)
    started: float = 0.0
    is_abandoned: bool = False


_here = local()  # .job: the job of this thread


@contextmanager
def deadline_paused() -> Iterator[None]:
    """Restart this job's deadline after the block, which waits for other threads."""
    job: Job[object, object] | None = getattr(_here, "job", None)
    if job is not None:
        job.started = 0.0
    yield
    if job is not None:
        job.started = time.monotonic()


class ReaderPool(Generic[Item, Result]):
    """A pool of threads that call one function."""

    def __init__(self, function: Callable[[Item], Result], count: int) -> None:
        self._function, self._count = function, count
        self._jobs: SimpleQueue[Job[Item, Result] | None] = SimpleQueue()
        self._threads: list[Thread] = []
        self._abandoned = 0

    def submit(self, item: Item) -> Job[Item, Result]:
        """Schedule the function for an item."""
        job: Job[Item, Result] = Job(item)
        self._jobs.put(job)
        if len(self._threads) < self._count + self._abandoned:
            self._start_thread()
        return job

    def wait_for(self, job: Job[Item, Result], deadline_s: float) -> Result:
        """Return a job's result.

        The deadline is in seconds since a thread started the job, excluding time in which this
        process itself was suspended.

        Raises:
            ReadTimeout: If the deadline is exceeded; the thread is then abandoned and replaced.
        """
        suspended = 0.0
        while True:
            polled = time.monotonic()
            try:
                return job.future.result(timeout=min(POLL_S, deadline_s))
            except TimeoutError:
                if job.future.done():  # the function's own
                    raise
            now = time.monotonic()
            suspended += max(0.0, now - polled - 2 * POLL_S)
            if job.started and now - job.started - suspended >= deadline_s:
                job.is_abandoned = True
                self._abandoned += 1
                self._start_thread()
                raise ReadTimeout

    def close(self, *, waits: bool = False) -> None:
        """Stop the threads, without waiting long for running jobs unless `waits`.

        A thread that still computes with torch when Python ends would abort the process.
        """
        for _ in self._threads:
            self._jobs.put(None)
        if waits:
            for thread in self._threads:
                thread.join()
            return
        until = time.monotonic() + JOIN_S * (len(self._threads) > self._abandoned)
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
            if job.is_abandoned:  # this thread has been replaced
                return
