"""Augmentation of whole batches on a device: what Pillow does to each image, within rounding."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_transforms import SMALL, picture_of
from torch.utils._python_dispatch import TorchDispatchMode

from swinclf.config import Augment
from swinclf.data.augmentation import (
    Augmentation,
    Operation,
    augment_pixels,
    common_pixels,
    device_pixels,
    draw_augmentation,
)
from swinclf.data.loader import ImageCache
from swinclf.data.transforms import to_torch_input
from swinclf.preprocess import Fit, Interpolation
from swinclf.training import device_augmentation, device_images
from swinclf.training.batches import ImageBatches
from swinclf.training.device_augmentation import augment_batch, pack, reduce_images
from swinclf.training.device_images import ON_DEVICE, DeviceImages, ReadImage

# Wide ones: Pillow resizes tall images along columns first, and rounds in between.
SIZES = [(70, 55), (59, 59), (200, 33), (25, 20), (150, 34), (90, 41), (1, 1)]
TALL = [(55, 70), (33, 200), (20, 25)]
REDUCED = [(80, 60), (64, 64), (200, 110), (70, 55)]  # most to a shorter side of 59 px


def packed(images):
    flat = np.concatenate([one.reshape(-1, 3) for one in images])
    return pack(torch.from_numpy(flat), np.array([one.shape[:2] for one in images]))


def both(augmentation, preprocess=SMALL, *, seeds=range(24), operation=None, sizes=SIZES):
    """The images of a batch by Pillow and on a device, as numbers from 0 to 255."""
    pictures = [picture_of(sizes[seed % len(sizes)], seed) for seed in seeds]
    images = [common_pixels(one, preprocess, augmentation) for one in pictures]
    unreduced = [device_pixels(one, preprocess, augmentation) for one in pictures]
    generators = [np.random.default_rng([3, seed]) for seed in seeds]
    draws = []
    for image, rng in zip(images, generators, strict=True):
        height, width = image.shape[:2]
        draws.append(draw_augmentation((width, height), preprocess, augmentation, rng))
    if operation is not None:
        draws = [one._replace(operation=operation) for one in draws]
    sizes = np.array([one.shape[:2] for one in images])
    reduced = reduce_images(packed(unreduced), sizes, preprocess.interpolation)
    theirs = augment_batch(reduced, draws, preprocess)
    with pytest.MonkeyPatch.context() as patch:
        waiting = iter(draws)
        patch.setattr("swinclf.data.augmentation.draw_augmentation", lambda *_: next(waiting))
        ours = [augment_pixels(one, preprocess, augmentation, None) for one in images]
    assert [one.is_mirrored for one in ours] == [one.is_mirrored for one in draws]
    ours = to_torch_input(np.stack([one.pixels for one in ours]), preprocess, "cpu")
    assert theirs.shape == ours.shape
    assert theirs.dtype == torch.float32
    std = 255 * torch.tensor(preprocess.std)[:, None, None]
    return ours * std, theirs * std


@pytest.mark.parametrize("interpolation", Interpolation)
def test_crops_are_those_of_pillow(interpolation):
    preprocess = replace(SMALL, interpolation=interpolation)
    ours, theirs = both(Augmentation(Augment.CROP, 0.3, mirror=True), preprocess)
    difference = (ours - theirs).abs()
    if interpolation is Interpolation.NEAREST:  # a centre between two pixels takes either
        assert (difference > 0.01).float().mean() < 0.01
        return
    assert difference.max() < 1.01
    assert difference.mean() < 0.05


def test_crops_of_tall_images_differ_by_a_rounding_in_between():
    ours, theirs = both(Augmentation(Augment.CROP, 0.3, mirror=True), sizes=TALL)
    difference = (ours - theirs).abs()
    assert (difference > 2.01).float().mean() < 1e-3
    assert difference.mean() < 0.2


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "lanczos"])
def test_large_images_are_reduced_on_the_device(interpolation):
    preprocess = replace(SMALL, interpolation=Interpolation(interpolation))
    crop = Augmentation(Augment.CROP, 0.3, mirror=True)
    reduced = [common_pixels(picture_of(size), preprocess, crop).shape for size in REDUCED]
    whole = [device_pixels(picture_of(size), preprocess, crop).shape for size in REDUCED]
    assert sum(one != other for one, other in zip(reduced, whole, strict=True)) == 3
    ours, theirs = both(crop, preprocess, sizes=REDUCED)
    difference = (ours - theirs).abs()
    assert (difference > 2.01).float().mean() < 1e-3
    assert difference.mean() < 0.4


def test_what_the_device_does_not_reduce():
    crop = Augmentation(Augment.CROP, 0.3, mirror=True)
    for size in ((130, 119), (4000, 100), (500, 100)):
        picture = picture_of(size)
        found = device_pixels(picture, SMALL, crop)
        assert np.array_equal(found, common_pixels(picture, SMALL, crop))


@pytest.mark.parametrize("operation", Operation)
def test_operations_are_those_of_pillow(operation):
    augmentation = Augmentation(Augment.TRIVIAL, 0.3, mirror=False)
    ours, theirs = both(augmentation, operation=operation)
    difference = (ours - theirs).abs()
    assert (difference > 1.01).float().mean() < 2e-3
    assert difference.mean() < 0.01
    if operation is not Operation.IDENTITY:
        plain, _ = both(augmentation, operation=Operation.IDENTITY)
        assert (plain - theirs).abs().mean() > 0.5


def test_rotation_and_zoom_are_those_of_pillow():
    augmentation = Augmentation(Augment.NONE, 1.0, mirror=True, rotate=0.1, zoom=0.3)
    ours, theirs = both(augmentation, replace(SMALL, fit=Fit.SQUASH))
    difference = (ours - theirs).abs()
    assert difference.max() < 1.01
    assert difference.mean() < 0.02


def test_everything_together_with_other_sides():
    preprocess = replace(SMALL, height=24, width=40)
    augmentation = Augmentation(Augment.TRIVIAL, 0.2, mirror=True, rotate=0.05, zoom=0.2)
    ours, theirs = both(augmentation, preprocess, seeds=range(80))
    assert theirs.shape == (80, 3, 24, 40)
    difference = (ours - theirs).abs()
    assert (difference > 1.01).float().mean() < 2e-3  # where an operation enlarges a rounding
    assert difference.mean() < 0.01


def test_the_size_of_the_canvas_changes_nothing(monkeypatch):
    augmentation = Augmentation(Augment.TRIVIAL, 0.3, mirror=True)
    _, whole = both(augmentation)
    monkeypatch.setattr(device_augmentation, "CHUNK_NUMBERS", 50_000)
    _, parts = both(augmentation)
    assert torch.equal(whole, parts)


# --- batches of images --------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    paths = []
    for number in range(20):
        paths.append(tmp_path / f"{number}.png")
        sizes = [*SIZES, *TALL, *REDUCED]
        picture_of(sizes[number % len(sizes)], number).save(paths[-1])
    return paths


def batches_of(files, device_bytes, *, kept=0, bad=None, batch_size=8, kind=Augment.TRIVIAL):
    return ImageBatches(
        train_files=files,
        train_targets=[number % 3 for number in range(len(files))],
        val_files=[],
        val_targets=[],
        preprocess=SMALL,
        augmentation=Augmentation(kind, 0.3, mirror=True),
        batch_size=batch_size,
        seed=5,
        workers=2,
        device="cpu",
        on_bad_file=lambda path, why: (bad if bad is not None else []).append((path.name, why)),
        cache=ImageCache(kept),
        device_bytes=device_bytes,
    )


def epoch_of(batches, epoch, first_step=0):
    return list(batches.train(epoch, first_step))


def assert_equal(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.views, other.views)
        assert torch.equal(one.inputs, other.inputs)


@pytest.mark.parametrize("kind", [Augment.CROP, Augment.NONE])
def test_batches_are_those_of_the_cpu(files, kind):
    ours = epoch_of(batches_of(files, None, kind=kind), 0)
    theirs = epoch_of(batches_of(files, 10**7, kind=kind), 0)
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.targets, other.targets)
        assert torch.equal(one.views, other.views)
        assert (one.inputs - other.inputs).abs().mean() < 0.01


def test_from_the_second_epoch_on_no_file_is_read(files, monkeypatch):
    monkeypatch.setattr(device_images, "_ROOM", 2.0)  # batches of 8 differ in their mean size
    batches = batches_of(files, 10**7, kept=10**7)
    first, second = epoch_of(batches, 0), epoch_of(batches_of(files, 0), 1)
    assert batches.cache.bytes == 0, "the device has them"
    for path in files:
        path.unlink()
    assert_equal(epoch_of(batches, 0), first)
    assert_equal(epoch_of(batches, 1), second)


@pytest.mark.parametrize("epoch", [0, 1])
def test_the_number_of_operators_does_not_depend_on_the_number_of_images(epoch):
    def operators(count):
        images = [ReadImage(row, np.full((60, 80, 3), row, np.uint8)) for row in range(count)]
        augmentation = Augmentation(Augment.CROP, 0.3, mirror=True)
        device = DeviceImages(SMALL, augmentation, "cpu", count=count, limit_bytes=10**7)
        if epoch:
            device.batch(images, lambda index: np.random.default_rng(index))
            images = [replace(one, pixels=ON_DEVICE) for one in images]
        with CountingMode() as counting:
            device.batch(images, lambda index: np.random.default_rng(index))
        return counting.count

    assert operators(3) == operators(40) > 20


class CountingMode(TorchDispatchMode):
    """Counts the calls of operators."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("limit", [0, 20_000, 50_000])
