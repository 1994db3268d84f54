"""Does the forecast of the learning curve hold? JSON lines on stdout.

For each number of training images and each seed, photographs are drawn for training and for the
held-out part, and the curve forecasts the accuracy with twice as many training images. That is
then measured, on all other photographs. A row states, over the seeds, the mean error of the
forecast and its mean absolute error, with those of expecting no gain; and how often the interval
of 95 % contains what was measured.

    python benchmarks/learning.py PHOTOS
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import timing
from held_out import Photographs, frozen_settings, read_photographs

from swinclf.data_quality.dataset_insights import (
    CURVE_COMPONENTS,
    fit_ridge,
    learning_curve,
    reduce_dimensions,
)


def measure(photos: Photographs, images: int, held_out: int, seed: int) -> dict[str, float] | None:
    """Forecast from `images` photographs, train on twice as many; None without a forecast."""
    _, targets = np.unique(photos.labels, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(targets))
    validation, rest = order[:held_out], order[held_out:]
    train, more, fresh = rest[:images], rest[: 2 * images], rest[2 * images :]
    features = photos.features
    curve = learning_curve(
        features[train], targets[train], features[validation], targets[validation], seed=seed
    )
    if curve is None or not curve.forecast:
        return None
    (forecast,) = curve.forecast
    components = reduce_dimensions(features[np.concatenate([more, fresh])], CURVE_COMPONENTS)
    fitted = fit_ridge(components[: len(more)], targets[more])
    actual = float((fitted.predict(components[len(more) :]) == targets[fresh]).mean())
    return {
        "now": curve.points[-1].accuracy,
        "forecast": forecast.accuracy,
        "actual": actual,
        "covered": float(forecast.low <= actual <= forecast.high),
        "interval": forecast.high - forecast.low,
    }


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the figures over the seeds, as fractions."""
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    error, gain = values["forecast"] - values["actual"], values["now"] - values["actual"]
    figures = {
        **{name: values[name].mean() for name in ("now", "forecast", "actual", "interval")},
        "error": error.mean(),
        "absolute_error": np.abs(error).mean(),
        "absolute_error_of_no_gain": np.abs(gain).mean(),
        "covered": values["covered"].mean(),
    }
    return {name: float(value) for name, value in figures.items()}


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--images", type=int, nargs="+", default=[100, 200, 400, 800])
    parser.add_argument("--held-out", type=int, nargs="+", default=[100, 400])
    parser.add_argument("--seeds", type=int, default=40)
    parser.add_argument("--model", default="embedded")
    args = parser.parse_args()
    with read_photographs(args.photos, frozen_settings(args.model)) as photos:
        for held_out in args.held_out:
            for images in args.images:
                found = [measure(photos, images, held_out, seed) for seed in range(args.seeds)]
                rows = [row for row in found if row is not None]
                figures = summary(rows) if rows else {}
                timing.print_row(images=images, held_out=held_out, forecasts=len(rows), **figures)


if __name__ == "__main__":
    main()
