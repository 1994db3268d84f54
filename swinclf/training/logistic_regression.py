"""The instant baseline: a regularised multinomial logistic regression on kept features.

Convex, so L-BFGS finds its one optimum without a rate to choose; how strong the regularisation is,
is swept on a part of the training images alone. What would take too long on very many classes or
images is done on fewer images, and said.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from swinclf.device import StopFlag, one_torch_thread
from swinclf.errors import ExitCode, Interrupted
from swinclf.training.batches import FeatureBatches
from swinclf.training.linear_probe import Probe
from swinclf.training.loop import Schedule
from swinclf.training.optim import LBFGS

# Of L2, strongest first: each starts from the one before.
STRENGTHS = tuple(10 ** (half / 2) for half in range(1, -9, -1))
USUAL_STRENGTH = 1e-2  # where there is no image to sweep it on
HELD_OUT = 0.2  # of the training images, for the sweep
MOST_STEPS, FEWEST_STEPS = 100, 10
SWEEP_FLOPS, LAST_FLOPS = 2e12, 1e13  # seconds, and less than a minute, on two cores
CHUNK_LOGITS = 2**24  # 64 MiB of float32
SMALL_MACS = 5e7  # of a gradient: milliseconds, which one thread does best
KEPT_VALUES = 2**26  # normalised once up to 256 MiB, in every step beyond

_Solution = tuple[torch.Tensor, torch.Tensor]  # (K, D) weight and (K,) bias


@dataclass(frozen=True)
class Baseline:
    """A fitted head and what it is worth.

    Attributes:
        probe: The head, with the normalisation of its features, on the CPU.
        strength: L2 that was chosen: half of this times the squared length of the weights is added
            to the mean loss.
        images: Training images that it was fitted on.
        accuracy: Of the held-out images, in [0, 1]; nan without any.
        loss: Mean cross-entropy of the held-out images; nan without any.
        train_accuracy: Of the training images, all views, in [0, 1].
        train_loss: Mean cross-entropy of the training images, all views.
        seconds: Wall time of the fit.
    """

    probe: Probe
    strength: float
    images: int
    accuracy: float
    loss: float
    train_accuracy: float
    train_loss: float
    seconds: float

    def facts(self) -> dict[str, object]:
        """What baseline.json holds."""
        has_val = math.isfinite(self.accuracy)
        return {
            "method": "logistic regression by L-BFGS on frozen features",
            "l2": self.strength,
            "train_images": self.images,
            "val_accuracy": self.accuracy if has_val else None,
            "val_loss": self.loss if has_val else None,
        }


def fit_baseline(
    batches: FeatureBatches, classes: int, schedule: Schedule, *, seed: int, stop: StopFlag
) -> Baseline:
    """Fits the baseline to the training features, and scores it on the validation features.

    Args:
        batches: The features; where there are two views of an image, each counts half.
        classes: Logits, K.
        schedule: Class weights and label smoothing are obeyed; the rest concerns other trainings.
        seed: Of which images the sweep holds out, and which are taken where there are too many.
        stop: Looked at after every evaluation of the loss.

    Raises:
        Interrupted: If `stop` was set.
    """
    started = time.perf_counter()
    views, _, width = batches.train_features.shape
    targets = batches.train_targets.cpu().numpy()
    probe = Probe(batches.train_features.flatten(0, 1), classes).to(batches.train_features.device)
    rng = np.random.default_rng([seed, 2])
    row_flops = _row_flops(views, width, classes)

    def problem(rows: np.ndarray) -> _Problem:
        index = torch.from_numpy(rows).to(batches.train_targets.device)
        return _Problem(probe, batches, index, schedule, stop)

    strength, solution = USUAL_STRENGTH, _zeros(probe)
    sweep_steps = MOST_STEPS * len(STRENGTHS)
    rows = _at_most(targets, SWEEP_FLOPS / (row_flops * sweep_steps), rng)
    fitted_on, held_out = _hold_out(targets, rows, rng)
    if len(held_out) and _steps(SWEEP_FLOPS / len(STRENGTHS), len(rows) * row_flops):
        strength, solution = _sweep(problem(fitted_on), problem(held_out), solution)
    rows = _at_most(targets, LAST_FLOPS / (row_flops * MOST_STEPS), rng)
    steps = _steps(LAST_FLOPS, len(rows) * row_flops) or FEWEST_STEPS
    weight, bias = _minimise(problem(rows), strength, solution, steps)
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


def fits_all(images: int, *, views: int, width: int, classes: int) -> bool:
    """Return whether the baseline is fitted on all training images, and not on a part of them.

    Args:
        images: Training images.
        views: Of each.
        width: Features of a view, D.
        classes: Logits, K.
    """
    return images * _row_flops(views, width, classes) * MOST_STEPS <= LAST_FLOPS


def _row_flops(views: int, width: int, classes: int) -> float:
    """Of the logits of an image and their gradient."""
    return 4.0 * views * width * classes


class _Problem:
    """A weighted mean cross-entropy over some of the training images, and its gradient."""

    def __init__(
        self,
        probe: Probe,
        batches: FeatureBatches,
        rows: torch.Tensor,
        schedule: Schedule,
        stop: StopFlag,
    ) -> None:
        self._probe, self._batches, self._rows = probe, batches, rows
        self._schedule, self._stop = schedule, stop
        classes = probe.linear.out_features
        size = len(batches.train_features) * len(rows) * (probe.linear.in_features + classes)
        self._kept = list(self._chunks(classes)) if size <= KEPT_VALUES else []
        views = len(batches.train_features)
        macs = 2 * views * len(rows) * probe.linear.in_features * classes
        self.is_small = macs <= SMALL_MACS

    def loss_and_gradient(
        self, weight: torch.Tensor, bias: torch.Tensor
    ) -> tuple[float, torch.Tensor, torch.Tensor]:
        """The mean loss at (K, D) weight and (K,) bias, and its derivatives.

        Raises:
            Interrupted: If the training was asked to stop.
        """
        if self._stop:
            raise Interrupted(self._stop.exit_code or ExitCode.INTERRUPTED)
        losses = []
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        views = len(self._batches.train_features)
        share = 1.0 / (views * len(self._rows))
        for features, wanted in self._kept or self._chunks(len(bias)):
            logits = torch.addmm(bias, features, weight.T)
            logs = F.log_softmax(logits, dim=1)
            losses.append((wanted * logs).sum(1))
            gradient = (logs.exp() * wanted.sum(1, keepdim=True) - wanted) * share
            by_weight.addmm_(gradient.T, features)
            by_bias += gradient.sum(0)
        return -_sum_on_host(torch.cat(losses)) * share, by_weight, by_bias

    def _wanted(self, targets: torch.Tensor, classes: int) -> torch.Tensor:
        """(n, K) weighted targets, smoothed as `F.cross_entropy` does it."""
        smoothing, weights = self._schedule.label_smoothing, self._schedule.class_weights
        wanted = F.one_hot(targets, classes) * (1 - smoothing) + smoothing / classes
        return wanted if weights is None else wanted * weights

    def _chunks(self, classes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Normalised features (n, D) and what is wanted of them (n, K), a bounded number each."""
        for view in self._batches.train_features:
            for rows in self._rows.split(max(1, CHUNK_LOGITS // classes)):
                features = (view[rows] - self._probe.mean) / self._probe.std
                yield features, self._wanted(self._batches.train_targets[rows], classes)


def _steps(flops: float, step_flops: float) -> int:
    """How many steps there is time for; 0 where they are too few to be of use."""
    steps = min(MOST_STEPS, int(flops / step_flops))
    return steps if steps >= FEWEST_STEPS else 0


def _sweep(fitted_on: _Problem, held_out: _Problem, solution: _Solution) -> tuple[float, _Solution]:
    """The strength that leaves the least loss on the images held out of the fit, and its fit.

    As it weakens the loss falls, then rises: what would come after that is not tried, and is slow.
    """
    least, best = math.inf, (STRENGTHS[0], solution)
    for strength in STRENGTHS:
        solution = _minimise(fitted_on, strength, solution, MOST_STEPS)
        loss, _, _ = held_out.loss_and_gradient(*solution)
        if not loss < least:
            break
        least, best = loss, (strength, solution)
    return best


def _minimise(problem: _Problem, strength: float, start: _Solution, steps: int) -> _Solution:
    """The (K, D) weight and (K,) bias of least loss, by L-BFGS."""
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

    with one_torch_thread() if problem.is_small else nullcontext():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return weight.detach(), bias.detach()


def _sum_on_host(values: torch.Tensor) -> float:
    """Return the sum of (N,) values in float64, which not every device has (MPS).

    In float32 the line search could not tell two losses apart that differ by less than 1e-7.
    """
    return float(values.cpu().sum(dtype=torch.float64))


def _zeros(probe: Probe) -> _Solution:
    return torch.zeros_like(probe.linear.weight), torch.zeros_like(probe.linear.bias)


def _at_most(targets: np.ndarray, limit: float, rng: np.random.Generator) -> np.ndarray:
    """Rows of at most about `limit` images, and at least one of every class, in order."""
    if len(targets) <= limit:
        return np.arange(len(targets))
    order = rng.permutation(len(targets))
    nth = _place_in_class(targets[order])
    chosen = order[np.argsort(nth, kind="stable")][: max(int(limit), int((nth == 0).sum()))]
    return np.sort(chosen)


def _hold_out(
    targets: np.ndarray, rows: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows to fit on and rows to choose by: a fifth of each class, but never its last image."""
    order = rows[rng.permutation(len(rows))]
    nth = _place_in_class(targets[order])
    counts = np.bincount(targets[rows])
    out = nth < np.minimum(np.ceil(HELD_OUT * counts), counts - 1)[targets[order]]
    return np.sort(order[~out]), np.sort(order[out])


def _place_in_class(targets: np.ndarray) -> np.ndarray:
    """For each image, how many of its class come before it."""
    order = np.argsort(targets, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(targets))])
    places = np.empty(len(targets), np.int64)
    places[order] = np.arange(len(targets)) - starts[targets[order]]
    return places


@torch.inference_mode()
def _score(probe: Probe, features: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Accuracy and mean cross-entropy of features, (V, N, D); (nan, nan) of nothing."""
    if not len(targets):
        return math.nan, math.nan
    right, loss = 0, 0.0
    size = max(1, CHUNK_LOGITS // probe.linear.out_features)
    for view in features:
        for rows, wanted in zip(view.split(size), targets.split(size), strict=True):
            logits = probe(rows)
            right += int((logits.argmax(1) == wanted).sum())
            loss += float(F.cross_entropy(logits, wanted, reduction="sum"))
    count = len(features) * len(targets)
    return right / count, loss / count
