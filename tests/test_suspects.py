"""Suspect labels by the features of a frozen network: what decides, and what is said about it."""

from __future__ import annotations

import numpy as np
import pytest
from conftest import SMALL_FLAGS, read_rows, write_dataset
from threadpoolctl import threadpool_info, threadpool_limits

from swinclf.data.folder import TRAIN, ImageFile
from swinclf.data_quality import dataset_insights
from swinclf.data_quality.dataset_insights import (
    find_label_issues,
    fit_learning_curve,
    out_of_fold_probabilities,
    reduce_dimensions,
)
from swinclf.metrics import UNTRAINED_NOTE
from swinclf.reporter import Reporter

KINDS = ("across", "along", "checks")


class Listener(Reporter):
    """Keeps what is said."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def planted():
    """Images of three kinds with features that tell them, and the paths of nine wrong labels."""
    images, kinds, swapped = [], [], set()
    for kind, name in enumerate(KINDS):
        for number in range(60):
            label = KINDS[(kind + 1 + number % 2) % 3] if number % 20 == 7 else name
            images.append(ImageFile(f"{label}/{name}-{number:02d}.png", label, TRAIN))
            kinds.append(kind)
            if label != name:
                swapped.add(images[-1].path)
    features = np.eye(3)[kinds] + np.random.default_rng(1).normal(0, 0.1, (180, 3))
    return images, features, swapped


def test_features_find_the_swaps(planted):
    images, features, swapped = planted
    listener = Listener()
    found, review = find_label_issues(images, features, KINDS, seed=0, report=listener)
    assert {one.path for one in found} == swapped
    assert (review.images, review.contradicted, review.is_reliable) == (180, 9, True)
    assert all(one.path.split("/")[1].startswith(one.suggested) for one in found)
    assert listener.notes == []


def test_of_too_many_images_some_are_judged_and_that_is_said(planted, monkeypatch):
    images, features, swapped = planted
    monkeypatch.setattr(dataset_insights, "IMAGES_MOST", 150)
    listener = Listener()
    found, _ = find_label_issues(images, features, KINDS, seed=0, report=listener)
    assert 5 <= len(found) <= 9
    assert {one.path for one in found} <= swapped
    assert listener.notes == ["label issues are searched in 150 of 180 images"]


def test_the_scores_of_images_for_classes_are_limited(planted, monkeypatch):
    images, features, _ = planted
    notes, sizes = [], []
    listener = Listener()
    listener.notes = notes
    out_of_fold, curve = out_of_fold_probabilities, dataset_insights.learning_curve

    def judge(features, labels, **options):
        sizes.append(len(labels))
        return out_of_fold(features, labels, **options)

    def fit(train, _train_targets, val, _val_targets, **options):
        sizes.append((len(train), len(val)))
        return curve(train, _train_targets, val, _val_targets, **options)

    def both():
        held_out = images[::2] * 2
        fit_learning_curve(
            *(images, features, held_out, np.concatenate([features[::2]] * 2), KINDS),
            seed=0,
            report=listener,
        )
        return find_label_issues(images, features, KINDS, seed=0, report=listener)

    monkeypatch.setattr(dataset_insights, "out_of_fold_probabilities", judge)
    monkeypatch.setattr(dataset_insights, "learning_curve", fit)
    monkeypatch.setattr(dataset_insights, "SCORES_MOST", 3 * 100)
    both()
    assert sizes == [(100, 100), 100]
    assert notes == [
        "the learning curve is of 100 of 180 images",
        "the learning curve is scored on 100 of 180 held-out images",
        "label issues are searched in 100 of 180 images",
    ]
    notes.clear()
    monkeypatch.setattr(dataset_insights, "SCORES_MOST", 3 * 5)  # images for three classes
    assert both() == ([], None)
    assert len(sizes) == 2
    assert notes == [
        "no learning curve: it takes too much memory for 180 images of 3 classes",
        "no search for label issues: it takes too much memory for 180 images of 3 classes",
    ]


def test_classes_too_small_to_judge_have_no_suspects(planted):
    images, features, _ = planted
    rows = [0, 1, 60, 61]
    found = find_label_issues(
        [images[row] for row in rows], features[rows], KINDS, seed=0, report=Listener()
    )
    assert found == ([], None)


def test_small_matrices_are_left_to_one_thread(monkeypatch):
    seen = []

    def spy(features):
        seen.extend(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")
        return reduce_dimensions(features)

    monkeypatch.setattr(dataset_insights, "reduce_dimensions", spy)
    with threadpool_limits(2, user_api="blas"):
        before = threadpool_info()
        labels = np.arange(60) % 3
        out_of_fold_probabilities(np.random.default_rng(5).normal(size=(60, 8)), labels, seed=0)
        assert threadpool_info() == before
    assert seen
    assert set(seen) == {1}


def test_a_run_from_random_weights_says_that_it_needs_trained_ones(trained, tmp_path, cli):
    """The second run starts from the weights of the first, whose features can judge labels."""
    data = write_dataset(tmp_path / "colours", per_class=20)
    (data / "red" / "003.png").rename(data / "blue" / "was-red.png")
    words = ("train", data, "--epochs", 1, "--no-freeze-layers", "--out", tmp_path / "runs")
    pages = {}
    for name, start in (
        ("random", SMALL_FLAGS),
        ("trained", ("--weights", trained.path, "--batch-size", 8)),
    ):
        done = cli(*words, *start, "--name", name)
        assert done.code == 0, done.err
        pages[name] = (tmp_path / "runs" / name / "report.html").read_text("utf-8")
        assert (UNTRAINED_NOTE in done.err) == (name == "random")
    assert UNTRAINED_NOTE in pages["random"]
    assert 'id="suspects"' not in pages["random"]
    assert UNTRAINED_NOTE not in pages["trained"]
    rows = read_rows(tmp_path / "runs" / "trained" / "suspects.csv")
    assert [row["path"] for row in rows[:1]] == ["blue/was-red.png"]
