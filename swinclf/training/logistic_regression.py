"""The baseline: a regularised multinomial logistic regression on cached features.

Convex, so L-BFGS finds its optimum without a learning rate; the strength of the regularisation is
swept on a part of the training images. With very many classes or images it is fitted on a sample.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.nn import functional as F

from swinclf.device import torch_threads
from swinclf.training.batches import FeatureBatches
from swinclf.training.linear_probe import Probe
from swinclf.training.optim import LBFGS
from swinclf.training.schedule import Schedule

# Of L2, strongest first: each fit starts from the one before.
STRENGTHS = tuple(10 ** (half / 2) for half in range(1, -9, -1))
DEFAULT_STRENGTH = 1e-2  # without images for the sweep
HELD_OUT = 0.2  # of the training images, for the sweep
MAX_STEPS, MIN_STEPS = 100, 10
SWEEP_FLOPS, FIT_FLOPS = 2e12, 1e13  # seconds, and less than a minute, on two cores
CHUNK_LOGITS = 2**24  # 64 MiB of float32
# Of a gradient: milliseconds, fastest on one thread. Others would spin, and slow it down many times
# once another program takes one of the cores.
SMALL_MACS = 5e7
CACHED_VALUES = 2**26  # up to 256 MiB are normalised once, more in every step

Solution = tuple[torch.Tensor, torch.Tensor]  # (K, D) weight and (K,) bias


@dataclass(frozen=True)
class Baseline:
    """A fitted head and its scores."""

    probe: Probe  # the head, with the normalisation of its features, on the CPU
    # the chosen L2: half of this times the squared norm of the weights is added to the mean loss
    strength: float
    images: int  # training images that it was fitted on
    accuracy: float  # of the validation images, in [0, 1]; nan without any
    loss: float  # mean cross-entropy of the validation images; nan without any
    train_accuracy: float  # of the training images, all views, in [0, 1]
    train_loss: float  # mean cross-entropy of the training images, all views
    seconds: float  # wall time of the fit

    def to_dict(self) -> dict[str, object]:
        """Return the content of baseline.json."""
        has_val = math.isfinite(self.accuracy)
        return {
            "method": "logistic regression by L-BFGS on frozen features",
            "l2": self.strength,
            "train_images": self.images,
            "val_accuracy": self.accuracy if has_val else None,
            "val_loss": self.loss if has_val else None,
        }


def fit_baseline(
    batches: FeatureBatches, classes: int, schedule: Schedule, *, seed: int
) -> Baseline:
    """Fit the baseline to the training features and score it on the validation features.

    With two views of an image, each counts half. Only class weights and label smoothing of the
    schedule are used. The seed is of the images held out for the sweep, and of the sample if there
    are too many images.
    """
    started = time.perf_counter()
    rng = np.random.default_rng([seed, 2])
    strength, start = choose_strength(batches, classes, schedule, rng)
    baseline = fit_head(batches, classes, schedule, rng, strength=strength, start=start)
    return replace(baseline, seconds=time.perf_counter() - started)


def choose_strength(
    batches: FeatureBatches, classes: int, schedule: Schedule, rng: np.random.Generator
) -> tuple[float, Solution]:
    """Return the L2 of least loss on a part of the training images, and its solution on the rest.

    This takes most of the time of `fit_baseline`.
    """
    probe, targets, row_flops = _new_probe(batches, classes)
    zeros = torch.zeros_like(probe.linear.weight), torch.zeros_like(probe.linear.bias)
    sweep_steps = MAX_STEPS * len(STRENGTHS)
    rows = _at_most(targets, SWEEP_FLOPS / (row_flops * sweep_steps), rng)
    fitted_on, held_out = _hold_out(targets, rows, rng)
    if len(held_out) and _steps(SWEEP_FLOPS / len(STRENGTHS), len(rows) * row_flops):
        fit, validation = (
            _Problem(probe, batches, rows, schedule) for rows in (fitted_on, held_out)
        )
        return _sweep(fit, validation, zeros)
    return DEFAULT_STRENGTH, zeros


def fit_head(
    batches: FeatureBatches,
    classes: int,
    schedule: Schedule,
    rng: np.random.Generator,
    *,
    strength: float,
    start: Solution,
) -> Baseline:
    """Fit the head to the training features at one L2, and score it on both splits' features."""
    started = time.perf_counter()
    probe, targets, row_flops = _new_probe(batches, classes)
    rows = _at_most(targets, FIT_FLOPS / (row_flops * MAX_STEPS), rng)
    steps = _steps(FIT_FLOPS, len(rows) * row_flops) or MIN_STEPS
    weight, bias = _minimise(_Problem(probe, batches, rows, schedule), strength, start, steps)
    with torch.no_grad():
        probe.linear.weight.copy_(weight)
        probe.linear.bias.copy_(bias)
    accuracy, loss = _score(probe, batches.val_features[None], batches.val_targets)
    train_accuracy, train_loss = _score(probe, batches.train_features, batches.train_targets)
    return Baseline(
        probe=probe.cpu(),
        strength=strength,
        images=len(rows),
        accuracy=accuracy,
        loss=loss,
        train_accuracy=train_accuracy,
        train_loss=train_loss,
        seconds=time.perf_counter() - started,
    )


