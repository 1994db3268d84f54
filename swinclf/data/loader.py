"""Parallel loading with prefetching: files in, batches of arrays out, in order.

Threads rather than processes: Pillow and NumPy release the GIL, so threads use the cores as well,
without shared memory or copies, and the results do not depend on their number.

A cache of bounded size keeps decoded images in memory for the epochs after the first. Cached and
uncached images are computed in the same way: its size changes only the speed.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from queue import Queue
from threading import Lock, Thread
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from swinclf.data.images import (
    ExcessiveImage,
    UnreadableImage,
    content_digest,
    image_bytes,
    use_image,
)
from swinclf.data.limits import serialize_if_large, why_not_bytes
from swinclf.data.thread_pool import (
    DEADLINE_VARIABLE,
    Job,
    ReaderPool,
    ReadTimeout,
    read_deadline,
)
from swinclf.data.transforms import eval_pixels
from swinclf.device import default_workers, free_memory, local_processes
from swinclf.errors import DataError
from swinclf.preprocess import Preprocess, ValueRange

MAX_TIMEOUTS = 3  # consecutive timeouts after which the disk is assumed to be gone

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LoadedImage:
    """Pixels and digest of one file, or the error."""

    # (H, W, 3) uint8; None if the file cannot be read, or need not be decoded
    pixels: np.ndarray | None
    digest: bytes  # content digest; empty if the file cannot be read, or none was requested
    error: str  # why it cannot be read; empty if it can
    is_mirrored: bool = False  # whether the pixels are of the mirror image


def load_image(
    path: Path,
    to_pixels: Callable[[Image.Image], np.ndarray],
    decode_px: int,
    *,
    ranges: tuple[ValueRange, ...] = (),
    digest: bool = True,
    is_known: Callable[[bytes], bool] | None = None,
) -> LoadedImage:
    """Read, decode and transform one file; errors are returned, never raised.

    `to_pixels` maps RGB images to (H, W, 3) uint8; `decode_px` and `ranges` are as of
    `decode_image`. `digest` is whether to compute the digest, a tenth of the time of decoding a
    photograph of 12 megapixels. An image whose digest `is_known` is not decoded.
    """
    try:
        with image_bytes(path) as data:
            found = content_digest(data) if digest or is_known else b""
            if is_known is not None and is_known(found):
                return LoadedImage(None, found, "")
            pixels = use_image(
                data, lambda one, _: to_pixels(one), decode_px=decode_px, ranges=ranges
            )
        return LoadedImage(pixels, found, "")
    except UnreadableImage as error:
        return LoadedImage(None, b"", str(error))


def decode_encoded(
    data: bytes,
    preprocess: Preprocess,
    *,
    resize: bool = True,
    max_bytes: int | None = None,
    max_pixels: int | None = None,
) -> np.ndarray:
    """Decode an image file that is in memory, with the preprocessing of evaluation.

    Without `resize`, for a network that resizes and crops itself. `max_bytes` limits the size of
    the file, None for `limits.MAX_FILE_BYTES`; `max_pixels` that of the image, None for its format.

    Raises:
        UnreadableImage: If it cannot be read.
        ExcessiveImage: If it exceeds a limit.
    """
    if not data:
        raise UnreadableImage("expected the bytes of an image file; found none")
    if reason := why_not_bytes(len(data), max_bytes):
        raise ExcessiveImage(reason)
    with serialize_if_large(len(data)):
        return use_image(
            data,
            lambda one, _: eval_pixels(one, preprocess) if resize else np.asarray(one),
            decode_px=preprocess.decode_px,
            ranges=preprocess.ranges,
            max_pixels=max_pixels,
        )


def load_for_prediction(
    path: Path,
    preprocess: Preprocess,
    *,
    resize: bool = True,
    digest: bool = True,
    is_known: Callable[[bytes], bool] | None = None,
) -> LoadedImage:
    """Return `load_image` with the preprocessing of evaluation; `resize` as of `decode_encoded`."""
    return load_image(
        path,
        lambda picture: eval_pixels(picture, preprocess) if resize else np.asarray(picture),
        preprocess.decode_px,
        ranges=preprocess.ranges,
        digest=digest,
        is_known=is_known,
    )


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int,
    ahead: int,
    late: Callable[[Item, str], Result] | None = None,
) -> Iterator[Result]:
    """Map in threads, in order, with at most `ahead` results prefetched.

    `items` are consumed lazily and may be endless. 0 `workers` compute each result when it is
    requested. `late` returns the result for an item and a reason if the function exceeds the
    deadline; None waits for ever.

    Raises:
        DataError: After several consecutive timeouts, when the disk is assumed to be gone.
    """
    source = iter(items)
    pending: deque[Job[Item, Result]] = deque()
    readers = ReaderPool(function, max(1, workers))
    deadline_s = math.inf if late is None else read_deadline()
    timeouts = 0

    def fill(room: int) -> None:
        pending.extend(map(readers.submit, islice(source, room - len(pending))))

    try:
        fill(ahead if workers else 1)
        while pending:
            job = pending.popleft()
            try:
                result, timeouts = readers.wait_for(job, deadline_s), 0
            except ReadTimeout:
                assert late is not None
                timeouts += 1
                if timeouts == MAX_TIMEOUTS:
                    raise _gone(job.item, timeouts, deadline_s) from None
                result = late(job.item, f"no answer from the disk within {deadline_s:g} s")
            if workers:  # so that reading goes on while the result is used
                fill(ahead)
            yield result
            if not workers:
                fill(1)
    finally:  # if the caller stopped early: cancel what is not needed
        for job in pending:
            job.future.cancel()
        readers.close(waits=late is None)


def _gone(item: object, count: int, deadline_s: float) -> DataError:
    return DataError(
        f"to read files such as '{item}'",
        found=f"timed out after {deadline_s:g} s, {count} consecutive times",
        hint=f"check the disk or network; {DEADLINE_VARIABLE}=300 waits five minutes for each file",
    )


def evenly_spaced(items: Sequence[Item], most: int) -> list[Item]:
    """Return up to `most` items, evenly spaced, including the first and last."""
    rows = np.linspace(0, len(items) - 1, min(len(items), most))
    return [items[round(row)] for row in rows.tolist()]


def digest_files(root: Path, paths: Iterable[str]) -> dict[str, bytes]:
    """Return the content digests of files in a folder, by path; unreadable files are left out.

    Nothing is decoded: a file with a digest need not be an image.

    Raises:
        DataError: After several consecutive timeouts, when the disk is assumed to be gone.
    """

    def digest(path: str) -> tuple[str, bytes]:
        with suppress(UnreadableImage), image_bytes(root / path) as data:
            return path, content_digest(data)
        return path, b""

    workers = default_workers()
    found = map_ahead(
        digest, paths, workers=workers, ahead=2 * workers, late=lambda path, _reason: (path, b"")
    )
    return {path: content for path, content in found if content}


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of `size` items, the last one shorter; nothing is dropped."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def available_batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield lists of the items available so far, at least one, from a slow source such as a pipe.

    The items are consumed in a separate thread, at most `size` in advance.
    """
    arrived: Queue[Item | _End] = Queue(maxsize=size)

    def feed() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                arrived.put(item)
        except BaseException as raised:
            error = raised
        arrived.put(_End(error))

    Thread(target=feed, daemon=True, name="swinclf-feeder").start()
    while True:
        group = [arrived.get()]
        while len(group) < size and not isinstance(group[-1], _End) and not arrived.empty():
            group.append(arrived.get())
        items_here = [one for one in group if not isinstance(one, _End)]
        if items_here:
            yield items_here
        if isinstance(end := group[-1], _End):
            if end.error is not None:
                raise end.error
            return


