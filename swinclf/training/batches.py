"""What one loop trains on: batches of kept features, or batches of images read from files.

Order is a function of (seed, epoch), augmentation of (seed, epoch, image): a training that is
taken up in the middle of an epoch sees exactly what it would have seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image

from swinclf.data.folder import TRAIN, VAL
from swinclf.data.image_cache import ImageCache
from swinclf.data.loader import LoadedImage, load_batches, load_for_prediction, load_image
from swinclf.data.transforms import (
    Augmentation,
    augment_pixels,
    common_pixels,
    to_device,
    to_torch_input,
)
from swinclf.preprocess import Preprocess

UNLABELLED = -1  # the target of an image without a label


class Batch(NamedTuple):
    """Inputs and what they should give.

    Attributes:
        inputs: (B, ...) on the device.
        targets: (B,) int64 class indices on the device; `UNLABELLED` where there is no label.
        views: (B,) int64 on the CPU: which image in which view each of them is, counted through
            all N training images and then, from N on, through their mirror images; None where
            nobody asks.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    views: torch.Tensor | None = None

    def split(self, size: int) -> Iterator[Batch]:
        """Yield the same in parts of at most `size` images."""
        for start in range(0, len(self.targets), size):
            part = slice(start, start + size)
            views = None if self.views is None else self.views[part]
            yield Batch(self.inputs[part], self.targets[part], views)


class Batches(Protocol):
    """Training and validation data, in batches."""

    @property
    def train_count(self) -> int:
        """Training images."""

    @property
    def val_count(self) -> int:
        """Validation images."""

    @property
    def batch_size(self) -> int:
        """Images a step."""

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """The batches of an epoch (from 0), from a step on. A batch may be empty, never missing."""

    def val(self) -> Iterator[Batch]:
        """The validation images, each once, in order, as prediction sees them."""


def epoch_order(count: int, *, seed: int, epoch: int) -> np.ndarray:
    """A permutation of range(count) that depends on seed and epoch alone."""
    return np.random.default_rng([seed, epoch]).permutation(count)


@dataclass(frozen=True)
class FeatureBatches:
    """Features in memory: an epoch costs no look at any image.

    Attributes:
        train_features: (V, N, D) float32: one or two views of each image, the image itself and its
            mirror image.
        train_targets: (N,) int64; `UNLABELLED` where there is no label.
        val_features: (M, D) float32, of the image itself.
        val_targets: (M,) int64.
        batch_size: Images a step.
        seed: Of the order and of which view is taken.
    """

    train_features: torch.Tensor
    train_targets: torch.Tensor
    val_features: torch.Tensor
    val_targets: torch.Tensor
    batch_size: int
    seed: int

    @property
    def train_count(self) -> int:
        """Training images."""
        return len(self.train_targets)

    @property
    def val_count(self) -> int:
        """Validation images."""
        return len(self.val_targets)

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """See `Batches`."""
        views, count = self.train_features.shape[:2]
        order = torch.from_numpy(epoch_order(count, seed=self.seed, epoch=epoch))
        chosen = torch.from_numpy(
            np.random.default_rng([self.seed, epoch, 1]).integers(views, size=count)
        )
        for rows in order.split(self.batch_size)[first_step:]:
            features = self.train_features[chosen[rows], rows]
            shown = chosen[rows] * count + rows
            yield Batch(features, self.train_targets[rows], views=shown)

    def val(self) -> Iterator[Batch]:
        """See `Batches`."""
        sized = 4096
        for features, targets in zip(
            self.val_features.split(sized), self.val_targets.split(sized), strict=True
        ):
            yield Batch(features, targets)


