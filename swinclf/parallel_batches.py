"""How many batches a network computes in parallel.

On a CPU, one thread a batch and a batch a core are faster than all threads on one batch: threads of
one batch wait for each other after every layer, and for the threads that decode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from swinclf.device import torch_threads

MAX_PARALLEL = 8


@dataclass(frozen=True)
class ParallelBatches:
    """The number and the size of batches computed at the same time."""

    count: int  # batches at a time, each in its own thread
    first_size: int  # images of the first batch
    max_size: int  # largest number of images that a batch may grow to


ONE_BATCH = ParallelBatches(1, first_size=32, max_size=32)


def choose_parallel_batches(device: str, pixels: int) -> ParallelBatches:
    """Return the parallelism for a torch network.

    On a CPU small batches stay in the caches. Their size is fixed, not tuned by timing as on a GPU:
    it changes the last digits of the outputs, which have to be reproducible.

    `pixels` is the number of an input image: a CPU batch has as many as 8 images of 224 x 224, with
    a minimum of 8 images and a maximum of 32.
    """
    if device == "cpu":
        import torch

        size = min(max(8 * 224 * 224 // pixels, 8), 32)
        threads = min(torch.get_num_threads(), MAX_PARALLEL)
        return ParallelBatches(threads, first_size=size, max_size=size)
    if device.startswith("cuda"):
        return ParallelBatches(1, first_size=32, max_size=512)
    return ONE_BATCH


@contextmanager
def divide_threads(parallel: ParallelBatches) -> Iterator[None]:
    """Divide torch's threads among the parallel batches inside the `with` block."""
    if parallel.count == 1:
        yield
        return
    import torch

    with torch_threads(max(1, torch.get_num_threads() // parallel.count)):
        yield