def test_images_that_do_not_fit_are_copied_again(files, limit):
    """Partly from the device, partly from memory: the results are the same."""
    whole, part = batches_of(files, 10**7), batches_of(files, limit, kept=10**7)
    for epoch in range(3):
        assert_equal(epoch_of(part, epoch), epoch_of(whole, epoch))
    assert part.cache.bytes > 0


def test_a_device_without_memory_stores_nothing(files, monkeypatch):
    whole, part = batches_of(files, 10**7), batches_of(files, 10**7, kept=10**7)
    first = epoch_of(whole, 0)
    make = torch.empty

    def refuse(*shape, **options):
        if len(shape) == 2 and shape[0] > 40_000 and "pin_memory" not in options:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return make(*shape, **options)

    monkeypatch.setattr(torch, "empty", refuse)
    for _ in range(2):
        assert_equal(epoch_of(part, 0), first)
    assert part.cache.bytes > 0


def test_an_epoch_is_continued_where_it_stopped(files):
    whole = epoch_of(batches_of(files, 10**7), 4)
    assert_equal(epoch_of(batches_of(files, 10**7), 4, first_step=1), whole[1:])


def test_processes_share_the_images_of_an_epoch(files, monkeypatch):
    """Each stores whatever it gets, others in every epoch."""
    monkeypatch.setattr(device_images, "_ROOM", 4.0)
    whole = batches_of(files, 10**7)
    parts = [replace(batches_of(files, 10**7), rank=rank, processes=2) for rank in range(2)]
    for epoch in range(6):
        shares = zip(*(epoch_of(part, epoch) for part in parts), strict=True)
        for one, (first, second) in zip(epoch_of(whole, epoch), shares, strict=True):
            assert torch.equal(one.views, torch.cat([first.views, second.views]))
            assert torch.allclose(one.inputs, torch.cat([first.inputs, second.inputs]), atol=0.02)
    assert all(part._on_device._used > whole._on_device._used * 0.9 for part in parts)
    alone = replace(parts[0], train_files=files[:1], train_size=24)
    assert epoch_of(alone, 0)[0].inputs.shape == (0, 3, 24, 24), "of the size of the others' images"


def test_files_that_cannot_be_read_are_left_out(files):
    bad = []
    for path in files[:9]:
        path.write_bytes(b"no image")
    found = epoch_of(batches_of(files, 10**7, bad=bad, batch_size=2), 0)
    assert sum(len(one.targets) for one in found) == 11
    assert {name for name, _ in bad} == {f"{number}.png" for number in range(9)}
    assert any(not len(one.targets) for one in found)
