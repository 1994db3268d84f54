"""Batches for the training loop: of cached features, or of images read from files.

The order is a function of (seed, epoch), the augmentation of (seed, epoch, image) or, of a whole
batch, of (seed, epoch, step): a training that is resumed in the middle of an epoch gets exactly the
batches it would have got.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from PIL import Image

from swinclf.data.augmentation import Augmentation, augment_pixels, common_pixels, device_pixels
from swinclf.data.folder import TRAIN, VAL
from swinclf.data.loader import (
    ImageCache,
    LoadedImage,
    batched,
    load_batches,
    load_for_prediction,
    load_image,
)
from swinclf.data.transforms import to_device, to_torch_input
from swinclf.preprocess import Preprocess
from swinclf.training.device_images import ON_DEVICE, DeviceImages, ReadImage

if TYPE_CHECKING:
    from swinclf.training.mixing import ImageBatchAugmentation

UNLABELLED = -1  # the target of an image without a label


class Batch(NamedTuple):
    """Inputs and their targets."""

    inputs: torch.Tensor  # (B, ...) on the device
    # (B,) int64 class indices on the device; `UNLABELLED` where there is no label
    targets: torch.Tensor
    # (B,) int64 on the CPU, index of each view: i for training image i of N, N + i for its mirror
    # image; None if not needed
    views: torch.Tensor | None = None
    # (B,) int64 targets of the images mixed in; None without mixup and CutMix
    others: torch.Tensor | None = None
    share: float = 1.0  # of `targets` in mixed images, in [0.5, 1]; the rest is that of `others`

    def split(self, size: int) -> Iterator[Batch]:
        """Yield the batch in parts of at most `size` images."""
        for start in range(0, len(self.targets), size):
            yield self.rows(slice(start, start + size))

    def rows(self, chosen: slice) -> Batch:
        """Return some of the images."""
        views = None if self.views is None else self.views[chosen]
        others = None if self.others is None else self.others[chosen]
        return Batch(self.inputs[chosen], self.targets[chosen], views, others, self.share)


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """Return a permutation of range(count), a function of seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class FeatureBatches:
    """Features in memory: an epoch reads no image."""

    # (V, N, D) float32, of one or two views: the image, its mirror image
    train_features: torch.Tensor
    train_targets: torch.Tensor  # (N,) int64; `UNLABELLED` where there is no label
    val_features: torch.Tensor  # (M, D) float32, of the unmirrored images
    val_targets: torch.Tensor  # (M,) int64
    batch_size: int  # images a step
    seed: int  # of the order and of the choice of view

    @property
    def train_count(self) -> int:
        """Return the number of training images."""
        return len(self.train_targets)

    @property
    def val_count(self) -> int:
        """Return the number of validation images."""
        return len(self.val_targets)

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0), from a step on; a batch may be empty."""
        views, count = self.train_features.shape[:2]
        order = torch.from_numpy(epoch_order(count, seed=self.seed, epoch=epoch))
        view_of = torch.from_numpy(
            np.random.default_rng([self.seed, epoch, 1]).integers(views, size=count)
        )
        device = self.train_features.device  # to which the indices of all steps are copied once
        view_of = view_of[order]
        indices = order, order.to(device), view_of, view_of.to(device)
        steps = zip(*(one.split(self.batch_size) for one in indices), strict=True)
        for rows, own_rows, views_of, own_views in islice(steps, first_step, None):
            features = self.train_features[own_views, own_rows]
            yield Batch(features, self.train_targets[own_rows], views=views_of * count + rows)

    def val(self) -> Iterator[Batch]:
        """Yield the validation images, each once, in order, preprocessed as for prediction."""
        size = 4096
        for features, targets in zip(
            self.val_features.split(size), self.val_targets.split(size), strict=True
        ):
            yield Batch(features, targets)


@dataclass(frozen=True)
class ImageBatches:
    """Images read from files, augmented differently in every epoch."""

    train_files: Sequence[Path]  # paths of the training images
    train_targets: Sequence[int]  # their class indices, or `UNLABELLED`
    val_files: Sequence[Path]
    val_targets: Sequence[int]
    preprocess: Preprocess
    augmentation: Augmentation  # augmentation of training images
    batch_size: int  # images a step
    seed: int  # of order and augmentation
    workers: int  # reader threads
    device: str
    # called with the path and the reason for a file that was readable before and is not any more;
    # it is left out of its batch
    on_bad_file: Callable[[Path, str], None]
    # images decoded in an earlier epoch
    cache: ImageCache = field(default_factory=lambda: ImageCache(0))
    # content digests of the files; a file whose content has changed is a bad one (cached images
    # have no digest: they were checked when they were read)
    digests: Mapping[Path, bytes] = field(default_factory=dict)
    train_size: int | None = None  # side of training images, px; None for that of `preprocess`
    # augmentation of whole training batches; None for none
    of_batches: ImageBatchAugmentation | None = None
    # bytes of training images that the device keeps; it augments them, too. None augments on the
    # CPU, image by image
    device_bytes: int | None = None
    rank: int = 0  # of this process, which reads its part of every batch
    processes: int = 1  # which share each batch

    @property
    def train_count(self) -> int:
        """Return the number of training images."""
        return len(self.train_files)

    @property
    def val_count(self) -> int:
        """Return the number of validation images."""
        return len(self.val_files)

    @cached_property
    def _training(self) -> Preprocess:
        """The preprocessing of training images, perhaps of another size."""
        if self.train_size is None:
            return self.preprocess
        return replace(self.preprocess, height=self.train_size, width=self.train_size)

    @cached_property
    def _on_device(self) -> DeviceImages | None:
        if self.device_bytes is None:
            return None
        return DeviceImages(
            self._training,
            self.augmentation,
            self.device,
            count=self.train_count,  # of which a process gets others in every epoch
            limit_bytes=self.device_bytes,
        )

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """Yield the batches of an epoch (from 0), from a step on; a batch may be empty."""
        order = epoch_order(self.train_count, seed=self.seed, epoch=epoch).tolist()
        parts = [self._part(batch) for batch in batched(order, self.batch_size)][first_step:]

        def generator_of(index: int) -> np.random.Generator:
            return np.random.default_rng([self.seed, epoch, index])

        def load_augmented(index: int) -> LoadedImage:
            is_mirrored = False

            def vary(common: np.ndarray) -> np.ndarray:
                nonlocal is_mirrored
                varied = augment_pixels(
                    common, self._training, self.augmentation, generator_of(index)
                )
                is_mirrored = varied.is_mirrored
                return varied.pixels

            return replace(self._load_common(index, vary), is_mirrored=is_mirrored)

        def augment(images: Sequence[ReadImage]) -> tuple[torch.Tensor, Sequence[bool]]:
            assert self._on_device is not None
            augmented = self._on_device.batch(images, generator_of)
            for one in images:
                if one.index in self._on_device:  # once is enough
                    self.cache.discard((TRAIN, one.index))
            return augmented

        files, targets = self.train_files, self.train_targets
        if self._on_device is None:
            loaded = load_batches(parts, load_augmented, workers=self.workers)
            batches = self._batches(loaded, files, targets)
        else:
            loaded = self._load_for_device(parts, self._on_device)
            batches = self._batches(loaded, files, targets, augment)
        for step, (part, batch) in enumerate(zip(parts, batches, strict=True), first_step):
            yield self._augmented(batch, part, epoch=epoch, step=step)

    def _load_common(self, index: int, vary: Callable[[np.ndarray], np.ndarray]) -> LoadedImage:
        """Load the pixels of a training image that are common to all epochs, and change them."""
        to_pixels = common_pixels if self._on_device is None else device_pixels

        def to_common(picture: Image.Image) -> np.ndarray:
            return to_pixels(picture, self._training, self.augmentation)

        return self.cache.load(
            (TRAIN, index),
            lambda: load_image(
                self.train_files[index],
                to_common,
                self._training.decode_px,
                ranges=self._training.ranges,
            ),
            vary,
        )

    def _load_for_device(
        self, parts: Sequence[Sequence[int]], on_device: DeviceImages
    ) -> Iterator[list[tuple[int, LoadedImage]]]:
        """Yield batches of training images, without pixels where the device has them."""
        stored = LoadedImage(ON_DEVICE, b"", "")
        if all(index in on_device for part in parts for index in part):  # no thread is needed
            return ([(index, stored) for index in part] for part in parts)

        def load(index: int) -> LoadedImage:
            return stored if index in on_device else self._load_common(index, lambda one: one)

        return load_batches(parts, load, workers=self.workers)

    @property
    def _reads_neighbours(self) -> bool:
        """Whether the part of a batch needs the image before it, which is mixed into its first."""
        return self.processes > 1 and self.of_batches is not None and self.of_batches.mixes

    def _part(self, batch: Sequence[int]) -> Sequence[int]:
        """Return the images of a training batch that this process reads, perhaps none."""
        part = self._own(batch)
        if part and self._reads_neighbours:
            return [batch[batch.index(part[0]) - 1], *part]
        return part

    def _own(self, batch: Sequence[int]) -> Sequence[int]:
        """Return the part of a batch that belongs to this process, perhaps empty."""
        start, end = (len(batch) * one // self.processes for one in (self.rank, self.rank + 1))
        return batch[start:end]

    def _augmented(self, batch: Batch, part: Sequence[int], *, epoch: int, step: int) -> Batch:
        """Augment a whole batch, and drop the image that was read only to be mixed in."""
        if self.of_batches is not None:
            batch = self.of_batches.apply(batch, epoch=epoch, step=step)
        if not self._reads_neighbours or batch.views is None or not len(batch.views):
            return batch
        is_there = int(batch.views[0]) % self.train_count == part[0]  # it could be read
        return batch.rows(slice(1, None)) if is_there else batch

    def val(self) -> Iterator[Batch]:
        """Yield the validation images, each once, in order, preprocessed as for prediction."""

        def load(index: int) -> LoadedImage:
            return self.cache.load(
                (VAL, index),
                lambda: load_for_prediction(self.val_files[index], self.preprocess),
                lambda pixels: pixels,
            )

        parts = [self._own(batch) for batch in batched(range(self.val_count), self.batch_size)]
        loaded = load_batches(parts, load, workers=self.workers)
        yield from self._batches(loaded, self.val_files, self.val_targets)

    def _batches(
        self,
        batches: Iterable[list[tuple[int, LoadedImage]]],
        files: Sequence[Path],
        targets: Sequence[int],
        augment: Callable[[Sequence[ReadImage]], tuple[torch.Tensor, Sequence[bool]]] | None = None,
    ) -> Iterator[Batch]:
        """Yield batches of the images that can be read; `augment` returns those of a batch."""
        for batch in batches:
            good = []
            for index, loaded in batch:
                if loaded.pixels is None:
                    self.on_bad_file(files[index], loaded.error)
                elif loaded.digest and self.digests.get(files[index]) not in (None, loaded.digest):
                    self.on_bad_file(files[index], "its content has changed")
                else:
                    good.append(ReadImage(index, loaded.pixels, loaded.is_mirrored))
            if augment is None or not good:
                pixels = np.stack([one.pixels for one in good]) if good else self._no_pixels()
                inputs = to_torch_input(pixels, self.preprocess, self.device)
                mirrored: Sequence[bool] = [one.is_mirrored for one in good]
            else:
                inputs, mirrored = augment(good)
            views = [
                len(files) * is_mirrored + one.index
                for one, is_mirrored in zip(good, mirrored, strict=True)
            ]
            labels = np.asarray([targets[one.index] for one in good], np.int64)
            yield Batch(
                inputs, to_device(labels, self.device), views=torch.tensor(views, dtype=torch.int64)
            )

    def _no_pixels(self) -> np.ndarray:
        return np.empty((0, self._training.height, self._training.width, 3), np.uint8)


Batches = FeatureBatches | ImageBatches
