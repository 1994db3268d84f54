"""Batches of images that arrive one by one, from any number of threads.

Reader threads decode; one thread, on a CPU one a core, owns the model and computes what is decoded.
The batches are those of `predict`: as large, and as many at a time. Knows nothing about HTTP.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from queue import Empty, SimpleQueue
from threading import Lock, Semaphore, Thread
from time import monotonic
from types import TracebackType

import numpy as np

from swinclf.data.images import UnreadableImage
from swinclf.data.loader import decode_encoded
from swinclf.inference.predictor import Predictor
from swinclf.inference.stream import ImageOutput, compute_by_size
from swinclf.parallel_batches import divide_threads
from swinclf.serving.serve_limits import ServeLimits

WAIT_S = 0.005  # of the first image of a batch for others that are being decoded

_Decoded = tuple["Future[ImageOutput]", np.ndarray]


class ImageBatcher:
    """Threads that decode and compute images; use it in a `with` block.

    `limits` are of a file's bytes and an image's pixels. `on_batch` is called with the number of
    images of each batch.
    """

    def __init__(
        self,
        predictor: Predictor,
        *,
        workers: int,
        limits: ServeLimits,
        on_batch: Callable[[int], None],
    ) -> None:
        self._predictor, self._on_batch = predictor, on_batch
        self._to_pixels = partial(
            decode_encoded,
            preprocess=predictor.card.preprocess,
            resize=not predictor.takes_any_size,
            max_bytes=limits.file_bytes,
            max_pixels=limits.pixels,
        )
        self._readers = ThreadPoolExecutor(max(1, workers), "swinclf-reader")
        self._decoded: SimpleQueue[_Decoded | None] = SimpleQueue()
        self._lock, self._decoding, self._waiting = Lock(), 0, 0
        # Of decoded images, which take up to a thousand times the memory of their files.
        parallel = predictor.parallel
        self._room = Semaphore(2 * parallel.size * parallel.count)
        self._threads = [
            Thread(target=self._compute, name="swinclf-model")
            for _ in range(predictor.parallel.count)
        ]
        self._stack = ExitStack()

    def __enter__(self) -> ImageBatcher:
        """Start the threads."""
        self._stack.enter_context(divide_threads(self._predictor.parallel))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Finish what has been decoded, and stop the threads."""
        self._readers.shutdown(cancel_futures=True)
        for _ in self._threads:
            self._decoded.put(None)
        for thread in self._threads:
            thread.join()
        self._stack.close()

    @property
    def waiting(self) -> int:
        """Number of images that have been submitted and are not finished."""
        return self._waiting

    def submit(self, data: bytes) -> Future[ImageOutput]:
        """Schedule an image file; return its outputs, or as an exception why there are none.

        That is `UnreadableImage`, or whatever the model raised. Cancelled before a reader thread
        takes it, it costs nothing.
        """
        future: Future[ImageOutput] = Future()
        with self._lock:
            self._waiting += 1
            self._decoding += 1
        future.add_done_callback(self._finish)
        self._readers.submit(self._decode, future, data)
        return future

    def _finish(self, _: Future[ImageOutput]) -> None:
        with self._lock:
            self._waiting -= 1

    def _decode(self, future: Future[ImageOutput], data: bytes) -> None:
        self._room.acquire()
        pixels = None
        try:
            if future.set_running_or_notify_cancel():
                pixels = self._to_pixels(data)
        except UnreadableImage as error:
            # A copy, whose traceback does not keep the file in memory until a garbage collection.
            future.set_exception(type(error)(*error.args))
        except Exception as error:  # a bug, of which the caller is to know
            future.set_exception(error)
        if pixels is None:
            self._room.release()
        else:
            self._decoded.put((future, pixels))
        with self._lock:
            self._decoding -= 1

    def _compute(self) -> None:
        while batch := self._next_batch():
            futures = [future for future, _ in batch]
            try:
                results = compute_by_size(self._predictor, [pixels for _, pixels in batch])
            except Exception as error:  # such as no memory for one image
                for future in futures:
                    future.set_exception(error)
                continue
            finally:
                self._room.release(len(batch))
            self._on_batch(len(batch))
            for future, result in zip(futures, results, strict=True):
                future.set_result(result)

    def _next_batch(self) -> list[_Decoded]:
        """Return decoded images, at least one; none at the end."""
        first = self._decoded.get()
        batch = [] if first is None else [first]
        until = monotonic() + WAIT_S
        while batch and len(batch) < self._predictor.parallel.size:
            patience_s = max(0.0, until - monotonic()) if self._decoding else 0.0
            try:
                item = self._decoded.get(timeout=patience_s)
            except Empty:
                break
            if item is None:  # the end, for this or another thread
                self._decoded.put(None)
                break
            batch.append(item)
        return batch
