"""Training images on a device other than the CPU: stored there as bytes, and augmented there.

From the second epoch on, nothing but the parameters of the augmentation is computed for each image
by itself on the CPU. Images that do not fit into the device's memory are copied to it again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from swinclf.data.augmentation import Augmentation, Draw, common_size, draw_augmentation
from swinclf.data.transforms import to_device
from swinclf.device import free_memory, is_out_of_memory
from swinclf.preprocess import Preprocess
from swinclf.training.device_augmentation import PackedImages, augment_batch

PART_OF_CUDA, PART_OF_SHARED = 4, 8  # of the free memory, of which 1/N is taken
ON_DEVICE = np.empty((0, 0, 3), np.uint8)
_MOST_OF_MPS = 2 * 1024**3  # some of its operators fail in tensors of more than 4 GiB
_ROOM = 1.2  # for images that are larger than those of the first batch


class _Location(NamedTuple):
    """Where an image is."""

    first: int  # pixel
    size: tuple[int, int]  # height and width
    common: tuple[int, int]  # height and width to which it is reduced


@dataclass(frozen=True)
class ReadImage:
    """An image of a batch that could be read."""

    index: int
    pixels: np.ndarray  # (H, W, 3) uint8, of `device_pixels`; `ON_DEVICE` if the device has it
    is_mirrored: bool = False  # whether the pixels are of the mirror image

    @property
    def is_on_device(self) -> bool:
        """Whether the pixels need not be copied to the device."""
        return self.pixels is ON_DEVICE


class DeviceImages:
    """Training images of a device.

    `count` is the number of all training images, `limit_bytes` the memory that they may take; 0
    stores none. Images are augmented by `preprocess`, whose size is that of training.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        augmentation: Augmentation,
        device: str,
        *,
        count: int,
        limit_bytes: int,
    ) -> None:
        self._preprocess, self._augmentation, self._device = preprocess, augmentation, device
        self._count, self._limit_bytes = count, limit_bytes
        self._locations: dict[int, _Location] = {}
        self._stored = torch.empty(0, 3, dtype=torch.uint8, device=device)
        self._used = 0

    def __contains__(self, index: int) -> bool:
        """Return whether the device has an image."""
        return index in self._locations

    def batch(
        self, images: Sequence[ReadImage], generator_of: Callable[[int], np.random.Generator]
    ) -> tuple[Tensor, Sequence[bool]]:
        """Return the augmented images of a batch, and whether each is mirrored.

        Images that come with their pixels are stored if there is room. The images are (B, 3, H, W)
        float32 on the device, normalised. `generator_of` returns the generator of an image in this
        epoch.
        """
        locations, fresh = [], [one for one in images if not one.is_on_device]
        copied = self._copied([one.pixels for one in fresh])
        is_stored = self._store(fresh, copied)
        start = 0
        for one in images:
            if one.is_on_device or is_stored:
                locations.append(self._locations[one.index])
                continue
            locations.append(self._locate(start, one.pixels))
            start += one.pixels.size // 3
        draws = [
            draw_augmentation(
                location.common[::-1], self._preprocess, self._augmentation, generator_of(one.index)
            )
            for location, one in zip(locations, images, strict=True)
        ]
        inputs = self._augmented(images, locations, draws, None if is_stored else copied)
        return inputs, [one.is_mirrored for one in draws]

    def _augmented(
        self,
        images: Sequence[ReadImage],
        locations: Sequence[_Location],
        draws: Sequence[Draw],
        copied: Tensor | None,
    ) -> Tensor:
        """Augment images: those of `copied` that came with pixels, and the stored ones."""
        is_copied = np.array([not (copied is None or one.is_on_device) for one in images])
        parts, order = [], list[int]()
        for source, chosen_rows in ((self._stored, ~is_copied), (copied, is_copied)):
            rows: list[int] = np.flatnonzero(chosen_rows).tolist()
            if source is None or not rows:
                continue
            first, sizes, common = (
                np.array(values, np.int64)
                for values in zip(*(locations[row] for row in rows), strict=True)
            )
            packed = PackedImages(source, first, sizes, common)
            parts.append(augment_batch(packed, [draws[row] for row in rows], self._preprocess))
            order += rows
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[to_device(np.argsort(order), self._device)]

    def _copied(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return the pixels of images, one after the other, on the device."""
        count = sum(one.shape[0] * one.shape[1] for one in images)
        is_cuda = self._device.startswith("cuda")
        joined = torch.empty(count, 3, dtype=torch.uint8, pin_memory=is_cuda)
        if images:
            np.concatenate([one.reshape(-1, 3) for one in images], out=joined.numpy())
        return joined.to(self._device, non_blocking=is_cuda)

    def _store(self, images: Sequence[ReadImage], copied: Tensor) -> bool:
        """Store images that have been copied to the device; return whether they fitted."""
        if not images:
            return True
        if not self._used:
            self._allocate(len(copied) / len(images))
        end = self._used + len(copied)
        if end > len(self._stored):
            return False
        self._stored[self._used : end] = copied
        for one in images:
            self._locations[one.index] = self._locate(self._used, one.pixels)
            self._used += one.pixels.size // 3
        return True

    def _locate(self, first: int, pixels: np.ndarray) -> _Location:
        height, width = pixels.shape[:2]
        common = width, height
        if self._augmentation.crops:
            common = common_size(common, self._preprocess, self._augmentation)
        return _Location(first, (height, width), common[::-1])

    def _allocate(self, mean_pixels: float) -> None:
        """Make room for all images of that mean size, as far as the limit allows.

        Only for the first batch: later, what the steps need of the memory has been found out.
        """
        limit, self._limit_bytes = self._limit_bytes // 3, 0
        wanted = min(math.ceil(_ROOM * mean_pixels * self._count), limit)
        try:
            self._stored = torch.empty(wanted, 3, dtype=torch.uint8, device=self._device)
        except RuntimeError as error:
            if not is_out_of_memory(error):  # other programs use the device, too
                raise


def device_image_bytes(device: str) -> int:
    """Return the limit of the images that a device keeps: a fraction of its free memory.

    It is taken before the first step, which divides its batch if the rest is too little.
    """
    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) // PART_OF_CUDA
    return min(free_memory() // PART_OF_SHARED, _MOST_OF_MPS)
