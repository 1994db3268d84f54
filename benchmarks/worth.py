"""Whether the forecast of what more images of one class bring comes true: JSON lines on stdout.

Photographs are described without a network (as where labels are doubted without one). A fifth is
held out; of the others a half is used, in one setting of some classes less; the forecast of twice
as many images of a class is then held against what the class's other photographs really bring.

    python benchmarks/worth.py PHOTOS --splits 12
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from swinclf.data.folder import scan_folder
from swinclf.data.thumbnails import small_squares
from swinclf.evaluation.discriminant import Discriminant, main_directions
from swinclf.evaluation.worth import learning_curve
from swinclf.inference.small_pictures import SIDE, describe, kinds_of_places

SIZES = {"as they are": (1.0, 1.0), "some with fewer": (0.1, 1.0)}


def described(photos: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return (N, R) directions of all photographs, their labels, and the names of these."""
    index = scan_folder(photos)
    paths = [image.path for image in index.images]
    pictures = np.stack(list(small_squares(photos, paths, side_px=SIDE, workers=2)))
    edges, hues = describe(pictures, kinds_of_places(pictures, seed=0))
    features = np.concatenate([main_directions(edges), main_directions(hues)], axis=1)
    labels = np.array([index.classes.index(image.label) for image in index.images])
    return main_directions(features), labels, list(index.classes)


def sure(features: np.ndarray, labels: np.ndarray, rows: np.ndarray, held: np.ndarray) -> float:
    """Return the mean probability of the right class of held-out images."""
    probabilities = Discriminant.fitted(features[rows], labels[rows]).probabilities(features[held])
    return float(probabilities[np.arange(len(held)), labels[held]].mean())


def one_split(
    features: np.ndarray, labels: np.ndarray, names: list[str], seed: int, sizes: tuple[float, ...]
) -> Iterable[tuple[float, float, float, float, bool]]:
    """Yield forecast, interval and truth of each class, and whether it was the first named."""
    random = np.random.default_rng(seed)
    held, rest = np.split(random.permutation(len(labels)), [len(labels) // 5])
    by_class = [rest[labels[rest] == label] for label in range(len(names))]
    shares = random.uniform(*sizes, len(names)) / 2
    used = [rows[: int(share * len(rows))] for rows, share in zip(by_class, shares, strict=True)]
    rows = np.concatenate(used)
    parts = features[rows], labels[rows], features[held], labels[held]
    curve = learning_curve(*parts, names, seed=0)
    assert curve is not None
    now = sure(features, labels, rows, held)
    for place, one in enumerate(curve.classes):
        label = names.index(one.label)
        more = by_class[label][len(used[label]) : 2 * len(used[label])]
        truth = sure(features, labels, np.concatenate([rows, more]), held) - now
        yield one.gain, one.low, one.high, truth, place == 0


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="a folder of class folders")
    parser.add_argument("--splits", type=int, default=12)
    args = parser.parse_args()
    features, labels, names = described(args.photos)
    for setting, sizes in SIZES.items():
        found = [
            one
            for seed in range(args.splits)
            for one in one_split(features, labels, names, seed, sizes)
        ]
        forecast, low, high, truth, is_first = np.array(found).T
        clear = low > 0
        print(
            json.dumps(
                {
                    "classes": setting,
                    "forecasts": len(found),
                    "in_interval": round(float(((low <= truth) & (truth <= high)).mean()), 3),
                    "correlation": round(float(np.corrcoef(forecast, truth)[0, 1]), 3),
                    "forecast_points": round(100 * float(forecast.mean()), 2),
                    "true_points": round(100 * float(truth.mean()), 2),
                    "true_points_of_first_named": round(100 * float(truth[is_first > 0].mean()), 2),
                    "true_points_of_best": round(
                        100 * float(truth.reshape(args.splits, -1).max(axis=1).mean()), 2
                    ),
                    "clear_gains": int(clear.sum()),
                    "of_them_true": int((truth[clear] > 0).sum()),
                }
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
