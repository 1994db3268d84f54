"""Mixup, CutMix, random erasing, rotation, zoom and averaged weights."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from conftest import (
    SMALL_SETTINGS,
    error_lines,
    resume_run,
    same_weights,
    stop_after,
    untimed_history,
    weights_of,
)
from PIL import Image
from timm.utils import ModelEmaV3
from torch import nn
from torch.nn import functional as F
from torchvision.transforms import v2

import swinclf
from swinclf.config import Augment, EpochScore
from swinclf.data.augmentation import Augmentation, augment_pixels
from swinclf.errors import Interrupted
from swinclf.models.store import load_model
from swinclf.preprocess import Fit, Interpolation, Preprocess
from swinclf.reporter import EpochRow
from swinclf.training import loop
from swinclf.training.batches import UNLABELLED, Batch
from swinclf.training.mixing import ImageBatchAugmentation
from swinclf.training.objective import label_losses
from swinclf.training.schedule import Schedule
from swinclf.training.state import BestEpoch, TrainState, WeightAverage

PREPROCESS = Preprocess(
    height=40,
    width=40,
    interpolation=Interpolation.BILINEAR,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    crop_pct=1.0,
    fit=Fit.CROP,
)


def batch_of(count=16):
    """Images of one value each, so that a mixed one tells its two parts and their shares."""
    values = torch.arange(1.0, count + 1)
    inputs, numbers = values.view(-1, 1, 1, 1).expand(-1, 3, 20, 24).clone(), torch.arange(count)
    return Batch(inputs, numbers, views=numbers)


def mixed(epoch=0, step=0, seed=0, **given):
    settings = {"mixup": 0.0, "cutmix": 0.0, "erasing": 0.0, "seed": seed, **given}
    return ImageBatchAugmentation(**settings).apply(batch_of(), epoch=epoch, step=step)


# --- batches ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_share_of_a_label_is_that_of_its_image(kind):
    shares = []
    for step in range(8):
        batch = mixed(step=step, **{kind: 1.0})
        assert sorted(batch.targets.tolist()) == sorted(batch.others.tolist()) == list(range(16))
        assert not torch.equal(batch.targets, batch.others)
        own, other = batch.targets + 1.0, batch.others + 1.0
        expected = batch.share * own + (1 - batch.share) * other
        torch.testing.assert_close(batch.inputs.mean((1, 2, 3)), expected)
        values = [len(image.unique()) for image in batch.inputs]
        assert set(values) <= ({1} if kind == "mixup" else {1, 2})
        shares.append(batch.share)
    assert all(0.5 <= share <= 1 for share in shares)
    assert len(set(shares)) > 5


def test_a_part_of_the_images_gets_a_box_of_the_mean_colour():
    batch = mixed(erasing=0.5)
    erased = [bool((image == 0).any()) for image in batch.inputs]
    assert 3 <= sum(erased) <= 13
    assert torch.equal(batch.targets, torch.arange(16))
    assert batch.others is None
    for image, value in zip(batch.inputs, range(1, 17), strict=True):
        assert set(image.unique().tolist()) <= {0.0, float(value)}
        assert torch.equal(image[0], image[1])


def test_the_box_is_torchvisions():
    inputs, views = torch.rand(32, 3, 20, 24), torch.arange(32)
    expected = inputs.clone()
    for image, view in zip(expected, views.tolist(), strict=True):
        seed = int(np.random.default_rng([1, 2, view, 3]).integers(2**63))
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            v2.RandomErasing(0.5, value=0, inplace=True)(image)
    augmentation = ImageBatchAugmentation(mixup=0, cutmix=0, erasing=0.5, seed=1)
    found = augmentation.apply(Batch(inputs, views.clone(), views=views), epoch=2, step=0)
    assert torch.equal(found.inputs, expected)
    assert (expected == 0).any()


def test_what_is_drawn_depends_on_seed_epoch_and_step_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    given = {"mixup": 0.4, "cutmix": 1.0, "erasing": 0.3}
    first = mixed(epoch=2, step=3, **given)
    assert torch.equal(torch.get_rng_state(), before), "dropout draws from the same generator"
    torch.manual_seed(2)
    assert torch.equal(mixed(epoch=2, step=3, **given).inputs, first.inputs)
    for other in ({"epoch": 1, "step": 3}, {"epoch": 2, "step": 4}, {"seed": 5}):
        assert not torch.equal(
            mixed(**{"epoch": 2, "step": 3, **other}, **given).inputs, first.inputs
        )


def test_an_empty_batch_and_no_augmentation_change_nothing():
    empty = Batch(torch.empty(0, 3, 8, 8), torch.empty(0, dtype=torch.int64))
    assert ImageBatchAugmentation(1.0, 1.0, 1.0, 0).apply(empty, epoch=0, step=0) is empty
    batch = batch_of()
    assert ImageBatchAugmentation(0.0, 0.0, 0.0, 0).apply(batch, epoch=0, step=0) is batch


def test_parts_of_a_batch_have_their_own_labels():
    batch = mixed(mixup=1.0)
    parts = list(batch.split(5))
    assert [len(part.targets) for part in parts] == [5, 5, 5, 1]
    assert torch.equal(torch.cat([part.others for part in parts]), batch.others)
    assert {part.share for part in parts} == {batch.share}


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 1.0, 2.5])])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_torchs_for_soft_labels(weights, smoothing):
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    targets, others = torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1, 1, 0, 2, 0, 1])
    schedule = Schedule(
        epochs=1,
        lrf=1,
        warmup=0,
        clip_norm=0,
        patience=0,
        label_smoothing=smoothing,
        class_weights=weights,
    )
    batch = Batch(logits, targets, others=others, share=0.7)
    soft = 0.7 * F.one_hot(targets, 3) + 0.3 * F.one_hot(others, 3)
    expected = F.cross_entropy(
        logits, soft, weight=weights, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(label_losses(logits, batch, schedule), expected)
    half = batch._replace(others=torch.full_like(others, UNLABELLED))
    plain = label_losses(logits, Batch(logits, targets), schedule)
    torch.testing.assert_close(label_losses(logits, half, schedule), 0.7 * plain)


# --- images -------------------------------------------------------------------------------------


def augmented(pixels, seed, **given):
    augmentation = Augmentation(Augment.NONE, min_crop=1.0, mirror=False, **given)
    return augment_pixels(pixels, PREPROCESS, augmentation, np.random.default_rng(seed)).pixels


def test_rotation_and_zoom_are_as_large_as_they_may_be_and_have_no_border():
    pixels = np.full((40, 40, 3), 200, np.uint8)
    pixels[14:26, 14:26] = 0
    widths = []
    for seed in range(40):
        found = augmented(pixels, seed, zoom=0.25)
        assert found.shape == pixels.shape
        assert set(np.unique(found[0])) == {200}, "the border is the image, reflected"
        widths.append((found[20, :, 0] < 100).sum())
        assert found[20, 20].tolist() == [0, 0, 0], "about the centre"
    assert 12 / 1.25 - 1 <= min(widths) <= 11
    assert 14 <= max(widths) <= 12 / 0.75 + 1
    bar = np.full((40, 40, 3), 200, np.uint8)
    bar[:, 19:21] = 0
    angles = []
    for seed in range(40):
        found = augmented(bar, seed, rotate=0.05)
        tops, ends = ((found[row, :, 0] < 100).nonzero()[0].mean() for row in (10, 29))
        angles.append(np.degrees(np.arctan((ends - tops) / 19)))
    assert 14 < max(angles) < 19
    assert -19 < min(angles) < -14


def test_without_rotation_and_zoom_nothing_is_resampled():
    pixels = np.asarray(Image.effect_noise((40, 40), 90).convert("RGB"))
    assert np.array_equal(augmented(pixels, 3), pixels)


# --- averaged weights ---------------------------------------------------------------------------


def test_the_average_is_timms():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    ours = WeightAverage(model, 0.9)
    theirs = ModelEmaV3(model, decay=0.9, use_warmup=False)
    for step in range(40):
        model(torch.randn(8, 3))
        with torch.no_grad():
            for value in model.parameters():
                value.add_(0.1 * torch.randn_like(value))
        theirs.decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
        ours.update_parameters(model)
        theirs.update(model, step=step)
    found, expected = ours.module.state_dict(), theirs.module.state_dict()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value if value.dtype.is_floating_point else found[name]
        )
    assert int(found["1.num_batches_tracked"]) == 40


MIXING = {
    "mixup": 0.4,
    "cutmix": 1.0,
    "random_erasing": 0.3,
    "ema": 0.9,
    "rotate": 0.02,
    "zoom": 0.1,
    "optimizer": "muon",
}


def test_a_training_with_all_of_them_is_resumed_to_the_bit(dataset, tmp_path, monkeypatch):
    settings = {**SMALL_SETTINGS, **MIXING, "out": str(tmp_path / "runs"), "drop_path": 0.2}
    whole = swinclf.train(dataset, name="whole", **settings).folder.path
    states, step = [], loop._train_step

    def spy(state, *rest):
        step(state, *rest)
        states.append(state)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_train_step", spy)
        stop_after(patch, 6)
        with pytest.raises(Interrupted):
            swinclf.train(dataset, name="stopped", **settings)
    stopped = resume_run(tmp_path / "runs" / "stopped")
    assert same_weights(weights_of(whole), weights_of(stopped))
    assert untimed_history(whole) == untimed_history(stopped)
    state = states[-1]
    last = state.model.state_dict()
    assert any(
        not torch.equal(one, last[name]) for name, one in state.evaluated.state_dict().items()
    )
    config = json.loads((whole / "config.json").read_text())
    assert {name: config[name] for name in MIXING} == MIXING


def test_the_average_is_what_is_saved(dataset, tmp_path, monkeypatch):
    taken = []
    step = loop._train_step

    def spy(state, *rest):
        step(state, *rest)
        models = (state.model, state.average.module)
        taken.append([{n: v.clone() for n, v in one.state_dict().items()} for one in models])

    monkeypatch.setattr(loop, "_train_step", spy)
    run = swinclf.train(
        dataset, out=str(tmp_path / "runs"), ema=0.5, val_split=0.0, **SMALL_SETTINGS
    )
    saved, (last, average) = load_model(run.folder.model)[0].state_dict(), taken[-1]
    assert all(torch.equal(saved[name], average[name]) for name in saved)
    assert any(not torch.equal(saved[name], last[name]) for name in saved)


# --- what cannot be -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "expected", "found"),
    [
        (("--freeze-layers", "--mixup", 0.2), "--no-freeze-layers with --mixup", "head alone"),
        (
            (
                "--no-freeze-layers",
                "--teacher",
                "{run}",
                "--teacher-views",
                "cached",
                "--cutmix",
                1,
            ),
            "--teacher-views online",
            "cached, with --mixup or --cutmix",
        ),
        (("--ema", 1.5), "at most 0.99999 for --ema", "1.5"),
    ],
)
def test_what_does_not_go_together_is_said(cli, trained, flags, expected, found):
    words = [str(word).format(run=trained.path) for word in flags]
    done = cli("train", trained.data, "--weights", trained.path, "--epochs", 1, *words)
    assert done.code == 2
    said = error_lines(done)
    assert expected in said[0]
    assert found in said[1]


def test_mixed_images_are_taught_online(trained, tmp_path):
    run = swinclf.train(
        trained.data,
        teacher=trained.path,
        augment="none",
        mixup=1.0,
        out=str(tmp_path / "runs"),
        **{**SMALL_SETTINGS, "epochs": 1},
    )
    assert run.config.teacher_views == "online"


# --- the best epoch -----------------------------------------------------------------------------


@pytest.mark.parametrize(("select", "best"), [(EpochScore.LOSS, 2), (EpochScore.ACCURACY, 3)])
def test_the_best_epoch_has_the_least_loss_or_the_highest_accuracy(select, best):
    state = TrainState(nn.Linear(1, 1), torch.optim.SGD([torch.zeros(1)], 0.1), None)
    scores = [(0.9, 0.5), (0.5, 0.6), (0.7, 0.8), (0.8, 0.8)]  # loss, accuracy
    for epoch, (loss, accuracy) in enumerate(scores, 1):
        row = EpochRow(epoch, 1.0, 0.5, loss, accuracy, 1e-3, 1.0, 10.0)
        if loop._is_best(state, row, select):
            state.best = BestEpoch(epoch, (accuracy, -loss), {})
    assert state.best.epoch == best