@dataclass(frozen=True)
class ImageBatches:
    """Images read from files, varied every epoch anew.

    Attributes:
        train_files: Paths of the training images.
        train_targets: Their class indices, or `UNLABELLED`.
        val_files: Paths of the validation images.
        val_targets: Their class indices.
        preprocess: How a picture becomes the network's input.
        augmentation: How training pictures are varied.
        batch_size: Images a step.
        seed: Of order and augmentation.
        workers: Threads that read.
        device: Where the batches go.
        on_bad_file: Called with the path and the reason of a file that could be read before and
            cannot any more: its place in the batch stays empty.
        kept: Pictures decoded in an earlier epoch.
        digests: The content digests of files; one with another content now is a bad one
            (a picture that is kept has none: it was looked at when it was read).
        train_size: Side of training pictures, px; None for that of `preprocess`.
    """

    train_files: Sequence[Path]
    train_targets: Sequence[int]
    val_files: Sequence[Path]
    val_targets: Sequence[int]
    preprocess: Preprocess
    augmentation: Augmentation
    batch_size: int
    seed: int
    workers: int
    device: str
    on_bad_file: Callable[[Path, str], None]
    kept: ImageCache = field(default_factory=lambda: ImageCache(0))
    digests: Mapping[Path, bytes] = field(default_factory=dict)
    train_size: int | None = None

    @property
    def train_count(self) -> int:
        """Training images."""
        return len(self.train_files)

    @property
    def val_count(self) -> int:
        """Validation images."""
        return len(self.val_files)

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """See `Batches`."""
        shown = self.preprocess
        if self.train_size is not None:
            shown = replace(shown, height=self.train_size, width=self.train_size)

        def to_common(picture: Image.Image) -> np.ndarray:
            return common_pixels(picture, shown, self.augmentation)

        def load(index: int) -> LoadedImage:
            rng = np.random.default_rng([self.seed, epoch, index])
            is_mirrored = False

            def vary(common: np.ndarray) -> np.ndarray:
                nonlocal is_mirrored
                varied = augment_pixels(common, shown, self.augmentation, rng)
                is_mirrored = varied.is_mirrored
                return varied.pixels

            loaded = self.kept.load(
                (TRAIN, index),
                lambda: load_image(
                    self.train_files[index],
                    to_common,
                    shown.decode_px,
                    ranges=shown.ranges,
                ),
                vary,
            )
            return replace(loaded, is_mirrored=is_mirrored)

        order = epoch_order(self.train_count, seed=self.seed, epoch=epoch).tolist()
        yield from self._batches(
            order[first_step * self.batch_size :], load, self.train_files, self.train_targets
        )

    def val(self) -> Iterator[Batch]:
        """See `Batches`."""

        def load(index: int) -> LoadedImage:
            return self.kept.load(
                (VAL, index),
                lambda: load_for_prediction(self.val_files[index], self.preprocess),
                lambda pixels: pixels,
            )

        yield from self._batches(range(self.val_count), load, self.val_files, self.val_targets)

    def _batches(
        self,
        indices: Sequence[int],
        load: Callable[[int], LoadedImage],
        files: Sequence[Path],
        targets: Sequence[int],
    ) -> Iterator[Batch]:
        for batch in load_batches(indices, load, batch_size=self.batch_size, workers=self.workers):
            good = []
            for index, loaded in batch:
                if loaded.pixels is None:
                    self.on_bad_file(files[index], loaded.error)
                elif loaded.digest and self.digests.get(files[index]) not in (None, loaded.digest):
                    self.on_bad_file(files[index], "its content is another one now")
                else:
                    view = len(files) * loaded.is_mirrored + index
                    good.append((loaded.pixels, targets[index], view))
            pixels = np.stack([one[0] for one in good]) if good else self._no_pixels()
            yield Batch(
                to_torch_input(pixels, self.preprocess, self.device),
                to_device(np.asarray([target for _, target, _ in good], np.int64), self.device),
                views=torch.tensor([view for _, _, view in good], dtype=torch.int64),
            )

    def _no_pixels(self) -> np.ndarray:
        return np.empty((0, self.preprocess.height, self.preprocess.width, 3), np.uint8)
