"""Cross-validation of a frozen head, and a test split that selects nothing."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SMALL_FLAGS, error_lines, read_rows, same_weights, weights_of, write_dataset
from test_logistic import batches, schedule

import swinclf
from swinclf import terminal
from swinclf.data.images import content_digest
from swinclf.data.split import SplitRule
from swinclf.metrics import cross_validation_interval, wilson_interval
from swinclf.pipeline.cross_validation import assign_folds, score_by_folds
from swinclf.reporter import format_percent
from swinclf.training.logistic_regression import fit_baseline

NEAR = {"a grey": (120, 120, 120), "b grey": (128, 124, 120), "c grey": (120, 128, 132)}
FROZEN = ("--model", "test_vit", "--no-pretrained", "--img-size", "32", "--freeze-layers")


@pytest.fixture(scope="module")
def greys(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("folds") / "greys", per_class=20, colours=NEAR)


def metrics_of(run):
    return json.loads((run / "metrics.json").read_text("utf-8"))


def test_folds_divide_each_class_evenly_and_duplicates_stay_together():
    labels = ["a"] * 13 + ["b"] * 7 + ["c"] * 2
    digests = [content_digest(b"%d" % number) for number in range(22)]
    fold_of = assign_folds(labels, digests, folds=5, rule=SplitRule(0.0))
    for label in "abc":
        own = fold_of[[row for row, name in enumerate(labels) if name == label]]
        counts = np.bincount(own, minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.bincount(fold_of).tolist() == [5, 5, 4, 4, 4]
    twice = assign_folds(labels * 2, digests * 2, folds=5, rule=SplitRule(0.0))
    assert (twice[:22] == twice[22:]).all()
    other = assign_folds(labels, digests, folds=5, rule=SplitRule(0.0, seed=1))
    assert (fold_of != other).any()


def test_no_image_helps_to_choose_the_strength_or_the_weights_that_score_it():
    data, heads = batches([16, 16, 16], val=0), []

    def logits(data, fold_of):
        heads.clear()
        features = data.train_features[0]
        return score_by_folds(data, features, fold_of, schedule(), 0, 3, heads.append)[0]

    fold_of = np.arange(48) % 24
    before = logits(data, fold_of)
    assert len(heads) == 24
    targets = data.train_targets.clone()
    targets[[5, 29]] = 2  # of fold 5, in a group with fold 15
    after = logits(replace(data, train_targets=targets), fold_of)
    is_same = (before == after).all(axis=1)
    assert np.flatnonzero(is_same).tolist() == [5, 29]
    few = logits(data, fold_of % 2)  # a sweep for each
    for fold in range(2):
        rows = np.flatnonzero(fold_of % 2 != fold)
        part = replace(
            data,
            train_features=data.train_features[:, rows],
            train_targets=data.train_targets[rows],
        )
        probe = fit_baseline(part, 3, schedule(), seed=0).probe
        with torch.inference_mode():
            own = probe(data.train_features[0])[fold_of % 2 == fold]
        assert (few[fold_of % 2 == fold] == own.numpy()).all()


@pytest.fixture(scope="module")
def crossed(greys, tmp_path_factory):
    """A run of four folds."""
    settings = {"model": "test_vit", "pretrained": False, "img_size": 32, "freeze_layers": True}
    out = str(tmp_path_factory.mktemp("runs"))
    return swinclf.train(greys, folds=4, name="folds", out=out, **settings).path


def test_every_image_is_scored_by_a_head_that_has_not_seen_it(crossed):
    run = crossed
    metrics, config = metrics_of(run), json.loads((run / "config.json").read_text("utf-8"))
    assert (metrics["split"], metrics["images"]) == ("cross-validation", 60)
    assert (config["folds"], config["sources"]["folds"]) == (4, "flag")
    assert {row["split"] for row in read_rows(run / "split.csv")} == {"train"}
    rows = read_rows(run / "predictions.csv")
    assert len(rows) == 60
    assert metrics["accuracy"] == np.mean([row["label"] == row["predicted"] for row in rows])
    low, high = metrics["accuracy_ci95"]
    plain = wilson_interval(round(60 * metrics["accuracy"]), 60)
    assert low < plain[0] < metrics["accuracy"] < plain[1] < high  # the folds are correlated
    assert (low, high) == pytest.approx(
        cross_validation_interval(metrics["accuracy"], 60, 4), abs=1e-12
    )
    assert "by cross-validation" in (run / "report.html").read_text("utf-8")


@pytest.mark.parametrize(("per_class", "folds"), [(4, 12), (1, 3)])
def test_there_are_no_more_folds_than_distinct_images(cli, tmp_path, per_class, folds):
    data = write_dataset(tmp_path / "greys", per_class=per_class, colours=NEAR)
    for image in list(data.rglob("*.png")):
        shutil.copyfile(image, image.with_stem("copy of " + image.stem))
    done = cli("train", data, *FROZEN, "--folds", "40", "--name", "folds")
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "folds"
    config, metrics = json.loads((run / "config.json").read_text("utf-8")), metrics_of(run)
    assert (config["folds"], config["reasons"]["folds"]) == (folds, f"{folds} distinct images")
    assert (metrics["split"], metrics["images"]) == ("cross-validation", 6 * per_class)
    assert metrics["accuracy_ci95"] == pytest.approx(
        cross_validation_interval(metrics["accuracy"], 6 * per_class, folds), abs=1e-12
    )


def test_a_single_image_is_not_cross_validated(cli, tmp_path):
    data = write_dataset(tmp_path / "greys", per_class=1, colours={"a": (120, 120, 120)})
    shutil.copytree(data / "a", data / "b")
    done = cli("train", data, *FROZEN, "--folds", "5", "--name", "one")
    assert done.code == 0, done.err
    assert metrics_of(tmp_path / "runs" / "one")["split"] == "train"


def test_the_interval_of_a_cross_validation_is_wilsons_of_fewer_images():
    for hits in (0, 50, 93, 100):
        found = cross_validation_interval(hits / 100, 225, 5)  # 225 / (1 + 5 / 4) = 100
        assert found == pytest.approx(wilson_interval(hits, 100), abs=1e-6)


def test_the_images_that_are_scored_choose_no_weight_of_a_linear_probe(cli, greys, tmp_path):
    weights, accuracies = [], []
    swapped = dict(zip(NEAR, reversed(NEAR.values()), strict=True))
    for name, colours in (("own", NEAR), ("swapped", swapped)):
        data = tmp_path / name
        shutil.copytree(greys, data / "train")
        write_dataset(data / "val", per_class=5, colours=colours)
        done = cli("train", data, *FROZEN, "--name", name)
        assert done.code == 0, done.err
        weights.append(weights_of(tmp_path / "runs" / name))
        accuracies.append(metrics_of(tmp_path / "runs" / name)["accuracy"])
    assert accuracies[0] > accuracies[1]
    assert same_weights(*weights)


def test_random_labels_are_not_predicted(cli, tmp_path):
    """A score of images that the head has seen would be far above chance."""
    colours = {"heads": (120, 120, 120), "tails": (120, 120, 120)}
    data = write_dataset(tmp_path / "coins", per_class=40, colours=colours)
    done = cli("train", data, *FROZEN, "--folds", "5", "--name", "coins")
    assert done.code == 0, done.err
    assert 0.3 < metrics_of(tmp_path / "runs" / "coins")["accuracy"] < 0.7
    assert f"swinclf eval OTHER --run {Path('runs', 'coins')}\n" in done.err


def test_trained_weights_and_few_images_are_cross_validated_by_default(
    cli, planned, greys, tmp_path, monkeypatch
):
    monkeypatch.setattr(terminal, "LINE_EVERY_S", 0.0)
    first = cli("train", greys, *SMALL_FLAGS, "--name", "first")
    assert first.code == 0, first.err
    weights = ("--weights", tmp_path / "runs" / "first")
    by_default = cli("train", greys, *weights, "--name", "default")
    assert by_default.code == 0, by_default.err
    assert "60 training images, scored in 40 folds\n" in by_default.err
    assert re.search(r"^cross-validating: \d+/40 folds, [\d,.]+ folds/s", by_default.err, re.M)
    config = json.loads((tmp_path / "runs" / "default" / "config.json").read_text("utf-8"))
    assert (config["folds"], config["reasons"]["folds"]) == (40, "fewer than 300 images")
    assert metrics_of(tmp_path / "runs" / "default")["split"] == "cross-validation"
    for flag, value in {"val-split": 0.2, "folds": 0, "epochs": 1, "test-split": 0.2}.items():
        assert planned(greys, *weights, f"--{flag}", value)[0]["folds"] == 0, flag


def test_the_model_of_a_cross_validated_run_warns_where_it_is_scored_on_its_own_images(
    cli, crossed, tmp_path
):
    scored = cli("eval", "--run", crossed, "--output", tmp_path / "scores")
    assert scored.code == 0, scored.err
    assert "trained on all of these images: their scores say nothing about new ones" in scored.err
    accuracy = format_percent(metrics_of(crossed)["accuracy"])
    assert f"by cross-validation, accuracy is {accuracy}\n" in scored.err


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (("--no-freeze-layers",), "the whole network trains"),
        (("--freeze-layers", "--epochs", "3"), "--epochs or --lr"),
        (("--freeze-layers", "--teacher", "embedded"), "--teacher"),
    ],
)
def test_folds_without_a_linear_probe_are_refused(cli, greys, flags, found):
    done = cli("train", greys, *FROZEN[:-1], "--folds", "5", *flags)
    assert done.code == 2
    assert found in error_lines(done)[1]
    assert error_lines(done)[2] == "no --folds"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (("--folds", "1"), "--folds is 0 or at least 2"),
        (("--folds", "3", "--val-split", "0.2"), "--folds and --val-split cannot be combined"),
        (("--folds", "3", "--test-split", "0.2"), "--folds and --test-split cannot be combined"),
        (("--test-split", "0.8"), "leave less than a tenth for training"),
    ],
)
def test_contradictions_are_refused(cli, greys, flags, problem):
    done = cli("train", greys, *FROZEN, *flags)
    assert done.code == 2
    assert problem in error_lines(done)[1]


def test_a_test_split_is_the_score_and_selects_nothing(cli, greys, tmp_path):
    done = cli("train", greys, *SMALL_FLAGS, "--test-split", "0.25", "--name", "tested")
    assert done.code == 0, done.err
    run = tmp_path / "runs" / "tested"
    rows = read_rows(run / "split.csv")
    tested = {row["path"] for row in rows if row["split"] == "test"}
    assert len(tested) == 15
    metrics = metrics_of(run)
    assert (metrics["split"], metrics["images"]) == ("test", 15)
    assert {row["path"] for row in read_rows(run / "predictions.csv")} == tested
    scored = cli("eval", "--run", run, "--output", tmp_path / "scores")
    assert scored.code == 0, scored.err
    assert metrics_of(tmp_path / "scores")["confusion_matrix"] == metrics["confusion_matrix"]
    (run / "model.safetensors").rename(tmp_path / "alone.safetensors")
    alone = cli("eval", greys, "--run", tmp_path / "alone.safetensors", "--output", "again")
    assert alone.code == 0, alone.err
    again = metrics_of(tmp_path / "again")
    assert (again["split"], again["loss"]) == ("test", metrics["loss"])
    assert again["confusion_matrix"] == metrics["confusion_matrix"]


def test_a_test_folder_and_a_test_split_are_refused(cli, tmp_path):
    for split in ("train", "test"):
        write_dataset(tmp_path / "data" / split, per_class=4, colours=NEAR)
    done = cli("train", tmp_path / "data", *SMALL_FLAGS, "--test-split", "0.2")
    assert done.code == 2
    assert error_lines(done)[1].startswith("a test folder in")
    assert "swinclf eval --split test" in error_lines(done)[2]


def test_a_student_is_compared_with_its_teacher_on_the_test_split(cli, greys, tmp_path):
    assert cli("train", greys, *SMALL_FLAGS, "--name", "teacher").code == 0
    flags = ("--teacher", "runs/teacher", "--test-split", "0.2", "--name", "student")
    done = cli("train", greys, *SMALL_FLAGS, *flags)
    assert done.code == 0, done.err
    assert "the student's is" in done.err
    metrics = metrics_of(tmp_path / "runs" / "student")
    assert (metrics["split"], metrics["images"]) == ("test", 12)
