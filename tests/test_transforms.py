"""Pictures to arrays: as timm and torchvision do it, the same every time, for any shape."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import write_image
from PIL import Image, ImageOps
from timm.data import create_transform
from torchvision import transforms

from swinclf.config import Augment
from swinclf.data import loader
from swinclf.data.augmentation import Augmentation, augment_pixels, common_pixels
from swinclf.data.loader import ImageCache
from swinclf.data.transforms import eval_pixels, to_device, to_numpy_input, to_torch_input
from swinclf.preprocess import Fit, Interpolation, Preprocess
from swinclf.training.batches import ImageBatches

SWIN = Preprocess(
    height=224,
    width=224,
    interpolation=Interpolation.BICUBIC,
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    crop_pct=0.9,
    fit=Fit.CROP,
)
SMALL = replace(SWIN, height=32, width=32)
SIZES = [(300, 200), (200, 300), (224, 224), (501, 249), (57, 91), (10, 300), (1, 1)]


def picture_of(size, seed=0):
    """Something like a photograph: smooth, with noise on it."""
    rng = np.random.default_rng(seed)
    rough = rng.integers(0, 256, (5, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(rough).resize(size)).astype(float)
    noisy = smooth + rng.normal(0, 8, smooth.shape)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def rng_of(*key):
    return np.random.default_rng(key or (0,))


def train_pixels(picture, preprocess, augmentation, rng):
    """What one epoch makes of a picture."""
    common = common_pixels(picture, preprocess, augmentation)
    return augment_pixels(common, preprocess, augmentation, rng).pixels


# As in prediction


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(("side", "crop_pct"), [(224, 0.9), (224, 1.0), (96, 0.875), (192, 0.95)])
@pytest.mark.parametrize("size", SIZES)
def test_crop_is_timm_s_own_transform_to_the_bit(size, side, crop_pct, interpolation):
    preprocess = replace(
        SWIN, height=side, width=side, crop_pct=crop_pct, interpolation=Interpolation(interpolation)
    )
    theirs = create_transform(
        (3, side, side),
        is_training=False,
        interpolation=interpolation,
        mean=SWIN.mean,
        std=SWIN.std,
        crop_pct=crop_pct,
    )
    picture = picture_of(size)
    ours = to_numpy_input(eval_pixels(picture, preprocess)[None], preprocess)[0]
    assert np.allclose(ours, theirs(picture).numpy(), atol=2e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("target", [(96, 64), (64, 96), (80, 80)])
def test_squash_is_torchvision_s_resize(size, target):
    preprocess = replace(SWIN, height=target[0], width=target[1], fit=Fit.SQUASH)
    theirs = transforms.Resize(target, transforms.InterpolationMode.BICUBIC)
    picture = picture_of(size)
    assert np.array_equal(eval_pixels(picture, preprocess), np.asarray(theirs(picture)))


@pytest.mark.parametrize("size", SIZES[:5])
@pytest.mark.parametrize("target", [(96, 64), (64, 96), (80, 80)])
def test_pad_shows_everything_on_the_mean_colour(size, target):
    preprocess = replace(SWIN, height=target[0], width=target[1], fit=Fit.PAD)
    picture = picture_of(size)
    pixels = eval_pixels(picture, preprocess)
    assert pixels.shape == (*target, 3)
    colour = tuple(round(255 * one) for one in SWIN.mean)
    theirs = ImageOps.pad(picture, target[::-1], Image.Resampling.BICUBIC, color=colour)
    assert np.array_equal(pixels, np.asarray(theirs))
    scale = min(target[1] / size[0], target[0] / size[1])
    shown = (round(size[1] * scale), round(size[0] * scale))
    top, left = (target[0] - shown[0]) // 2, (target[1] - shown[1]) // 2
    assert (pixels[: max(0, top - 1)] == colour).all()
    assert (pixels[:, : max(0, left - 1)] == colour).all()
    middle = pixels[top + 2 : top + shown[0] - 2, left + 2 : left + shown[1] - 2]
    assert not (middle == colour).all(axis=-1).all()


@pytest.mark.parametrize("target", [(96, 64), (64, 96)])
@pytest.mark.parametrize("size", SIZES)
def test_crop_to_an_oblong_covers_it_from_the_middle(size, target):
    preprocess = replace(SWIN, height=target[0], width=target[1], crop_pct=1.0)
    picture = picture_of(size)
    pixels = eval_pixels(picture, preprocess).astype(int)
    assert pixels.shape == (*target, 3)
    theirs = ImageOps.fit(picture, target[::-1], Image.Resampling.BICUBIC)
    assert np.abs(pixels - np.asarray(theirs)).mean() < 12


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (2, 9_000), (1, 1), (3, 2)])
def test_very_long_and_very_small_pictures(size, fit):
    preprocess = replace(SWIN, fit=fit)
    picture = Image.new("RGB", size, (10, 100, 200))
    pixels = eval_pixels(picture, preprocess)
    assert pixels.shape == (224, 224, 3)
    assert tuple(pixels[112, 112]) == (10, 100, 200)
    for kind, seed in itertools.product(Augment, range(3)):
        varied = train_pixels(picture, preprocess, Augmentation(kind, 0.1, True), rng_of(seed))
        assert varied.shape == (224, 224, 3)


def test_a_long_picture_is_cut_from_its_middle():
    picture = Image.new("RGB", (20_000, 10), "red")
    picture.paste("lime", (9_900, 0, 10_100, 10))
    pixels = eval_pixels(picture, SWIN)
    assert (pixels == (0, 255, 0)).all()


# Input arrays


def test_numpy_and_torch_inputs_are_equal_and_normalised():
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    with_numpy = to_numpy_input(pixels, SMALL)
    with_torch = to_torch_input(pixels, SMALL, "cpu")
    assert with_numpy.dtype == np.float32
    assert with_torch.dtype == torch.float32
    assert with_torch.shape == (3, 3, 32, 32)
    assert with_torch.is_contiguous()
    assert np.array_equal(with_numpy, with_torch.numpy())
    exact = (pixels / 255 - SMALL.mean) / SMALL.std
    assert np.abs(with_numpy - exact.transpose(0, 3, 1, 2)).max() < 1e-6


def test_inputs_of_no_picture_and_of_turned_memory():
    assert to_numpy_input(np.empty((0, 32, 32, 3), np.uint8), SMALL).shape == (0, 3, 32, 32)
    assert to_torch_input(np.empty((0, 32, 32, 3), np.uint8), SMALL, "cpu").shape == (0, 3, 32, 32)
    mirrored = np.stack([eval_pixels(picture_of((40, 40)), SMALL)[:, ::-1]])
    assert torch.equal(
        to_torch_input(mirrored, SMALL, "cpu"),
        torch.from_numpy(to_numpy_input(mirrored, SMALL)),
    )


# Preprocess, the value


@pytest.mark.parametrize("fit", list(Fit))
@pytest.mark.parametrize("interpolation", list(Interpolation))
def test_preprocess_goes_through_json_and_back(fit, interpolation):
    value = replace(SWIN, fit=fit, interpolation=interpolation, height=123)
    assert Preprocess.from_dict(json.loads(json.dumps(value.to_dict()))) == value


@pytest.mark.parametrize(
    "change", [{"fit": "stretch"}, {"interpolation": "area"}, {"mean": [0.5]}, {"height": None}]
)
def test_preprocess_without_a_meaning_is_refused(change):
    with pytest.raises((KeyError, TypeError, ValueError)):
        Preprocess.from_dict({**SWIN.to_dict(), **change})
    missing = {key: value for key, value in SWIN.to_dict().items() if key not in change}
    with pytest.raises(KeyError):
        Preprocess.from_dict(missing)


def test_decoding_delivers_more_than_is_shown():
    assert SWIN.scaled_size == (248, 248)
    assert SWIN.decode_px >= 2 * 248
    oblong = replace(SWIN, height=100, width=300)
    assert oblong.decode_px >= 2 * max(oblong.scaled_size)


# As in training


KINDS = [
    Augmentation(Augment.NONE, 1.0, True),
    Augmentation(Augment.CROP, 0.35, False),
    Augmentation(Augment.TRIVIAL, 0.35, True),
]


@pytest.mark.parametrize("augmentation", KINDS)
def test_the_same_generator_gives_the_same_pixels(augmentation):
    picture = picture_of((90, 70))
    first = train_pixels(picture, SMALL, augmentation, rng_of(1, 2, 3))
    assert np.array_equal(first, train_pixels(picture, SMALL, augmentation, rng_of(1, 2, 3)))
    others = [train_pixels(picture, SMALL, augmentation, rng_of(1, 2, key)) for key in range(9)]
    assert any(not np.array_equal(first, other) for other in others)


def test_without_variation_training_sees_what_prediction_sees():
    picture = picture_of((90, 70))
    plain = Augmentation(Augment.NONE, 1.0, False)
    for key in range(5):
        assert np.array_equal(
            train_pixels(picture, SMALL, plain, rng_of(key)), eval_pixels(picture, SMALL)
        )


def test_half_of_the_images_are_mirrored_and_none_where_it_is_off():
    picture = picture_of((32, 32))
    pixels = eval_pixels(picture, SMALL)
    on = Augmentation(Augment.NONE, 1.0, True)
    shown = [train_pixels(picture, SMALL, on, rng_of(key)) for key in range(300)]
    mirrored = sum(np.array_equal(one, pixels[:, ::-1]) for one in shown)
    straight = sum(np.array_equal(one, pixels) for one in shown)
    assert mirrored + straight == 300
    assert 110 < mirrored < 190


def test_crops_without_mirroring_keep_left_and_right():
    halves = Image.new("RGB", (64, 64), "red")
    halves.paste("blue", (32, 0, 64, 64))
    crop = Augmentation(Augment.CROP, 0.3, False)
    for key in range(100):
        pixels = train_pixels(halves, SMALL, crop, rng_of(key)).astype(int)
        assert pixels[:, 0, 0].mean() >= pixels[:, -1, 0].mean()


@pytest.mark.parametrize("min_crop", [0.1, 0.5, 1.0])
def test_a_crop_keeps_at_least_the_part_that_was_asked_for(min_crop):
    ramp = np.zeros((200, 200, 3), np.uint8)
    ramp[..., 0] = np.arange(200)[None]  # red tells the column, green the row
    ramp[..., 1] = np.arange(200)[:, None]
    crop = Augmentation(Augment.CROP, min_crop, False)
    areas = []
    for key in range(200):
        pixels = train_pixels(Image.fromarray(ramp), SMALL, crop, rng_of(key)).astype(int)
        width, height = np.ptp(pixels[..., 0]) + 6, np.ptp(pixels[..., 1]) + 6  # of 32 columns
        areas.append(width * height / 200**2)
    assert min(areas) > min_crop * 0.9
    assert min(areas) < min_crop + 0.2
    assert max(areas) > 0.8


def test_every_operation_draws_something_of_the_right_kind():
    picture = picture_of((60, 60))
    trivial = Augmentation(Augment.TRIVIAL, 1.0, False)
    shown = [train_pixels(picture, SMALL, trivial, rng_of(key)) for key in range(200)]
    assert {(one.shape, str(one.dtype)) for one in shown} == {((32, 32, 3), "uint8")}
    plain = eval_pixels(picture, replace(SMALL, fit=Fit.SQUASH)).astype(int)
    far = [np.abs(one - plain).mean() for one in shown]
    assert sum(distance < 12 for distance in far) > 20
    assert sum(distance > 25 for distance in far) > 20


def batches_of(files, *, workers, seed=0, batch_size=4, augment=Augment.TRIVIAL, kept=0):
    return ImageBatches(
        train_files=files,
        train_targets=list(range(len(files))),
        val_files=files[:3],
        val_targets=[0, 1, 2],
        preprocess=SMALL,
        augmentation=Augmentation(augment, 0.35, True),
        batch_size=batch_size,
        seed=seed,
        workers=workers,
        device="cpu",
        on_bad_file=lambda path, reason: pytest.fail(f"{path}: {reason}"),
        cache=ImageCache(kept),
    )


def epoch_of(batches, epoch, first_step=0):
    """What an epoch shows of each image, by its target, in the order of showing."""
    return {
        int(target): pixels.numpy().tobytes()
        for batch in batches.train(epoch, first_step)
        for pixels, target in zip(batch.inputs, batch.targets, strict=True)
    }


def test_what_an_epoch_shows_depends_on_seed_epoch_and_image_alone(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(10)]
    for number, path in enumerate(files):
        write_image(path, (20 * number, 90, 200), seed=number)
    files[9].write_bytes(files[8].read_bytes())
    shown = epoch_of(batches_of(files, workers=0), 3)
    assert sorted(shown) == list(range(10))
    assert shown[8] != shown[9]  # the same picture, as another image
    for workers in (1, 4):
        other = epoch_of(batches_of(files, workers=workers), 3)
        assert other == shown
        assert list(other) == list(shown)
    assert epoch_of(batches_of(files, workers=2, batch_size=3), 3) == shown
    resumed = epoch_of(batches_of(files, workers=2), 3, first_step=1)
    assert list(resumed.items()) == list(shown.items())[4:]
    assert epoch_of(batches_of(files, workers=0), 4) != shown
    assert epoch_of(batches_of(files, workers=0, seed=1), 3) != shown


# What is kept from one epoch for the next


@pytest.mark.parametrize("min_crop", [0.1, 0.35, 1.0])
def test_what_is_kept_is_large_enough_for_the_smallest_crop_and_no_larger(min_crop):
    crop = Augmentation(Augment.CROP, min_crop, False)
    for size in ((900, 700), (700, 900), (2000, 400)):
        common = common_pixels(picture_of(size), SMALL, crop)
        side = min(common.shape[:2])
        assert side - 1 < 32 / min_crop**0.5 <= side
        assert max(common.shape[:2]) / side == pytest.approx(max(size) / min(size), rel=0.02)
    small = picture_of((31, 40))
    assert np.array_equal(common_pixels(small, SMALL, crop), np.asarray(small))


def test_a_scaled_down_picture_is_cropped_to_what_the_whole_one_is():
    picture = picture_of((300, 240))
    crop = Augmentation(Augment.CROP, 0.35, True)
    for key in range(20):
        kept = augment_pixels(common_pixels(picture, SMALL, crop), SMALL, crop, rng_of(key)).pixels
        whole = augment_pixels(np.asarray(picture), SMALL, crop, rng_of(key)).pixels
        assert np.abs(kept.astype(int) - whole).mean() < 4


@pytest.mark.parametrize("augment", list(Augment))
def test_kept_pictures_change_no_pixel_and_are_decoded_once(tmp_path, monkeypatch, augment):
    files = [tmp_path / f"{number}.png" for number in range(8)]
    for number, path in enumerate(files):
        write_image(path, (20 * number, 90, 200), seed=number, size=(80, 70))
    reads = []
    read = loader.image_bytes
    monkeypatch.setattr(loader, "image_bytes", lambda path: reads.append(path) or read(path))
    anew = batches_of(files, workers=0, augment=augment)
    side = 32 if augment is Augment.NONE else 55
    half = 4 * 3 * side * (side if augment is Augment.NONE else 62)  # four pictures fit
    for room, decoded in ((10**9, 8), (half, 8 + 2 * 4), (1, 3 * 8)):
        kept = batches_of(files, workers=3, augment=augment, kept=room)
        shown = [epoch_of(kept, epoch) for epoch in range(3)]
        assert len(reads) == decoded
        assert kept.cache.bytes <= room
        assert shown == [epoch_of(anew, epoch) for epoch in range(3)]
        reads.clear()


def test_a_file_that_goes_bad_is_missed_only_where_it_was_not_kept(tmp_path):
    files = [tmp_path / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        write_image(path, (20 * number, 90, 200), seed=number)
    told = []
    kept, anew = (
        replace(
            batches_of(files, workers=1, kept=room), on_bad_file=lambda path, _: told.append(path)
        )
        for room in (10**9, 0)
    )
    first = epoch_of(kept, 0)
    list(kept.val())
    files[1].write_bytes(b"gone")
    assert epoch_of(kept, 0) == first
    assert sum(len(batch.targets) for batch in kept.val()) == 3
    assert not told
    assert sorted(epoch_of(anew, 0)) == [0, 2]
    assert told == [files[1]]


def test_arrays_travel_whole(monkeypatch):
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert torch.equal(to_device(values, "cpu"), torch.from_numpy(values))
    seen = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda one: seen.append("pinned") or one)
    monkeypatch.setattr(
        torch.Tensor, "to", lambda one, *to, **how: seen.append((to, how)) or one, raising=True
    )
    assert to_device(values, "cuda:1").shape == (3, 4)
    assert seen == ["pinned", (("cuda:1",), {"non_blocking": True})]
