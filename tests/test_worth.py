"""Suspect labels and learning curves on features whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SMALL_FLAGS, read_rows, write_dataset

from swinclf.data_quality.dataset_insights import (
    learning_curve,
    out_of_fold_probabilities,
    rank_label_issues,
    scorable_rows,
)


def blobs(per_class: int, seed: int, *, spread: float, width: int = 200) -> tuple:
    centres = np.random.default_rng(0).normal(0, 1, (4, width))
    random = np.random.default_rng(seed)
    targets = np.repeat(np.arange(4), per_class)
    return (centres[targets] + random.normal(0, spread, (4 * per_class, width))), targets


def suspects_of(features: np.ndarray, targets: np.ndarray) -> tuple:
    probs = out_of_fold_probabilities(features, targets, seed=0)
    return rank_label_issues(probs, targets), probs


def test_swapped_labels_are_the_first_suspects():
    features, truth = blobs(100, 1, spread=1.5)
    labels, random = truth.copy(), np.random.default_rng(2)
    planted = random.choice(len(labels), 20, replace=False)
    labels[planted] = (labels[planted] + random.integers(1, 4, 20)) % 4
    found, probs = suspects_of(features, labels)
    assert set(planted) <= set(found[:25])
    assert np.array_equal(truth[found[:20]], probs[found[:20]].argmax(axis=1))
    own = probs[found, labels[found]]
    assert (own < probs[found].max(axis=1)).all()
    assert np.array_equal(own, np.sort(own))
    assert found == suspects_of(features, labels)[0]


def test_right_labels_are_hardly_doubted():
    features, truth = blobs(100, 3, spread=1.0)
    assert len(suspects_of(features, truth)[0]) <= 2


def test_classes_too_small_to_judge_are_left_alone():
    truth = np.repeat(np.arange(4), [30, 30, 30, 4])
    assert scorable_rows(truth).tolist() == list(range(90))
    assert scorable_rows(truth[:63]).tolist() == list(range(60))
    assert not len(scorable_rows(truth[:30]))  # one class alone has nothing to be taken for
    assert not len(scorable_rows(truth[86:]))


def test_the_curve_rises_and_its_forecast_is_kept():
    val, val_targets = blobs(250, 5, spread=5.0)
    features, truth = blobs(100, 6, spread=5.0)
    curve = learning_curve(features, truth, val, val_targets, seed=0)
    assert curve is not None
    assert [(point.share, point.images) for point in curve.points] == [
        (0.1, 40),
        (0.25, 100),
        (0.5, 200),
        (1.0, 400),
    ]
    accuracies = [point.accuracy for point in curve.points]
    assert accuracies == sorted(accuracies)
    more, more_truth = blobs(200, 7, spread=5.0)
    assert curve.held_out == len(val_targets)
    twice = learning_curve(more, more_truth, val, val_targets, seed=0)
    assert twice is not None
    (forecast,) = curve.forecast
    assert forecast.images == 800
    assert forecast.low < forecast.accuracy < forecast.high
    assert forecast.accuracy == pytest.approx(twice.points[-1].accuracy, abs=0.06)
    assert "Twice as many images might bring" in curve.notes[0]


def test_nothing_is_promised_where_nothing_is_learned():
    random = np.random.default_rng(0)
    targets = np.tile([0, 1], 100)
    curve = learning_curve(
        *(random.normal(size=(200, 20)), targets, random.normal(size=(200, 20)), targets),
        seed=0,
    )
    assert curve is not None
    gains = [point.accuracy - 0.5 for point in (*curve.points, *curve.forecast)]
    assert max(gains) < 0.12
    assert len(curve.notes) == 1


def test_too_few_held_out_images_have_no_curve():
    features, truth = blobs(30, 8, spread=1.0)
    assert learning_curve(features, truth, features[:39], truth[:39], seed=0) is None


def test_classes_of_few_images_have_a_shorter_curve_or_none():
    val, val_targets = blobs(20, 5, spread=1.0)
    for per_class, shares in ((4, [0.5, 1.0]), (1, None)):
        features, truth = blobs(per_class, 9, spread=1.0)
        curve = learning_curve(features, truth, val, val_targets, seed=0)
        assert (curve and [point.share for point in curve.points]) == shares
        assert not len(scorable_rows(truth))


def test_a_run_lists_its_suspects_and_draws_what_more_images_bring(tmp_path, cli):
    data = write_dataset(tmp_path / "colours", per_class=80)
    swapped = [data / "red" / f"{number:03d}.png" for number in (3, 30, 60)]
    for file in swapped:
        file.rename(data / "blue" / f"was-red-{file.name}")
    done = cli("train", data, "--freeze-layers", "--out", tmp_path / "runs", *SMALL_FLAGS)
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "latest"
    rows = read_rows(run / "suspects.csv")
    assert {row["path"] for row in rows[:3]} == {f"blue/was-red-{file.name}" for file in swapped}
    assert [(row["label"], row["suggested"]) for row in rows[:3]] == [("blue", "red")] * 3
    assert all(0.5 < float(row["probability"]) <= 1 for row in rows[:3])
    page = (run / "report.html").read_text("utf-8")
    assert 'id="suspects"' in page
    assert 'id="learning"' in page
