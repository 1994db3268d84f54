"""Temperatures, thresholds and out-of-distribution scores on numbers whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from conftest import metrics_from
from scipy.special import log_softmax, softmax
from sklearn.metrics import log_loss, roc_auc_score

from swinclf.confidence.ood import BACKGROUND_WEIGHT, FeatureSpace, fit_feature_space
from swinclf.confidence.temperature import calibrate, fit_temperature, fit_thresholds
from swinclf.metrics import expected_calibration_error


def drawn(images: int, classes: int, sharpness: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose truth is drawn from softmax(logits / sharpness): the right temperature."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (images, classes))
    chances = softmax(logits / sharpness, axis=1)
    targets = (random.random((images, 1)) > chances.cumsum(axis=1)).sum(axis=1)
    return logits.astype(np.float32), np.minimum(targets, classes - 1)


@pytest.mark.parametrize("sharpness", [0.5, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(sharpness: float) -> None:
    logits, targets = drawn(6000, 7, sharpness, seed=1)
    assert fit_temperature(logits, targets) == pytest.approx(sharpness, rel=0.06)


def test_the_temperature_is_the_best_of_a_grid() -> None:
    logits, targets = drawn(2000, 4, 1.8, seed=2)

    def loss(t: float) -> float:
        return log_loss(targets, softmax(logits.astype(np.float64) / t, axis=1), labels=range(4))

    fitted = fit_temperature(logits, targets)
    assert loss(fitted) <= min(loss(t) for t in np.linspace(0.5, 4, 300)) + 1e-6


def test_few_images_without_a_mistake_do_not_sharpen_for_ever() -> None:
    logits = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]] * 4
    assert 0.2 < fit_temperature(logits, np.array([0, 1, 2, 0, 1, 2])) < 1.0
    assert fit_temperature(logits[:1], np.array([0])) == pytest.approx(1.0, abs=0.1)


def test_the_error_falls_on_images_that_nothing_was_fitted_on() -> None:
    logits, targets = drawn(1500, 5, 3.0, seed=3)
    fitted = calibrate(logits, targets, seed=0)
    fresh, truth = drawn(4000, 5, 3.0, seed=4)

    def ece(temperature: float) -> float:
        probs = softmax(fresh.astype(np.float64) / temperature, axis=1)
        return expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == truth)

    assert fitted.ece_before > 0.2
    assert ece(fitted.temperature) < 0.3 * ece(1.0)
    assert fitted.ece_after == pytest.approx(ece(fitted.temperature), abs=0.03)


def test_what_is_calibrated_already_stays_as_it_is() -> None:
    for images in (46, 400):
        fitted = [calibrate(*drawn(images, 5, 1.0, seed=seed), seed=0) for seed in range(40)]
        assert sum(one.temperature != 1.0 for one in fitted) <= 5  # 5 % of 40, give or take
    assert calibrate(*drawn(400, 5, 2.0, seed=0), seed=0).temperature == pytest.approx(2, rel=0.2)


def test_calibration_error_is_that_of_the_metrics() -> None:
    logits, targets = drawn(500, 6, 2.0, seed=5)
    probs = softmax(logits, axis=1)
    alone = expected_calibration_error(probs.max(axis=1), probs.argmax(axis=1) == targets)
    assert metrics_from("abcdef", probs, targets).ece == pytest.approx(alone, abs=1e-12)


def test_thresholds_keep_their_promise_on_new_images() -> None:
    logits, targets = drawn(3000, 5, 1.0, seed=6)
    probs = np.exp(log_softmax(logits, axis=1))
    rows = fit_thresholds(probs.max(axis=1), probs.argmax(axis=1) == targets)
    fresh, truth = drawn(20000, 5, 1.0, seed=7)
    chances = softmax(fresh, axis=1)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == truth
    assert [row.precision for row in rows][-1] >= 0.97
    for row in rows:
        answered = confidence >= row.probability
        assert right[answered].mean() >= row.precision - 0.012
        assert answered.mean() == pytest.approx(row.coverage, abs=0.04)
    assert all(a.coverage >= b.coverage for a, b in zip(rows, rows[1:], strict=False))


@pytest.mark.parametrize(
    ("precision", "right", "reached"),
    [(0.8, 13, False), (0.8, 14, True), (0.9, 28, False), (0.9, 29, True)]
    + [(0.95, 58, False), (0.95, 59, True)],
)
def test_few_images_promise_little(precision: float, right: int, reached: bool) -> None:
    rows = fit_thresholds(np.full(right, 0.9), np.ones(right, dtype=bool), [precision])
    assert bool(rows) is reached


@pytest.mark.parametrize("images", [40, 200, 400])
def test_a_precision_that_is_promised_is_reached_on_new_images(images: int) -> None:
    fresh, truth = drawn(20000, 5, 1.0, seed=7)
    chances = softmax(fresh, axis=1)
    confidence, right = chances.max(axis=1), chances.argmax(axis=1) == truth
    missed = 0
    for seed in range(100):
        logits, targets = drawn(images, 5, 1.0, seed=100 + seed)
        probs = np.exp(log_softmax(logits, axis=1))
        rows = fit_thresholds(probs.max(axis=1), probs.argmax(axis=1) == targets, [0.8])
        missed += any(right[confidence >= row.probability].mean() < 0.8 for row in rows)
    assert missed <= 10


def test_equal_probabilities_are_answered_together() -> None:
    confidence = np.array([0.9] * 40 + [0.6] * 40)
    right = np.array([True] * 40 + [True] * 20 + [False] * 20)
    (row,) = fit_thresholds(confidence, right, [0.9])
    assert (row.probability, row.coverage) == (0.9, 0.5)


def clusters(
    images: int, seed: int, *, width: int = 40, strange: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Three classes in an 8-dimensional part of the space; strange ones anywhere else in it."""
    random = np.random.default_rng(seed)
    frame = np.random.default_rng(0)
    plane = np.linalg.qr(frame.normal(size=(width, 8)))[0]
    centres = frame.normal(0, 4, (3, 8))
    targets = random.integers(0, 3, images)
    points = centres[targets] + random.normal(0, 1, (images, 8))
    if strange:
        points = random.normal(0, 4, (images, 8))
    features = points @ plane.T + random.normal(0, 0.1, (images, width))
    return features.astype(np.float32), targets


