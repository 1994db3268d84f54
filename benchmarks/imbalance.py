"""Which weights of the classes help a rare class? JSON lines on stdout.

For each seed, photographs are drawn so that one class, each in turn, has a tenth of the images of
the others, and a head is trained on a frozen network with each kind of `--class-weights`. A row
states, over the seeds and on fresh photographs: accuracy, balanced accuracy and the recall of the
rare class.

    python benchmarks/imbalance.py PHOTOS
    python benchmarks/imbalance.py PHOTOS --most 400 --ratio 20
"""

from __future__ import annotations

import random
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timing
from held_out import Photographs, frozen_settings, read_photographs

import swinclf
from swinclf.config import ClassWeights
from swinclf.inference.predictor import InferenceOptions, TorchPredictor


def draw(photos: Photographs, rare: str, most: int, ratio: int, seed: int) -> list[int]:
    """Return `most` photographs of each class, and a fraction of these of the rare one."""
    rows: dict[str, list[int]] = defaultdict(list)
    for row, label in enumerate(photos.labels):
        rows[label].append(row)
    drawn = []
    for label, own in rows.items():
        random.Random(seed).shuffle(own)
        drawn += own[: most // ratio if label == rare else most]
    return drawn


def measure(
    photos: Photographs,
    drawn: Sequence[int],
    rare: str,
    weights: ClassWeights,
    settings: Mapping[str, Any],
) -> dict[str, float]:
    """Train with some weights of the classes and score all other photographs."""
    with tempfile.TemporaryDirectory() as folder:
        data = photos.link(drawn, Path(folder) / "data")
        out = str(Path(folder) / "runs")
        run = swinclf.train(data, **{**settings, "class_weights": weights, "out": out})
        predictor = TorchPredictor.open(run.folder.model, InferenceOptions(device="cpu"))
    fresh = np.setdiff1d(np.arange(len(photos.files)), drawn).tolist()
    logits = photos.logits(predictor, fresh)
    classes = np.array(predictor.card.classes)
    labels = np.array(photos.labels)[fresh]
    right = classes[logits.argmax(axis=1)] == labels
    recalls = {name: float(right[labels == name].mean()) for name in classes}
    return {
        "accuracy": float(right.mean()),
        "balanced_accuracy": float(np.mean(list(recalls.values()))),
        "recall_of_rare": recalls[rare],
    }


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--most", type=int, default=160, help="photographs of the other classes")
    parser.add_argument("--ratio", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=2, help="for each rare class")
    parser.add_argument("--model", default="embedded", help="another one has random weights")
    args = parser.parse_args()
    settings = frozen_settings(args.model)
    rows: dict[ClassWeights, list[dict[str, float]]] = defaultdict(list)
    with read_photographs(args.photos, settings) as photos:
        for seed in range(args.seeds):
            for rare in sorted(set(photos.labels)):
                drawn = draw(photos, rare, args.most, args.ratio, seed)
                for weights in ClassWeights:
                    rows[weights].append(measure(photos, drawn, rare, weights, settings))
    for weights, own in rows.items():
        means = {name: float(np.mean([row[name] for row in own])) for name in own[0]}
        timing.print_row(class_weights=weights, trainings=len(own), **means)


if __name__ == "__main__":
    main()