def _new_probe(batches: FeatureBatches, classes: int) -> tuple[Probe, np.ndarray, float]:
    """Return an unfitted head, the training targets, and the operations for an image."""
    features, targets = batches.train_features, batches.train_targets
    probe = Probe(features.flatten(0, 1), classes).to(features.device)
    return probe, targets.cpu().numpy(), _row_flops(len(features), features.shape[2], classes)


def fits_all(images: int, *, views: int, width: int, classes: int) -> bool:
    """Return whether the baseline is fitted on all training images, not on a sample.

    `width` is the number of features of a view, D.
    """
    return images * _row_flops(views, width, classes) * MAX_STEPS <= FIT_FLOPS


def _row_flops(views: int, width: int, classes: int) -> float:
    """Return the operations for the logits of an image and their gradient."""
    return 4.0 * views * width * classes


class _Problem:
    """A weighted mean cross-entropy over some of the training images, and its gradient."""

    def __init__(
        self, probe: Probe, batches: FeatureBatches, rows: np.ndarray, schedule: Schedule
    ) -> None:
        self._probe, self._batches, self._schedule = probe, batches, schedule
        self._rows = torch.from_numpy(rows).to(batches.train_targets.device)
        classes = probe.linear.out_features
        size = len(batches.train_features) * len(rows) * (probe.linear.in_features + classes)
        self._cached = list(self._chunks(classes)) if size <= CACHED_VALUES else []
        views = len(batches.train_features)
        macs = 2 * views * len(rows) * probe.linear.in_features * classes
        self.is_small = macs <= SMALL_MACS

    def loss_and_gradient(
        self, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """Return the mean loss at (K, D) weight and (K,) bias, and its gradients."""
        losses = []
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        views = len(self._batches.train_features)
        share = 1.0 / (views * len(self._rows))
        for features, targets in self._cached or self._chunks(len(bias)):
            logits = torch.addmm(bias, features, weight.T)
            logs = F.log_softmax(logits, dim=1)
            losses.append((targets * logs).sum(1))
            gradient = (logs.exp() * targets.sum(1, keepdim=True) - targets) * share
            by_weight.addmm_(gradient.T, features)
            by_bias += gradient.sum(0)
        return -_sum_on_host(torch.cat(losses)) * share, by_weight, by_bias

    def _soft_targets(self, targets: torch.Tensor, classes: int) -> torch.Tensor:
        """Return (n, K) weighted targets, smoothed as by `F.cross_entropy`."""
        smoothing, weights = self._schedule.label_smoothing, self._schedule.class_weights
        soft = F.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
        return soft if weights is None else soft * weights

    def _chunks(self, classes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield normalised features (n, D) and soft targets (n, K), for a bounded n."""
        for view in self._batches.train_features:
            for rows in self._rows.split(max(1, CHUNK_LOGITS // classes)):
                features = (view[rows] - self._probe.mean) / self._probe.std
                yield features, self._soft_targets(self._batches.train_targets[rows], classes)


def _steps(flops: float, step_flops: float) -> int:
    """Return the number of steps within a budget; 0 if they are too few to be of use."""
    steps = min(MAX_STEPS, int(flops / step_flops))
    return steps if steps >= MIN_STEPS else 0


def _sweep(fitted_on: _Problem, held_out: _Problem, solution: Solution) -> tuple[float, Solution]:
    """Return the strength of least loss on the held-out images, and its solution.

    With weaker regularisation this loss falls, then rises; the slow fits after that are skipped.
    """
    least, best = math.inf, (STRENGTHS[0], solution)
    for strength in STRENGTHS:
        solution = _minimise(fitted_on, strength, solution, MAX_STEPS)
        loss, _, _ = held_out.loss_and_gradient(*solution)
        if not loss < least:
            break
        least, best = loss, (strength, solution)
    return best


def _minimise(problem: _Problem, strength: float, start: Solution, steps: int) -> Solution:
    """Return the (K, D) weight and (K,) bias of least loss, by L-BFGS."""
    weight, bias = (one.clone().requires_grad_() for one in start)
    optimizer = LBFGS(
        [weight, bias],
        max_iter=steps,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        loss, by_weight, by_bias = problem.loss_and_gradient(weight, bias)
        weight.grad = by_weight.add_(weight, alpha=strength)
        bias.grad = by_bias
        return loss + 0.5 * strength * _sum_on_host(weight.square().sum(1))

    with torch_threads(1) if problem.is_small else nullcontext():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _sum_on_host(values: torch.Tensor) -> float:
    """Return the sum of (N,) values in float64, on the CPU as MPS has no float64.

    In float32 the line search cannot resolve differences below 1e-7.
    """
    return float(values.cpu().sum(dtype=torch.float64))


def _at_most(targets: np.ndarray, limit: float, rng: np.random.Generator) -> np.ndarray:
    """Return the rows of about `limit` images at most, at least one of every class, in order."""
    if len(targets) <= limit:
        return np.arange(len(targets))
    order = rng.permutation(len(targets))
    nth = _rank_in_class(targets[order])
    chosen = order[np.argsort(nth, kind="stable")][: max(int(limit), int((nth == 0).sum()))]
    return np.sort(chosen)


def _hold_out(
    targets: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows to fit on, and a fifth of each class to validate on, never its last image."""
    order = rows[rng.permutation(len(rows))]
    nth = _rank_in_class(targets[order])
    counts = np.bincount(targets[rows])
    out = nth < np.minimum(np.ceil(HELD_OUT * counts), counts - 1)[targets[order]]
    return np.sort(order[~out]), np.sort(order[out])


def _rank_in_class(targets: np.ndarray) -> np.ndarray:
    """Return for each image the number of images of its class before it."""
    order = np.argsort(targets, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(targets))])
    ranks = np.empty(len(targets), np.int64)
    ranks[order] = np.arange(len(targets)) - starts[targets[order]]
    return ranks


@torch.inference_mode()
def _score(probe: Probe, features: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Return accuracy and mean cross-entropy on (V, N, D) features; (nan, nan) on none."""
    if not len(targets):
        return math.nan, math.nan
    correct, loss = 0, 0.0
    size = max(1, CHUNK_LOGITS // probe.linear.out_features)
    for view in features:
        for rows, target in zip(view.split(size), targets.split(size), strict=True):
            logits = probe(rows)
            correct += int((logits.argmax(1) == target).sum())
            loss += float(F.cross_entropy(logits, target, reduction="sum"))
    count = len(features) * len(targets)
    return correct / count, loss / count
