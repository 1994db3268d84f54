"""Do the figures of a run hold on fresh photographs? JSON lines on stdout.

For each seed, some photographs are drawn and given to `swinclf train`, with a frozen network; all
others are fresh. For each number of held-out images and each way of training, a row states, over
the seeds: the reported accuracy less that of fresh photographs, how often the interval of 95 %
covers that of fresh ones, and how often the predictions that `--reject` accepts reach their target.

    python benchmarks/held_out.py PHOTOS
    python benchmarks/held_out.py PHOTOS --held-out 40 --seeds 200 --way folds

With `--fast`, accuracy and interval only, from cached features, without writing runs. The first
seed is compared with `swinclf train`.

    python benchmarks/held_out.py PHOTOS --held-out 40 --seeds 1000 --way probe folds --fast
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import timing
import torch

import swinclf
from swinclf.commands.train import Run
from swinclf.confidence.selective import SelectiveScores, is_rejected
from swinclf.data.split import SplitRule
from swinclf.device import Hardware, Precision, StopFlag
from swinclf.errors import RunError
from swinclf.inference.predictor import InferenceOptions, TorchPredictor, softmax
from swinclf.metrics import (
    cross_validation_interval,
    expected_calibration_error,
    wilson_interval,
)
from swinclf.pipeline.cross_validation import cross_validate
from swinclf.pipeline.plan import Context, Plan, report_plan
from swinclf.pipeline.prepare import build_feature_batches, build_schedule
from swinclf.reporter import SILENT
from swinclf.training.logistic_regression import fit_baseline

WAYS: Mapping[str, Mapping[str, Any]] = {
    "probe": {"folds": 0},  # the default from 300 images on
    "folds": {"folds": 40},  # the default below
    "ten folds": {"folds": 10},
    "five folds": {"folds": 5},
    "epochs": {"epochs": 60},  # of AdamW; the best one is selected
}
PRECISIONS = (0.8, 0.9)
HELD_OUT = 0.2


@dataclass(frozen=True)
class Photographs:
    """All photographs, with the features of the frozen network.

    Attributes:
        files: The files.
        labels: The class of each.
        features: (N, D).
        weights: The run with that network.
        plan: That of the run, with the features of mirror images, too.
    """

    files: Sequence[Path]
    labels: Sequence[str]
    features: np.ndarray
    weights: Path
    plan: Plan

    def link(self, rows: Sequence[int], folder: Path) -> Path:
        """Return a dataset in `folder`, of links to some photographs."""
        for row in rows:
            link = folder / self.labels[row] / f"{row}{self.files[row].suffix}"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(self.files[row])
        return folder

    def logits(self, predictor: TorchPredictor, rows: Sequence[int]) -> np.ndarray:
        """Return the logits of some photographs, (N, K), by the head of a trained model."""
        head = predictor.network.get_classifier()  # type: ignore[operator]
        weight, bias = head.weight.detach().numpy(), head.bias.detach().numpy()
        logits: np.ndarray = self.features[rows] @ weight.T + bias
        return logits


def frozen_settings(model: str, img_size: int = 32) -> dict[str, Any]:
    """Return settings: the embedded network, frozen, or a small one of random weights."""
    settings: dict[str, Any] = {"model": model, "freeze_layers": True}
    if model != "embedded":
        settings |= {"pretrained": False, "img_size": img_size}
    return settings


@contextmanager
def own_cache() -> Iterator[Path]:
    """A folder for what is made, with a cache of features unless the environment names one."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("SWINCLF_CACHE_DIR", str(Path(folder) / "cache"))
        yield Path(folder)


@contextmanager
def read_photographs(folder: Path, settings: Mapping[str, Any]) -> Iterator[Photographs]:
    """The photographs of a folder, with their features by a first training."""
    with own_cache() as scratch:
        # With folds, all of them are trained on, so that there are mirror images of all.
        with mock.patch("swinclf.commands.train.report_plan", wraps=report_plan) as reported:
            run = swinclf.train(folder, folds=2, out=str(scratch / "first"), **settings)
        plan: Plan = reported.call_args.args[0]
        files = [plan.dataset.root / image.path for image in plan.dataset.images]
        labels = [image.label for image in plan.dataset.images]
        features = swinclf.load(run.path).embed(files)
        yield Photographs(files, labels, np.asarray(features), run.path, plan)


def draw(photos: Photographs, count: int, seed: int) -> tuple[list[int], list[int]]:
    """Return the photographs to train on, and all others."""
    order = list(range(len(photos.files)))
    random.Random(seed).shuffle(order)
    return order[:count], order[count:]


def measure(
    photos: Photographs, count: int, way: str, settings: Mapping[str, Any], seed: int
) -> dict[str, float]:
    """Train on some photographs and compare the figures of the run with those of all others."""
    drawn, fresh = draw(photos, count, seed)
    with tempfile.TemporaryDirectory() as folder:
        run = swinclf.train(
            photos.link(drawn, Path(folder) / "data"),
            **{**settings, **WAYS[way], "seed": seed, "out": str(Path(folder) / "runs")},
        )
        return _compare(run, photos, fresh)


