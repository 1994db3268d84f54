"""The baseline: the optimum that scikit-learn finds, bounded time, and what it is good for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from swinclf.training import logistic_regression
from swinclf.training.batches import FeatureBatches
from swinclf.training.logistic_regression import DEFAULT_STRENGTH, STRENGTHS, fit_baseline
from swinclf.training.schedule import Schedule


def schedule(smoothing=0.0, weights=None):
    return Schedule(
        epochs=1,
        lrf=1,
        warmup=0,
        clip_norm=0,
        label_smoothing=smoothing,
        class_weights=None if weights is None else torch.tensor(weights),
        patience=0,
    )


def batches(counts, *, views=1, width=6, val=20, noise=1.0, seed=0):
    """Gaussian classes, `counts` training images of each, on features of unequal scale."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (len(counts), width))
    scale = 10.0 ** rng.uniform(-0.5, 0.5, width)

    def draw(targets):
        return torch.tensor(
            (centres[targets] + noise * rng.normal(0, 1, (len(targets), width))) * scale,
            dtype=torch.float32,
        )

    train = np.repeat(np.arange(len(counts)), counts)
    held = np.repeat(np.arange(len(counts)), val)
    return FeatureBatches(
        train_features=torch.stack([draw(train) for _ in range(views)]),
        train_targets=torch.tensor(train),
        val_features=draw(held),
        val_targets=torch.tensor(held),
        batch_size=8,
        seed=0,
    )


def fit(data, classes, plan=None, seed=0):
    return fit_baseline(data, classes, plan or schedule(), seed=seed)


@pytest.mark.parametrize("views", [1, 2])
@pytest.mark.parametrize("strength", [1e-1, 1e-3])
@pytest.mark.parametrize("weights", [None, [2.0, 0.5, 1.0]])
def test_it_is_the_optimum_that_scikit_learn_finds(monkeypatch, views, strength, weights):
    monkeypatch.setattr(logistic_regression, "STRENGTHS", (strength,))
    data = batches([60, 50, 40], views=views)
    baseline = fit(data, 3, schedule(weights=weights))
    rows = data.train_features.flatten(0, 1).double().numpy()
    targets = np.tile(data.train_targets.numpy(), views)
    scale = np.sqrt(rows.var(0).mean())
    normalised = (rows - rows.mean(0)) / scale
    reference = LogisticRegression(C=1 / (strength * len(rows)), tol=1e-8, max_iter=5000)
    sample_weights = None if weights is None else np.asarray(weights)[targets]
    reference.fit(normalised, targets, sample_weight=sample_weights)
    with torch.no_grad():
        found = torch.softmax(baseline.probe(data.val_features), 1).numpy()
    seen = (data.val_features.double().numpy() - rows.mean(0)) / scale
    assert found == pytest.approx(reference.predict_proba(seen), abs=2e-3)
    accuracy = (reference.predict(seen) == data.val_targets.numpy()).mean()
    assert baseline.accuracy == pytest.approx(accuracy, abs=0.02)
    assert 0.4 < accuracy < 1, "the classes have to overlap"


def test_features_that_hardly_vary_weigh_little():
    """One feature of large, 99 of small deviation, which are noise: the first decides."""
    rng = torch.Generator().manual_seed(0)
    targets = torch.arange(60) % 2
    features = 0.05 * torch.randn(180, 100, generator=rng)
    features[:, 0] += torch.cat([targets] * 3) + 0.4 * torch.randn(180, generator=rng)
    data = FeatureBatches(features[None, :60], targets, features[60:], targets.repeat(2), 64, 0)
    assert fit(data, 2).accuracy > 0.8  # 0.65 if each feature were divided by its own deviation


def test_the_loss_and_its_gradient_are_those_of_torch():
    data = batches([7, 5, 9], views=2)
    plan = schedule(0.1, [2.0, 0.5, 1.0])
    probe = logistic_regression.Probe(data.train_features.flatten(0, 1), 3)
    torch.manual_seed(0)
    torch.nn.init.normal_(probe.linear.weight)
    torch.nn.init.normal_(probe.linear.bias)
    rows = np.array([0, 3, 8, 12, 20])
    problem = logistic_regression._Problem(probe, data, rows, plan)
    weight, bias = (one.detach() for one in (probe.linear.weight, probe.linear.bias))
    loss, *gradients = problem.loss_and_gradient(weight, bias)
    wanted = torch.nn.functional.cross_entropy(
        probe(data.train_features[:, rows].flatten(0, 1)),
        data.train_targets[rows].repeat(2),
        weight=plan.class_weights,
        label_smoothing=0.1,
        reduction="none",
    ).mean()
    wanted.backward()
    assert loss == pytest.approx(wanted.item(), rel=1e-5)
    for found, parameter in zip(gradients, (probe.linear.weight, probe.linear.bias), strict=True):
        torch.testing.assert_close(found, parameter.grad, rtol=1e-4, atol=1e-6)


