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
from swinclf.device import free_memory
from swinclf.out_of_memory import is_out_of_memory
from swinclf.preprocess import Preprocess
from swinclf.training.device_augmentation import (
    PackedImages,
    augment_batch,
    pack,
    reduce_images,
)

PART_OF_CUDA, PART_OF_SHARED = 4, 8  # of the free memory, of which 1/N is taken
ON_DEVICE = np.empty((0, 0, 3), np.uint8)
_MOST_OF_MPS = 2 * 1024**3  # some of its operators fail in tensors of more than 4 GiB
_ROOM = 1.2  # for images that are larger than those of the first batch


class _Location(NamedTuple):
    """Where an image is."""

    first: int  # pixel
    size: tuple[int, int]  # height and width


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
        fresh = [one for one in images if not one.is_on_device]
        copied = self._reduced(self._copied([one.pixels for one in fresh])) if fresh else None
        is_stored = copied is None or self._store([one.index for one in fresh], copied)
        here = iter([] if copied is None else _locations(copied, 0))
        locations = [
            self._locations[one.index] if one.is_on_device or is_stored else next(here)
            for one in images
        ]
        draws = [
            draw_augmentation(
                location.size[::-1], self._preprocess, self._augmentation, generator_of(one.index)
            )
            for location, one in zip(locations, images, strict=True)
        ]
        source = None if is_stored or copied is None else copied.pixels
        inputs = self._augmented(images, locations, draws, source)
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
            first, sizes = (
                np.array(values, np.int64)
                for values in zip(*(locations[row] for row in rows), strict=True)
            )
            packed = PackedImages(source, first, sizes)
            parts.append(augment_batch(packed, [draws[row] for row in rows], self._preprocess))
            order += rows
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts)[to_device(np.argsort(order), self._device)]

    def _copied(self, images: Sequence[np.ndarray]) -> PackedImages:
        """Return images on the device."""
        sizes = np.array([one.shape[:2] for one in images], np.int64)
        is_cuda = self._device.startswith("cuda")
        count = int(sizes.prod(axis=1).sum())
        joined = torch.empty(count, 3, dtype=torch.uint8, pin_memory=is_cuda)
        np.concatenate([one.reshape(-1, 3) for one in images], out=joined.numpy())
        return pack(joined.to(self._device, non_blocking=is_cuda), sizes)

    def _reduced(self, images: PackedImages) -> PackedImages:
        """Return images in the sizes that are common to all epochs."""
        if not self._augmentation.crops:
            return images
        common = [
            common_size((width, height), self._preprocess, self._augmentation)[::-1]
            for height, width in images.sizes.tolist()
        ]
        return reduce_images(images, np.array(common, np.int64), self._preprocess.interpolation)

    def _store(self, indices: Sequence[int], images: PackedImages) -> bool:
        """Store images that have been copied to the device; return whether they fitted."""
        if not self._used:
            self._allocate(len(images.pixels) / len(indices))
        end = self._used + len(images.pixels)
        if end > len(self._stored):
            return False
        self._stored[self._used : end] = images.pixels
        self._locations.update(zip(indices, _locations(images, self._used), strict=True))
        self._used = end
        return True

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


def _locations(images: PackedImages, start: int) -> list[_Location]:
    """Return where images are that begin at pixel `start`."""
    return [
        _Location(start + first, (height, width))
        for first, (height, width) in zip(images.first.tolist(), images.sizes.tolist(), strict=True)
    ]


def device_image_bytes(device: str) -> int:
    """Return the limit of the images that a device keeps: a fraction of its free memory.

    It is taken before the first step, which divides its batch if the rest is too little.
    """
    if device.startswith("cuda"):
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (torch.cuda.mem_get_info(device)[0] + unused) // PART_OF_CUDA
    return min(free_memory() // PART_OF_SHARED, _MOST_OF_MPS)
