"""The measures against scikit-learn's, their edges, and the files they are written to."""

from __future__ import annotations

import csv
import json
import math
import tracemalloc
import warnings

import numpy as np
import pytest
import sklearn.metrics as reference
from conftest import metrics_from

from swinclf.inference.stream import most_probable
from swinclf.metrics import (
    cross_validation_interval,
    difference_interval,
    image_scores,
    wilson_interval,
)
from swinclf.reporting.metrics_files import write_confusion_csv, write_metrics_json

METRICS_KEYS = [
    "split", "images", "classes", "accuracy", "accuracy_ci95", "top5_accuracy",
    "balanced_accuracy", "macro_f1", "loss", "ece", "ece_ideal", "majority_accuracy", "per_class",
    "confusion_matrix",
]  # fmt: skip


def random_batch(images, classes, *, seed=0, skill=1.0, absent=()):
    rng = np.random.default_rng(seed)
    targets = rng.choice(np.setdiff1d(np.arange(classes), absent), images)
    logits = rng.normal(size=(images, classes))
    logits[np.arange(images), targets] += skill
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probs.astype(np.float32), targets


def tally(probs, targets):
    return metrics_from([f"class {index}" for index in range(probs.shape[1])], probs, targets)


def only_class_two(images=40, classes=5):
    probs, targets = random_batch(images, classes)
    probs[:, 2] = 2.0
    return probs / probs.sum(axis=1, keepdims=True), targets


CASES = {
    "five classes": random_batch(500, 5),
    "absent from the truth": random_batch(300, 8, absent=(0, 3, 7)),
    "only one class predicted": only_class_two(),
    "two classes": random_batch(101, 2),
    "three classes": random_batch(64, 3, skill=-1.0),
    "one class": random_batch(9, 1),
    "many classes, few images": random_batch(60, 200),
    "one image": random_batch(1, 4),
}


@pytest.mark.parametrize("case", CASES)
def test_agrees_with_sklearn(case):
    probs, targets = CASES[case]
    predicted = probs.argmax(axis=1)
    metrics = tally(probs, targets)
    labels = range(probs.shape[1])
    per_class = reference.precision_recall_fscore_support(
        targets, predicted, labels=labels, zero_division=0
    )
    with warnings.catch_warnings():  # sklearn remarks on absent classes and on a single one
        warnings.simplefilter("ignore")
        matrix = reference.confusion_matrix(targets, predicted, labels=labels)
        balanced = reference.balanced_accuracy_score(targets, predicted)
        macro = reference.f1_score(
            targets, predicted, labels=np.unique(targets), average="macro", zero_division=0
        )
    assert metrics.images == len(targets)
    assert metrics.accuracy == pytest.approx(reference.accuracy_score(targets, predicted))
    assert metrics.balanced_accuracy == pytest.approx(balanced)
    assert metrics.macro_f1 == pytest.approx(macro)  # of the classes with images only
    np.testing.assert_array_equal(metrics.confusion_matrix, matrix)
    for index, row in enumerate(metrics.per_class.values()):
        ours = (row.precision, row.recall, row.f1, row.support)
        assert ours == pytest.approx(tuple(column[index] for column in per_class))


@pytest.mark.parametrize("case", [name for name in CASES if name != "one class"])
def test_loss_and_top_five_agree_with_sklearn(case):
    probs, targets = CASES[case]
    metrics, labels = tally(probs, targets), range(probs.shape[1])
    probs = probs.astype(np.float64)
    probs /= probs.sum(axis=1, keepdims=True)
    assert metrics.loss == pytest.approx(
        reference.log_loss(targets, probs, labels=labels), rel=1e-5
    )
    if probs.shape[1] > 5:
        expected = reference.top_k_accuracy_score(targets, probs, k=5, labels=labels)
        assert metrics.top5_accuracy == pytest.approx(expected)
    else:
        assert metrics.top5_accuracy == 1.0


def test_equal_probabilities_go_to_the_lower_index_everywhere():
    metrics = tally(np.full((10, 10), 0.1, dtype=np.float32), np.arange(10))
    assert metrics.confusion_matrix[:, 0].tolist() == [1] * 10
    assert metrics.accuracy == 0.1
    assert metrics.top5_accuracy == 0.5