class _End(NamedTuple):
    """End of the items, with the error if the source raised one."""

    error: BaseException | None


def load_batches(
    batches: Sequence[Sequence[Item]], load: Callable[[Item], LoadedImage], *, workers: int
) -> Iterator[list[tuple[Item, LoadedImage]]]:
    """Yield batches of items with their loaded images, two batches prefetched."""

    def load_one(item: Item) -> tuple[Item, LoadedImage]:
        return item, load(item)

    ahead = 2 * max(map(len, batches), default=1)
    items = (item for batch in batches for item in batch)
    loaded = map_ahead(load_one, items, workers=workers, ahead=max(1, ahead), late=not_loaded)
    for batch in batches:
        yield list(islice(loaded, len(batch)))


def not_loaded(item: Item, why: str) -> tuple[Item, LoadedImage]:
    """Return an item with the reason why its image could not be loaded."""
    return item, LoadedImage(None, b"", why)


FREE_PART = 4  # the cache takes 1/FREE_PART of the free memory when training starts


class ImageCache:
    """Decoded pixels by key, up to `limit_bytes`.

    No image makes room for another, as epochs are cyclic.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.bytes = 0
        self._pixels: dict[Hashable, np.ndarray] = {}
        self._lock = Lock()

    def load(
        self,
        key: Hashable,
        load: Callable[[], LoadedImage],
        vary: Callable[[np.ndarray], np.ndarray],
    ) -> LoadedImage:
        """Return an augmented image; thread-safe.

        `key` identifies the image and how it is loaded, `load` reads and decodes the file on a
        cache miss, `vary` augments cached pixels without changing them.
        """
        loaded = LoadedImage(self._pixels.get(key), b"", "")
        if loaded.pixels is None:
            loaded = load()
            if loaded.pixels is None:
                return loaded
            self._store(key, loaded.pixels)
        return replace(loaded, pixels=vary(loaded.pixels))

    def discard(self, key: Hashable) -> None:
        """Forget an image, if it is cached."""
        with self._lock:
            pixels = self._pixels.pop(key, None)
            if pixels is not None:
                self.bytes -= pixels.nbytes

    def _store(self, key: Hashable, pixels: np.ndarray) -> None:
        with self._lock:
            if key not in self._pixels and self.bytes + pixels.nbytes <= self.limit_bytes:
                self._pixels[key] = pixels
                self.bytes += pixels.nbytes


def image_cache_bytes() -> int:
    """Return the size limit of the cache: a fraction of the memory that is free now.

    Several processes of one machine share it.
    """
    return free_memory() // FREE_PART // local_processes()
