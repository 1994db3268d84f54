"""How many batches a network computes in parallel.

On a CPU, one thread a batch and a batch a core are faster than all threads on one batch: threads of
one batch wait for each other after every layer, and for the threads that decode. On an NVIDIA GPU a
second thread stacks a batch and copies it while the first one waits for the results of another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from swinclf.device import fixed_batch_size

MAX_PARALLEL = 8


@dataclass(frozen=True)
class ParallelBatches:
    """The number and the size of batches computed at the same time."""

    count: int  # batches at a time, each in its own thread
    size: int  # images of a batch


ONE_BATCH = ParallelBatches(1, size=32)

# torch's number of threads is that of the whole process
_lock = Lock()
_blocks = 0  # of `divide_threads` that have not ended
_threads = 0  # number of threads before the first of them


def choose_parallel_batches(device: str, pixels: int) -> ParallelBatches:
    """Return the parallelism for a torch network.

    The size is not tuned by timing: it changes the last digits of the outputs, which have to be
    reproducible. On a CPU small batches stay in the caches.

    `pixels` is the number of an input image: a CPU batch has as many as 8 images of 224 x 224, with
    a minimum of 8 images and a maximum of 32.
    """
    if device == "cpu":
        import torch

        size = min(max(8 * 224 * 224 // pixels, 8), 32)
        threads = min(torch.get_num_threads(), MAX_PARALLEL)
        return ParallelBatches(threads, size)
    return ParallelBatches(2 if device.startswith("cuda") else 1, fixed_batch_size(device))


@contextmanager
def divide_threads(parallel: ParallelBatches) -> Iterator[None]:
    """Divide torch's threads among the parallel batches inside the `with` block.

    Blocks may overlap in any order, as of two streams: the last one to end restores the threads.
    """
    global _blocks, _threads
    if parallel.count == 1:
        yield
        return
    import torch

    with _lock:
        if not _blocks:
            _threads = torch.get_num_threads()
            torch.set_num_threads(max(1, _threads // parallel.count))
        _blocks += 1
    try:
        yield
    finally:
        with _lock:
            _blocks -= 1
            if not _blocks:
                torch.set_num_threads(_threads)