@pytest.fixture
def sorted_sizes(monkeypatch):
    """The number of values of each call of `np.argsort`."""
    sizes, argsort = [], np.argsort
    monkeypatch.setattr(
        np, "argsort", lambda values, **how: sizes.append(len(values)) or argsort(values, **how)
    )
    return sizes


def test_scores_of_ten_thousand_classes_sort_none(sorted_sizes):
    random = np.random.default_rng(3)
    for classes in (2, 4, 5, 6, 10_000):
        for true in random.integers(0, classes, 5):
            probabilities = random.integers(0, 4, classes).astype(np.float32) / 4  # many are equal
            order = sorted(range(classes), key=lambda one: -probabilities[one])  # noqa: B023
            scores = image_scores(probabilities, int(true))
            assert (scores.predicted, scores.is_in_top) == (order[0], true in order[:5])
    assert sorted_sizes == []


def test_the_most_probable_classes_are_those_of_a_stable_sort(sorted_sizes):
    random = np.random.default_rng(4)
    for levels in (3, 2**20):
        probabilities = random.integers(0, levels, 1000).astype(np.float32) / levels
        order = sorted(range(1000), key=lambda one: -probabilities[one])  # noqa: B023
        for count in (1, 5, 999, 1000, 2000):
            assert most_probable(probabilities, count).tolist() == order[:count]
    assert sorted_sizes[5] == 1
    assert sorted_sizes[6] < 20
    broken = np.array([np.nan, 0.5, 0.2, 0.3])
    assert most_probable(broken, 2).tolist() == [1, 3]
    assert most_probable(np.full(3, np.nan), 2).tolist() == [0, 1]


def test_calibration_error_of_known_confidence():
    # 0.7 sure and right 7 times of 10, then 0.9 sure and right 4 times of 10: gaps 0 and 0.5.
    probs = np.array([[0.7, 0.3]] * 10 + [[0.9, 0.1]] * 10, dtype=np.float32)
    targets = np.array([0] * 7 + [1] * 3 + [0] * 4 + [1] * 6)
    assert tally(probs, targets).ece == pytest.approx(0.25, abs=1e-6)


def test_bins_are_closed_above():
    # 1/15 of confidence more would be another bin; both of these are in the last but one.
    edge = 14 / 15
    metrics = tally(np.array([[edge, 1 - edge], [0.90, 0.10]]), [0, 1])
    assert metrics.ece == pytest.approx(abs(edge + 0.90 - 1) / 2)


def test_a_probability_of_zero_costs_much_and_not_infinity():
    assert 80 < tally(np.array([[1.0, 0.0]], dtype=np.float32), [1]).loss < 100


def test_most_confused_pairs():
    predicted = [0, 0, 1, 1, 1, 2, 0, 0]
    metrics = metrics_from("abc", np.eye(3)[predicted], [0, 0, 0, 0, 2, 1, 1, 1])
    assert metrics.most_confused(2) == [("a", "b", 2), ("b", "a", 2)]
    assert metrics.most_confused(9) == [("a", "b", 2), ("b", "a", 2), ("b", "c", 1), ("c", "b", 1)]
    assert metrics.most_confused(0) == []


@pytest.mark.parametrize("values", [[np.nan, 0.5, 0.5], [3.0, -1.0, 0.0], [0.0, 1.1, 0.0]])
def test_what_is_no_probability_is_refused(values):
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        image_scores(np.array(values, np.float32), 0)


def test_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        tally(np.zeros((0, 2)), [])


def test_ten_thousand_classes_need_no_dense_matrix():
    probs, targets = random_batch(8, 10_000)
    tracemalloc.start()
    tally(probs, targets).most_confused(5)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 50_000_000


def test_files_of_ten_thousand_classes_hold_the_pairs_that_occurred(tmp_path):
    names = [f"class{index}" for index in range(10_000)]
    metrics = metrics_from(names, *random_batch(8, 10_000))
    write_metrics_json(tmp_path / "metrics.json", metrics)
    write_confusion_csv(tmp_path / "confusion_matrix.csv", metrics)
    values = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert values == metrics.to_dict()
    assert "confusion_matrix" not in values
    assert values["confusions"] == [list(pair) for pair in metrics.confusions]
    text = (tmp_path / "confusion_matrix.csv").read_text(encoding="utf-8")
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["true", "predicted", "count"]
    true, predicted, count = metrics.confusions[0]
    assert rows[1] == [f"class{true}", f"class{predicted}", str(count)]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 2_000_000