def test_the_strange_are_told_from_the_known() -> None:
    space = fit_feature_space(*clusters(600, 1))
    assert space is not None
    known = space.ood_scores(clusters(400, 2)[0])
    strange = space.ood_scores(clusters(400, 3, strange=True)[0])
    truth = [0] * 400 + [1] * 400
    assert roc_auc_score(truth, np.concatenate([known, strange])) > 0.93
    assert np.median(known) == pytest.approx(1.0, abs=0.25)
    # and those that leave the space of the classes altogether
    outside = clusters(400, 4)[0] + np.random.default_rng(5).normal(0, 1, (400, 40))
    far = space.ood_scores(outside.astype(np.float32))
    assert roc_auc_score(truth, np.concatenate([known, far])) > 0.97


def gaussians(
    images: int,
) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]]:
    """Two classes in a plane, and the squared distances to the nearest of them and to all."""
    random = np.random.default_rng(1)
    targets = np.repeat([0, 1], images // 2)
    shape = np.array([[2.0, 0.5], [0.0, 0.7]])
    centres = np.array([[0.0, 0.0], [6.0, 1.0]])
    features = (centres[targets] + random.normal(size=(images, 2)) @ shape).astype(np.float32)
    means = np.stack([features[targets == label].mean(axis=0) for label in (0, 1)])
    within = np.linalg.inv(np.cov((features - means[targets]).T))
    among = np.linalg.inv(np.cov(features.T))

    def squares(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nearest = [np.einsum("ni,ij,nj->n", points - c, within, points - c) for c in means]
        middle = points - features.mean(axis=0)
        return np.min(nearest, axis=0), np.einsum("ni,ij,nj->n", middle, among, middle)

    return features, targets, squares


def test_the_score_adds_two_mahalanobis_distances_in_deviations() -> None:
    """With all directions and many images; log2(1 + e**x) makes it positive, and 1 on average."""
    features, targets, squares = gaussians(8000)
    space = fit_feature_space(features, targets)
    assert space is not None

    def measures(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        to_class, to_all = squares(points)
        return to_class - to_all, to_all

    points = np.random.default_rng(2).normal(3, 2, (50, 2)).astype(np.float32)
    relative, overall = (
        (new - old.mean()) / old.std()
        for new, old in zip(measures(points), measures(features), strict=True)
    )
    wanted = np.logaddexp(0, relative + BACKGROUND_WEIGHT * overall) / np.log(2)
    np.testing.assert_allclose(space.ood_scores(points), wanted, rtol=0.01, atol=0.02)


def test_a_model_without_a_background_has_the_mahalanobis_distance_to_its_nearest_class() -> None:
    """As models of earlier versions, whose thresholds are distances."""
    features, targets, squares = gaussians(8000)
    space = fit_feature_space(features, targets)
    assert space is not None
    earlier = space.to_dict()
    del earlier["background"], earlier["scale"]
    points = np.random.default_rng(2).normal(3, 4, (50, 2)).astype(np.float32)
    to_class, _ = squares(points)
    scores = FeatureSpace.from_dict(earlier).ood_scores(points)
    np.testing.assert_allclose(scores, np.sqrt(to_class / 2), rtol=0.06)


def test_what_is_read_back_says_the_same() -> None:
    space = fit_feature_space(*clusters(100, 1))
    assert space is not None
    again = FeatureSpace.from_dict(space.to_dict())
    points = clusters(50, 2)[0]
    np.testing.assert_allclose(space.ood_scores(points), again.ood_scores(points), rtol=2e-3)


def test_too_few_images_have_no_space() -> None:
    features, targets = clusters(10, 1)
    assert fit_feature_space(features[:9], targets[:9]) is None
    assert fit_feature_space(np.zeros((30, 4), np.float32), np.arange(30) % 3) is None


def test_a_damaged_space_is_refused() -> None:
    space = fit_feature_space(*clusters(100, 1))
    assert space is not None
    values = space.to_dict()
    values["centres"] = values["whiten"]
    values["basis"] = values["mean"]
    with pytest.raises((ValueError, IndexError)):
        FeatureSpace.from_dict(values)


@pytest.mark.parametrize(
    ("name", "value"),
    [("scale", [0, 1, 0]), ("scale", [0, 1, 0, 0]), ("background", "centres"), ("scale", "abcd")],
)
def test_a_damaged_scale_or_background_is_refused(name: str, value: object) -> None:
    space = fit_feature_space(*clusters(100, 1))
    assert space is not None
    values = space.to_dict()
    values[name] = values[value] if value == "centres" else value
    with pytest.raises(ValueError, match=r"values to unpack|square|deviations|convert"):
        FeatureSpace.from_dict(values)