def measure_fast(
    photos: Photographs, count: int, way: str, _: Mapping[str, Any], seed: int
) -> dict[str, float]:
    """Return what `measure` does of accuracy and interval, of a linear probe, without files."""
    plan, folds = photos.plan, WAYS[way]["folds"]
    drawn, fresh = draw(photos, count, seed)
    drawn.sort(key=lambda row: f"{photos.labels[row]}/{row}{photos.files[row].suffix}")
    digests = [plan.extracted.digests[plan.dataset.images[row].path] for row in drawn]
    rule = SplitRule(0.0 if folds else HELD_OUT, seed=seed)
    splits = rule.assign([photos.labels[row] for row in drawn], digests)
    images = tuple(
        replace(plan.dataset.images[row], split=split)
        for row, split in zip(drawn, splits, strict=True)
    )
    plan = replace(
        plan,
        config=replace(plan.config, seed=seed, folds=folds),
        dataset=replace(plan.dataset, images=images),
        start=replace(plan.start, extraction=replace(plan.start.extraction, split=rule)),
    )
    batches, classes = build_feature_batches(plan, "cpu"), plan.dataset.classes
    assert batches is not None
    head = fit_baseline(batches, len(classes), build_schedule(plan, "cpu"), seed=seed)
    if folds:
        context = Context(Hardware("cpu", Precision.FP32, ""), SILENT, StopFlag())
        outputs = cross_validate(plan, context)
        reported = float((outputs.logits.argmax(axis=1) == outputs.targets).mean())
        low, high = cross_validation_interval(reported, len(drawn), folds)
    else:
        reported, held_out = head.accuracy, batches.val_count
        low, high = wilson_interval(round(reported * held_out), held_out)
    with torch.inference_mode():
        predicted = head.probe(torch.from_numpy(photos.features[fresh])).argmax(dim=1).numpy()
    right = predicted == [classes.index(photos.labels[row]) for row in fresh]
    return {
        "reported": reported,
        "fresh": float(right.mean()),
        "covered": float(low <= right.mean() <= high),
    }


def check_fast(photos: Photographs, count: int, way: str, settings: Mapping[str, Any]) -> None:
    """Stop if the fast measurement of the first seed differs from that of a training."""
    whole = measure(photos, count, way, settings, seed=0)
    for name, value in measure_fast(photos, count, way, settings, seed=0).items():
        if abs(value - whole[name]) > 1e-3:
            raise SystemExit(f"--fast, {way}: {name} is {value}, of a training {whole[name]}")


def _compare(run: Run, photos: Photographs, fresh: Sequence[int]) -> dict[str, float]:
    """Return the reported and the fresh figures of a run."""
    predictor = TorchPredictor.open(run.folder.model, InferenceOptions(device="cpu"))
    confidence, features = predictor.card.confidence, photos.features[fresh]
    logits = photos.logits(predictor, fresh)
    probabilities = softmax(logits, confidence.temperature)
    classes = predictor.card.classes
    targets = np.array([classes.index(photos.labels[row]) for row in fresh])
    right = probabilities.argmax(axis=1) == targets
    low, high = run.metrics.accuracy_ci95
    row = {
        "reported": run.metrics.accuracy,
        "fresh": right.mean(),
        "covered": low <= right.mean() <= high,
        "temperature": confidence.temperature,
        "ece": expected_calibration_error(probabilities.max(axis=1), right),
        "ece_unscaled": expected_calibration_error(softmax(logits, 1.0).max(axis=1), right),
    }
    ood_scores = np.full(len(fresh), np.nan)
    if confidence.space is not None:
        ood_scores = confidence.space.ood_scores(features)
    scores = SelectiveScores(probabilities.max(axis=1), ood_scores)
    for precision in PRECISIONS:
        try:
            accepted = ~is_rejected(confidence, precision, scores)
        except RunError:  # refused: nothing is promised
            continue
        row[f"precision_{precision}"] = right[accepted].mean()
        row[f"accepted_{precision}"] = accepted.mean()
    return {name: float(value) for name, value in row.items()}


def summary(rows: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """Return means over the seeds."""

    def mean(name: str) -> float | None:
        values = [row[name] for row in rows if name in row]
        return float(np.mean(values)) if values else None

    gaps = np.array([row["reported"] - row["fresh"] for row in rows])
    record: dict[str, object] = {
        name: mean(name) for name in ("reported", "fresh", "covered", "ece", "ece_unscaled")
    }
    record["reported_minus_fresh"] = float(gaps.mean())
    record["standard_error"] = float(gaps.std(ddof=1) / len(gaps) ** 0.5)
    if "temperature" not in rows[0]:  # a fast measurement
        return record
    record["scaled"] = sum(row["temperature"] != 1 for row in rows)
    for precision in PRECISIONS:
        reached = [row.get(f"precision_{precision}") for row in rows]
        promised = [value for value in reached if value is not None]
        record[f"reject_{precision}"] = {
            "offered": len(promised),
            "reached": sum(value >= precision for value in promised),
            "lowest": min(promised, default=None),
            "accepted": mean(f"accepted_{precision}"),
        }
    return record


def main() -> None:
    """Measure what was asked for."""
    parser = timing.plain_parser(__doc__, "a folder of class folders")
    parser.add_argument("--held-out", type=int, nargs="+", default=[40, 200, 400])
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--random-weights", action="store_true", help="a small ViT, untrained")
    parser.add_argument("--fast", action="store_true", help="accuracy and interval only")
    args = parser.parse_args()
    ways = [way for way in args.way if not args.fast or "folds" in WAYS[way]]
    model = "vit_tiny_patch16_224" if args.random_weights else "embedded"
    settings = frozen_settings(model, img_size=64)
    with read_photographs(args.photos, settings) as photos:
        if args.random_weights:  # the same for every seed: the features are of one network
            settings = {"weights": str(photos.weights), "freeze_layers": True}
        for held_out in args.held_out:
            count = round(held_out / HELD_OUT)
            for way in ways:
                one = partial(measure_fast if args.fast else measure, photos, count, way, settings)
                if args.fast:
                    check_fast(photos, count, way, settings)
                rows = [one(seed) for seed in range(args.seeds)]
                timing.print_row(held_out=held_out, way=way, seeds=args.seeds, **summary(rows))


if __name__ == "__main__":
    main()