def test_interval_of_known_counts():
    # Brown, Cai & DasGupta's example form, worked by hand: 8 of 10.
    low, high = wilson_interval(8, 10)
    assert low == pytest.approx(0.4902, abs=1e-4)
    assert high == pytest.approx(0.9433, abs=1e-4)
    assert wilson_interval(0, 5)[0] == 0.0
    assert all(wilson_interval(count, count)[1] == 1.0 for count in range(1, 100))
    assert all(cross_validation_interval(1.0, count, 10)[1] == 1.0 for count in range(20, 300))


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (3, 2), (-1, 2)])
def test_interval_of_impossible_counts(successes, trials):
    with pytest.raises(ValueError, match="Received"):
        wilson_interval(successes, trials)


HOSTILE = ("玫瑰", "two\nlines", 'a,"b"', "🌹", "bad\udcffbyte", "=1+1")


@pytest.fixture
def hostile_metrics():
    probs, targets = random_batch(80, len(HOSTILE), absent=(1,))
    return metrics_from(HOSTILE, probs, targets, "test")


def test_dict_has_the_promised_keys_in_order_and_is_json(hostile_metrics):
    values = hostile_metrics.to_dict()
    assert list(values) == METRICS_KEYS
    assert json.loads(json.dumps(values)) == values
    assert type(values["accuracy"]) is float
    assert type(values["per_class"]["玫瑰"]["support"]) is int
    assert all(math.isfinite(values[key]) for key in ("loss", "ece", "macro_f1"))


def test_json_file_parses_to_the_dict(tmp_path, hostile_metrics):
    path = tmp_path / "metrics.json"
    write_metrics_json(path, hostile_metrics)
    assert json.loads(path.read_text(encoding="utf-8")) == hostile_metrics.to_dict()
    assert list(json.loads(path.read_text(encoding="utf-8"))) == METRICS_KEYS


def test_json_file_is_for_reading(tmp_path):
    metrics = metrics_from(["玫瑰", "b"], np.array([[0.9, 0.1], [0.8, 0.2]]), [0, 1])
    path = tmp_path / "metrics.json"
    write_metrics_json(path, metrics)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert any(line.strip().startswith('"玫瑰": {"precision": 0.5') for line in lines)
    assert [line.strip() for line in lines if line.startswith("    [")] == ["[1, 0],", "[1, 0]"]


def test_csv_file_has_names_on_both_sides(tmp_path, hostile_metrics):
    path = tmp_path / "confusion_matrix.csv"
    write_confusion_csv(path, hostile_metrics)
    assert b"bad\xffbyte" in path.read_bytes()
    text = path.read_bytes().decode("utf-8", "surrogateescape")
    rows = list(csv.reader(text.splitlines(keepends=True)))
    shown = (*HOSTILE[:-1], "'=1+1")  # a table for people: no name is a formula
    assert tuple(rows[0][1:]) == shown
    assert tuple(row[0] for row in rows[1:]) == shown
    counts = [[int(count) for count in row[1:]] for row in rows[1:]]
    assert counts == hostile_metrics.confusion_matrix.tolist()


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [((56, 70, 48, 80), 0.0524, 0.3339), ((9, 10, 3, 10), 0.1705, 0.8090)],
)
def test_the_interval_of_a_difference_is_newcombes(
    counts: tuple[int, int, int, int], low: float, high: float
) -> None:
    """Rows a and b of table II of the paper, method 10."""
    assert difference_interval(*counts) == pytest.approx((low, high), abs=5e-5)


def test_intervals_of_a_difference_hold_the_truth_as_often_as_they_say() -> None:
    rng = np.random.default_rng(9)
    held = 0
    for _ in range(1000):
        first, second = rng.uniform(0.02, 0.98, 2)
        low, high = difference_interval(
            int(rng.binomial(60, first)), 60, int(rng.binomial(25, second)), 25
        )
        held += low <= first - second <= high
    assert 0.935 < held / 1000 < 0.98


def test_a_difference_needs_images_on_both_sides() -> None:
    with pytest.raises(ValueError, match="trials >= 1"):
        difference_interval(0, 0, 1, 2)