def test_noise_asks_for_more_regularisation_than_signal():
    easy = fit(batches([200, 200], width=4, noise=0.3), 2)
    hard = fit(batches([12, 12], width=100, noise=30.0), 2)
    assert easy.strength < hard.strength
    assert {easy.strength, hard.strength} <= set(STRENGTHS)


def test_the_validation_images_choose_nothing():
    data = batches([30, 30, 30])
    first = fit(data, 3)
    data.val_targets.copy_(data.val_targets.flip(0))
    second = fit(data, 3)
    assert first.accuracy != second.accuracy
    assert first.strength == second.strength
    assert torch.equal(first.probe.linear.weight, second.probe.linear.weight)


def test_the_same_seed_gives_the_same_bits():
    data = batches([30, 30, 30])
    first, second = fit(data, 3, seed=4), fit(data, 3, seed=4)
    assert torch.equal(first.probe.linear.weight, second.probe.linear.weight)


@pytest.mark.parametrize("counts", [[1, 1], [1, 30], [1, 1, 2]])
def test_classes_of_one_image_are_fitted_and_never_held_out(counts):
    baseline = fit(batches(counts), len(counts))
    assert torch.isfinite(baseline.probe.linear.weight).all()
    assert baseline.images == sum(counts)
    if max(counts) == 1:
        assert baseline.strength == DEFAULT_STRENGTH


def test_a_fifth_of_each_class_is_held_out_and_never_its_last_image():
    targets = np.repeat(np.arange(4), [1, 2, 10, 50])
    rng = np.random.default_rng(0)
    fitted_on, held_out = logistic_regression._hold_out(targets, np.arange(len(targets)), rng)
    assert sorted([*fitted_on, *held_out]) == list(range(len(targets)))
    assert np.bincount(targets[held_out], minlength=4).tolist() == [0, 1, 2, 10]


def test_without_validation_images_nothing_is_claimed():
    baseline = fit(batches([20, 20], val=0), 2)
    assert math.isnan(baseline.accuracy)
    assert math.isnan(baseline.loss)


def test_too_many_images_or_classes_take_no_longer(monkeypatch):
    evaluated = []
    real = logistic_regression._Problem.loss_and_gradient

    def counting(self, weight, bias):
        evaluated.append(len(self._rows) * weight.numel())
        return real(self, weight, bias)

    monkeypatch.setattr(logistic_regression._Problem, "loss_and_gradient", counting)
    monkeypatch.setattr(logistic_regression, "SWEEP_FLOPS", 4e6)
    monkeypatch.setattr(logistic_regression, "FIT_FLOPS", 8e6)
    few = fit(batches([400] * 5), 5)
    assert 5 <= few.images < 2000
    assert 4 * sum(evaluated) < 4 * (4e6 + 8e6)  # line searches may evaluate a step twice
    evaluated.clear()
    monkeypatch.setattr(logistic_regression, "SWEEP_FLOPS", 1e5)
    many = fit(batches([3] * 300, val=1), 300)
    assert many.images == 300  # one of each class
    assert many.strength == DEFAULT_STRENGTH  # no time for a sweep
    assert len(evaluated) <= 2 * logistic_regression.MIN_STEPS


@pytest.mark.parametrize(("limit", "threads"), [(1e9, {1}), (1, {2})])
def test_small_problems_are_fitted_on_one_thread(monkeypatch, limit, threads):
    seen = set()
    real = logistic_regression._Problem.loss_and_gradient

    def watching(self, weight, bias):
        if weight.requires_grad:
            seen.add(torch.get_num_threads())
        return real(self, weight, bias)

    monkeypatch.setattr(logistic_regression._Problem, "loss_and_gradient", watching)
    monkeypatch.setattr(logistic_regression, "SMALL_MACS", limit)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        fit(batches([20, 20]), 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert seen == threads
