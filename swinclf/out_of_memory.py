"""Errors where the memory of a device runs out, and batches that are divided then."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from swinclf.errors import DeviceError

if TYPE_CHECKING:
    import numpy as np

Result = TypeVar("Result")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception is one of torch's many out-of-memory errors."""
    phrases = (
        *("out of memory", "can't allocate memory"),
        *("CUBLAS_STATUS_ALLOC_FAILED", "Invalid buffer size"),  # of CUDA and of MPS
    )
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in phrases)


class DividedBatches:
    """Computation of batches, in smaller parts where the memory of a device has run out."""

    def __init__(self, device: str) -> None:
        self._device, self.most_images = device, sys.maxsize

    def compute(self, compute: Callable[[np.ndarray], Result], pixels: np.ndarray) -> list[Result]:
        """Return the results of the parts of a batch, (N, H, W, 3), in order.

        Raises:
            DeviceError: If memory runs out for a single image.
        """
        while True:
            size = min(self.most_images, len(pixels))
            try:
                return [compute(pixels[row : row + size]) for row in range(0, len(pixels), size)]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if size == 1:
                    raise DeviceError(
                        f"memory on {self._device} for one image",
                        found=f"it ran out ({first_error_line(error)})",
                        hint="end other programs that use its memory"
                        + ("" if self._device == "cpu" else ", or --device cpu"),
                    ) from error
            # Here the exception is gone, and with it the tensors of the failed attempt.
            self.most_images = min(self.most_images, -(-size // 2))


def first_error_line(error: Exception) -> str:
    """Return the first line of an exception's text, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextmanager
def translate_out_of_memory(batch_size: int | None) -> Iterator[None]:
    """Raise torch's out-of-memory errors as a DeviceError that names the batch size in use.

    It is None where the features of all images are on the device, which no batch size changes.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        found = f"it ran out ({first_error_line(error)})"
        if batch_size is None:
            raise DeviceError(
                "memory on the device for the features of all images",
                found=found,
                hint="end other programs that use its memory, or --device cpu",
            ) from error
        raise DeviceError(
            f"memory on the device for a batch of {batch_size} images",
            found=found,
            hint=f"--batch-size {max(1, batch_size // 2)}, a smaller --img-size or --model",
        ) from error
