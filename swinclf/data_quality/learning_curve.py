"""Learning curve: accuracy against the number of training images, extrapolated.

Shapes: N training images, M held-out images, D features.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from swinclf.data_quality.lda import Floats, Labels, fit_lda, reduce_dimensions
from swinclf.device import one_blas_thread
from swinclf.metrics import wilson_interval
from swinclf.reporter import format_percent
from swinclf.reporting.report_data import LearningCurve, LearningPoint

SHARES = (0.1, 0.25, 0.5, 1.0)
REPEATS = 3  # random subsets per share
FORECAST = 2.0  # times the present number of images; no extrapolation beyond it
FEWEST = 40  # held-out images below which a curve is noise
SMALL_GAIN = 0.01  # in accuracy; less is not worth collecting images for
RESAMPLED = 300  # bootstrap samples


@one_blas_thread()
def learning_curve(
    train: npt.NDArray[np.floating],
    train_targets: Labels,
    val: npt.NDArray[np.floating],
    val_targets: Labels,
    *,
    seed: int,
) -> LearningCurve | None:
    """Return the accuracy with 10, 25, 50 and 100 % of each class and a forecast for twice as many.

    (N, D) features and (N,) class indices of training images, (M, D) and (M,) of held-out ones.

    Returns:
        The curve, without shares of no more images than classes; None if only one share
        remains, or with fewer than two classes or forty held-out images.

    Source: the power law of Hestness et al. 2017, Deep Learning Scaling is Predictable,
    Empirically, sec. 3.
    """
    class_count = len(np.unique(train_targets))
    if len(val_targets) < FEWEST or class_count < 2:
        return None
    both = reduce_dimensions(np.concatenate([train, val]))
    train, val = both[: len(train)], both[len(train) :]
    random = np.random.default_rng(seed)
    points = []
    for share in SHARES:
        draws = [_part(train_targets, share, random) for _ in range(1 if share == 1.0 else REPEATS)]
        if len(draws[0]) <= class_count:  # no within-class variance to estimate
            continue
        right = [_right(train[rows], train_targets[rows], val, val_targets) for rows in draws]
        accuracy = float(np.mean(right))
        low, high = wilson_interval(round(accuracy * len(val)), len(val))
        points.append(LearningPoint(share, len(draws[0]), accuracy, low, high))
    if len(points) < 2:
        return None
    forecast = _forecast(points, len(val), random)
    return LearningCurve(points, [forecast] if forecast else [], [_note(points, forecast)])


def _part(targets: Labels, share: float, random: np.random.Generator) -> Labels:
    """Return the rows of a random share of each class, at least one image of each."""
    parts = []
    for label in np.unique(targets):
        rows = np.flatnonzero(targets == label)
        parts.append(random.permutation(rows)[: max(1, round(share * len(rows)))])
    return np.concatenate(parts)


def _right(fitted: Floats, targets: Labels, val: Floats, val_targets: Labels) -> float:
    """Return the accuracy on the held-out images."""
    predicted = fit_lda(fitted, targets).predict(val)
    return float((predicted == val_targets).mean())


def _forecast(
    points: list[LearningPoint], held_out: int, random: np.random.Generator
) -> LearningPoint | None:
    """Extrapolate the error by a power law; None if it does not fall."""
    images = np.array([point.images for point in points], dtype=np.float64)
    errors = np.array([1 - point.accuracy for point in points])
    slope = _power_law(images, errors[None], held_out)[0]
    if not slope[0] < 0:
        return None
    # Sampling error of the forecast: refit with as many held-out images, resampled.
    drawn = random.binomial(held_out, errors, (RESAMPLED, len(errors))) / held_out
    wanted = np.log(FORECAST * images[-1])
    laws = _power_law(images, drawn, held_out)
    spread = np.exp(laws[:, 0] * wanted + laws[:, 1])
    error = min(float(np.exp(slope[0] * wanted + slope[1])), 1.0)
    low, high = np.quantile(1 - np.minimum(spread, 1.0), [0.025, 0.975])
    return LearningPoint(
        FORECAST, round(FORECAST * images[-1]), 1 - error, min(low, 1 - error), max(high, 1 - error)
    )


def _power_law(images: Floats, errors: Floats, held_out: int) -> Floats:
    """Return slopes and intercepts of lines through log images and log error, (B, S) -> (B, 2)."""
    logs = np.log(np.maximum(errors, 0.5 / held_out))  # log of zero observed errors
    lines: Floats = np.polyfit(np.log(images), logs.T, 1).T
    return lines


def _note(points: list[LearningPoint], forecast: LearningPoint | None) -> str:
    """Return what the forecast means, no more firmly than its interval allows."""
    now = points[-1]
    if forecast is None:
        return "Accuracy does not rise with the number of images here."
    interval = f"{format_percent(forecast.low)} to {format_percent(forecast.high)}"
    if forecast.low > now.accuracy:
        return (
            f"Twice as many images might bring {format_percent(forecast.accuracy)} ({interval}) "
            f"where these bring {format_percent(now.accuracy)}."
        )
    if forecast.high < now.accuracy + SMALL_GAIN:
        return "More images like these would hardly help: other images, or another model, might."
    return (
        "There are too few held-out images to say whether more images would help: the forecast for "
        f"twice as many is {interval}, where these bring {format_percent(now.accuracy)}."
    )
