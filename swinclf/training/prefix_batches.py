"""Images of which the frozen first stages have seen all that they ever will.

Where some stages are frozen and the images are shown without variation, what these stages make of
an image is computed once, before the first epoch, and kept in memory; of held-out images always.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from swinclf.config import Augment
from swinclf.data.loader import LoadedImage, load_batches, load_for_prediction
from swinclf.data.transforms import to_torch_input
from swinclf.errors import ExitCode, Interrupted
from swinclf.models.compute import Computer
from swinclf.models.prefix import can_be_cut, output_of_first
from swinclf.progress import Reporter
from swinclf.runtime import Hardware, StopFlag, whole_batch
from swinclf.training.batches import Batch, Batches, ImageBatches, epoch_order
from swinclf.training.loop import autocast


@dataclass(frozen=True)
class KeptTokens:
    """What the first stages made of some images.

    Attributes:
        tokens: (V, N, ...) of one or two views, the image itself and its mirror image; on the CPU.
        readable: (N,) bool: whether there was something to see.
    """

    tokens: torch.Tensor
    readable: np.ndarray


@dataclass(frozen=True)
class PrefixBatches:
    """Batches that the first stages have seen already, as far as that is kept.

    Attributes:
        images: The same images as files.
        stages: How many stages are frozen.
        train_kept: Of the training images; None shows them as images.
        val_kept: Of the validation images; None likewise.
    """

    images: ImageBatches
    stages: int
    train_kept: KeptTokens | None
    val_kept: KeptTokens | None

    @property
    def train_count(self) -> int:
        """Training images."""
        return self.images.train_count

    @property
    def val_count(self) -> int:
        """Validation images."""
        return self.images.val_count

    @property
    def batch_size(self) -> int:
        """Images a step."""
        return self.images.batch_size

    def train(self, epoch: int, first_step: int) -> Iterator[Batch]:
        """See `Batches`: the images, order and mirroring of `ImageBatches.train`."""
        if self.train_kept is None:
            yield from self.images.train(epoch, first_step)
            return
        seed, mirror = self.images.seed, self.images.augmentation.mirror
        order = epoch_order(self.train_count, seed=seed, epoch=epoch)
        for start in range(first_step * self.batch_size, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            rows = rows[self.train_kept.readable[rows]]
            views = [
                int(mirror and np.random.default_rng([seed, epoch, int(row)]).random() < 0.5)
                for row in rows
            ]
            yield self._batch(self.train_kept, views, rows, self.images.train_targets)

    def val(self) -> Iterator[Batch]:
        """See `Batches`."""
        if self.val_kept is None:
            yield from self.images.val()
            return
        every = np.flatnonzero(self.val_kept.readable)
        for start in range(0, len(every), self.batch_size):
            rows = every[start : start + self.batch_size]
            yield self._batch(self.val_kept, [0] * len(rows), rows, self.images.val_targets)

    def _batch(
        self, kept: KeptTokens, views: Sequence[int], rows: np.ndarray, targets: Sequence[int]
    ) -> Batch:
        tokens = kept.tokens[torch.tensor(views, dtype=torch.int64), torch.from_numpy(rows)]
        wanted = torch.tensor([targets[row] for row in rows], dtype=torch.int64)
        device = self.images.device
        return Batch(tokens.to(device), wanted.to(device), self.stages)


def keep_frozen_tokens(
    batches: ImageBatches,
    network: nn.Module,
    stages: int,
    hardware: Hardware,
    *,
    limit_bytes: int,
    report: Reporter,
    stop: StopFlag,
) -> Batches:
    """Runs the frozen stages once over the images that are always shown alike, if it fits.

    Args:
        batches: The images.
        network: On its device, its first stages frozen.
        stages: How many are.
        hardware: Where the network trains.
        limit_bytes: What may be kept in memory.
        report: Told what is kept, or why it is not.
        stop: Looked at after every batch.

    Returns:
        The same batches, in part of tokens.

    Raises:
        Interrupted: If a signal asked to stop.
    """
    side = batches.preprocess
    blank = np.zeros((1, side.height, side.width, 3), np.uint8)
    example = to_torch_input(blank, side, hardware.device)
    network.eval()
    if not can_be_cut(network, stages, example):
        report.note("the frozen stages run anew in every epoch: this network cannot be cut there")
        return batches
    keeper = _Keeper(batches, network, stages, hardware, report, stop)
    views = 2 if batches.augmentation.mirror else 1
    is_fixed = batches.augmentation.kind is Augment.NONE
    val_bytes = batches.val_count * keeper.bytes_of(example, training=False)
    train_bytes = views * batches.train_count * keeper.bytes_of(example, training=True)
    limit = f"of {limit_bytes / 2**30:.1f} GiB that may be taken"
    val_kept = train_kept = None
    if 0 < val_bytes <= limit_bytes:
        val_kept = keeper.keep(batches.val_files, views=1, training=False)
    if is_fixed and train_bytes + val_bytes <= limit_bytes:
        train_kept = keeper.keep(batches.train_files, views=views, training=True)
        size = (train_bytes + val_bytes) / 2**30
        report.note(f"the frozen stages run once: what they give is kept, {size:.2f} GiB {limit}")
    elif is_fixed:
        size = (train_bytes + val_bytes) / 2**30
        report.note(
            "the frozen stages run anew in every epoch: what they give would take "
            f"{size:.2f} GiB {limit}"
        )
    else:
        report.note(
            "the frozen stages run anew for every training image, since --augment varies them; "
            "with --augment none they would run once"
        )
    return PrefixBatches(batches, stages, train_kept, val_kept)


class _Keeper:
    """Runs the frozen stages over files."""

    def __init__(
        self,
        batches: ImageBatches,
        network: nn.Module,
        stages: int,
        hardware: Hardware,
        report: Reporter,
        stop: StopFlag,
    ) -> None:
        self._batches, self._network, self._stages = batches, network, stages
        self._hardware, self._report, self._stop = hardware, report, stop
        self._computer = Computer(network, hardware)

    def bytes_of(self, image: torch.Tensor, *, training: bool) -> int:
        """What is kept of one image, (1, 3, H, W)."""
        return self._tokens(image, training=training).nbytes

    def keep(self, files: Sequence[Path], *, views: int, training: bool) -> KeptTokens:
        """Computes the tokens of files, in batches that depend on nothing but their order."""
        size = whole_batch(self._hardware.device)
        kept: torch.Tensor | None = None
        readable = np.zeros(len(files), bool)
        task = f"frozen stages, {'training' if training else 'held-out'} images"
        with self._report.track(task, len(files)) as advance:
            for batch in load_batches(
                range(len(files)),
                lambda row: load_for_prediction(files[row], self._batches.preprocess),
                batch_size=size,
                workers=self._batches.workers,
            ):
                rows, pixels = self._readable(files, batch)
                readable[rows] = True
                for view in range(views if rows else 0):
                    shown = np.stack([one[:, ::-1] if view else one for one in pixels])
                    inputs = to_torch_input(shown, self._batches.preprocess, self._hardware.device)
                    tokens = self._tokens(inputs, training=training).cpu()
                    if kept is None:
                        kept = tokens.new_zeros((views, len(files), *tokens.shape[1:]))
                    kept[view, rows] = tokens
                advance(len(batch))
                if self._stop:
                    raise Interrupted(self._stop.exit_code or ExitCode.INTERRUPTED)
        return KeptTokens(torch.empty(views, len(files)) if kept is None else kept, readable)

    def _tokens(self, inputs: torch.Tensor, *, training: bool) -> torch.Tensor:
        """As training sees them (by autocast), or as answers do."""
        if not training:
            return self._computer.first(self._stages, inputs)
        with torch.no_grad(), autocast(self._hardware):
            return output_of_first(self._network, self._stages, inputs)

    def _readable(
        self, files: Sequence[Path], batch: Sequence[tuple[int, LoadedImage]]
    ) -> tuple[list[int], list[np.ndarray]]:
        rows, pixels = [], []
        for row, loaded in batch:
            if loaded.pixels is None:
                self._batches.on_bad_file(files[row], loaded.error)
            elif self._batches.digests.get(files[row]) not in (None, loaded.digest):
                self._batches.on_bad_file(files[row], "its content is another one now")
            else:
                rows.append(row)
                pixels.append(loaded.pixels)
        return rows, pixels
