"""Reading ahead: files in, batches of arrays out, in order, decoded by threads.

Threads and not processes: Pillow and NumPy let go of the interpreter while they work, so threads
keep the cores as busy, and there is no shared memory to fill, no worker to be killed, nothing to
copy between them, and what comes out does not depend on how many there are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from swinclf.data.images import UnreadableImage, content_digest, read_bytes, reading, use_image
from swinclf.data.limits import MAX_FILE_BYTES, turn_to_read
from swinclf.data.thread_pool import DEADLINE_VARIABLE, Job, Readers, Stuck, read_deadline
from swinclf.data.transforms import eval_pixels
from swinclf.errors import DataError
from swinclf.preprocess import Preprocess, ValueRange

STUCK_ON_END = 3  # items that do not come, one after the other, until it is the disk's fault

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class LoadedImage:
    """What became of one file.

    Attributes:
        pixels: (H, W, 3) uint8; None where the file could not be read, or need not be decoded.
        digest: The digest of its content; empty where the file could not be read, or none was
            wanted.
        error: Why it could not be read; empty where it could.
        is_mirrored: Whether the pixels are of the mirror image.
    """

    pixels: np.ndarray | None
    digest: bytes
    error: str
    is_mirrored: bool = False


def load_image(
    path: Path,
    to_pixels: Callable[[Image.Image], np.ndarray],
    decode_px: int,
    *,
    ranges: tuple[ValueRange, ...] = (),
    digest: bool = True,
    is_known: Callable[[bytes], bool] | None = None,
) -> LoadedImage:
    """Reads, decodes and transforms one file; whatever goes wrong is an answer, never an exception.

    Args:
        path: The file.
        to_pixels: RGB picture -> (H, W, 3) uint8.
        decode_px: The shorter side that is needed, px.
        ranges: Which values of more than 8 bits are black and white.
        digest: Whether the digest is wanted: of a photograph of 12 megapixels it takes a tenth of
            the time that decoding takes.
        is_known: Asked by the digest whether decoding would tell nothing new; None decodes.
    """
    try:
        with reading(path):
            data = read_bytes(path)
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
    to_pixels: Callable[[Image.Image], np.ndarray],
    decode_px: int,
    ranges: tuple[ValueRange, ...] = (),
) -> np.ndarray:
    """Decodes and transforms the content of an image file that is in memory.

    Args:
        data: The whole file, at most `limits.MAX_FILE_BYTES`.
        to_pixels: RGB picture -> (H, W, 3) uint8.
        decode_px: The shorter side that is needed, px.
        ranges: Which values of more than 8 bits are black and white.

    Raises:
        UnreadableImage: If it cannot be read.
    """
    if not data:
        raise UnreadableImage("expected the bytes of an image file; found none")
    if len(data) > MAX_FILE_BYTES:
        raise UnreadableImage(f"{len(data):,} bytes; the limit is {MAX_FILE_BYTES:,}")
    with turn_to_read(len(data)):
        return use_image(data, lambda one, _: to_pixels(one), decode_px=decode_px, ranges=ranges)


def load_for_prediction(
    path: Path,
    preprocess: Preprocess,
    *,
    digest: bool = True,
    is_known: Callable[[bytes], bool] | None = None,
) -> LoadedImage:
    """`load_image` with the pixels that prediction sees."""

    def to_pixels(picture: Image.Image) -> np.ndarray:
        return eval_pixels(picture, preprocess)

    return load_image(
        path,
        to_pixels,
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
    """`map` in threads, in order, at most `ahead` results in advance of the one being used.

    Args:
        function: Called in a thread.
        items: Taken one by one, as room comes free: they may be endless.
        workers: Threads; 0 does each item when its result is asked for, and none ahead.
        ahead: Bound on memory, in results.
        late: Gives the result, from the item and the reason, where the function's own does not
            come within the deadline. None waits for ever.

    Raises:
        DataError: If several items on end do not come: then it is the disk that is gone.
    """
    source = iter(items)
    pending: deque[Job[Item, Result]] = deque()
    readers = Readers(function, max(1, workers))
    deadline_s = math.inf if late is None else read_deadline()
    stuck = 0

    def fill(room: int) -> None:
        pending.extend(map(readers.submit, islice(source, room - len(pending))))

    try:
        fill(ahead if workers else 1)
        while pending:
            job = pending.popleft()
            try:
                result, stuck = readers.wait_for(job, deadline_s), 0
            except Stuck:
                assert late is not None
                stuck += 1
                if stuck == STUCK_ON_END:
                    raise _gone(job.item, stuck, deadline_s) from None
                result = late(job.item, f"no answer from the disk within {deadline_s:g} s")
            if workers:  # so that reading goes on while the result is used
                fill(ahead)
            yield result
            if not workers:
                fill(1)
    finally:  # the caller stopped early: do not work through what nobody will see
        for job in pending:
            job.future.cancel()
        readers.close()


def _gone(item: object, count: int, deadline_s: float) -> DataError:
    return DataError(
        f"the disk to give files such as '{item}'",
        found=f"no answer within {deadline_s:g} s, {count} times on end",
        hint=f"the disk or network first; {DEADLINE_VARIABLE}=300 waits five minutes for each",
    )


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items, the last one shorter; nothing is dropped."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def groups_at_hand(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of the items that have arrived: for a source that takes its time, such as a pipe.

    Args:
        items: Taken in a thread of their own, at most `size` in advance.
        size: Most items of a list.

    Yields:
        At least one item; waits only where there is none.
    """
    arrived: SimpleQueue[Item | _End] = SimpleQueue()
    room = Semaphore(size)

    def feed() -> None:
        error: BaseException | None = None
        try:
            for item in items:
                room.acquire()
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
        room.release(max(1, len(items_here)))
        if items_here:
            yield items_here
        if isinstance(end := group[-1], _End):
            if end.error is not None:
                raise end.error
            return


class _End(NamedTuple):
    """What comes after the last item: why there are no more, if something went wrong."""

    error: BaseException | None


def load_batches(
    items: Sequence[Item], load: Callable[[Item], LoadedImage], *, batch_size: int, workers: int
) -> Iterator[list[tuple[Item, LoadedImage]]]:
    """Items with what was loaded for them, batch by batch, two batches read ahead."""

    def load_one(item: Item) -> tuple[Item, LoadedImage]:
        return item, load(item)

    loaded = map_ahead(load_one, items, workers=workers, ahead=2 * batch_size, late=not_loaded)
    return batched(loaded, batch_size)


def not_loaded(item: Item, why: str) -> tuple[Item, LoadedImage]:
    """An item with the reason why nothing could be loaded for it."""
    return item, LoadedImage(None, b"", why)
