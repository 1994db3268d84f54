"""Fit the confidence of a trained model, on images that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swinclf.confidence.ood import FeatureSpace, fit_feature_space
from swinclf.confidence.selective import Confidence
from swinclf.confidence.temperature import Calibration, calibrate, fit_thresholds
from swinclf.data.folder import ImageFile
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.inference.stream import stream_outputs
from swinclf.reporter import Reporter

MAX_HELD_OUT = 5000  # more images hardly change a single number, the temperature
MAX_LOGITS = 25_000_000  # float32 values in memory: 100 MB
MAX_TRAINING = 2000
OOD_SHARE = 0.05  # of the held-out images score above the out-of-distribution threshold


@dataclass(frozen=True)
class LabelledOutputs:
    """The outputs of a network for labelled images."""

    logits: np.ndarray  # (N, K)
    features: np.ndarray | None  # (N, D); None from a model that does not give them
    targets: np.ndarray  # (N,) class indices
    images: Sequence[ImageFile] = ()  # the images, in the order of the rows
    # (N,), nan without a feature space; None to compute them by the model's
    ood_scores: np.ndarray | None = None


@dataclass(frozen=True)
class ConfidenceFit:
    """The fitted confidence and the outputs that it was fitted on."""

    confidence: Confidence  # what the model file stores
    calibration: Calibration | None  # for the report; None where no images were held out
    held_out: LabelledOutputs | None = None  # outputs for the sample of held-out images
    training: LabelledOutputs | None = None  # outputs for the sample of training images


def count_fitted_images(held_out: int, training: int, class_count: int) -> int:
    """Return how many images the model runs on, of so many held-out and training images."""
    return min(held_out, _limit(class_count)) + min(training, MAX_TRAINING) if held_out else 0


def _limit(class_count: int) -> int:
    """Return the largest number of held-out images whose logits are computed."""
    return max(1, min(MAX_HELD_OUT, MAX_LOGITS // class_count))


def fit_confidence(
    predictor: Predictor,
    root: Path,
    held_out: Sequence[ImageFile] | LabelledOutputs,
    training: Sequence[ImageFile],
    *,
    seed: int,
    workers: int,
    report: Reporter,
    cached_outputs: Callable[[Sequence[ImageFile]], Outputs] | None = None,
) -> ConfidenceFit:
    """Fit temperature, thresholds and feature space to samples of the images.

    The predictor's temperature is 1; the images' paths are relative to `root`. `held_out` are
    labelled images that were not trained on, or their outputs. `cached_outputs` returns the model's
    outputs without running it; None runs it.
    """
    if not held_out:
        return ConfidenceFit(Confidence(), None)

    def outputs_of(images: Sequence[ImageFile], task: str) -> LabelledOutputs | None:
        if cached_outputs is None:
            return _run_network(predictor, root, images, task, workers, report)
        index = {name: number for number, name in enumerate(classes)}
        targets = np.array([index[image.label] for image in images])
        if not images:
            return None
        outputs = cached_outputs(images)
        return LabelledOutputs(outputs.logits, outputs.features, targets, images)

    classes = predictor.card.classes
    if isinstance(held_out, LabelledOutputs):
        held_out_outputs: LabelledOutputs | None = held_out
    else:
        sample = _sample(held_out, _limit(len(classes)), seed)
        held_out_outputs = outputs_of(sample, "calibrating")
    if held_out_outputs is None:
        return ConfidenceFit(Confidence(), None)
    training_outputs = outputs_of(_sample(training, MAX_TRAINING, seed), "measuring")
    logits, targets = held_out_outputs.logits, held_out_outputs.targets
    calibration = calibrate(logits, targets, seed=seed)
    space, ood_scores, ood_threshold = _fit_space(training_outputs, held_out_outputs)
    probabilities = softmax(logits, calibration.temperature)
    is_right = logits.argmax(axis=1) == targets
    is_accepted = np.nan_to_num(ood_scores) <= ood_threshold
    # Fitted to images in distribution; the coverage is of all.
    rows = fit_thresholds(probabilities.max(axis=1)[is_accepted], is_right[is_accepted])
    share = float(is_accepted.mean())
    confidence = Confidence(
        temperature=calibration.temperature,
        thresholds=tuple(row._replace(coverage=row.coverage * share) for row in rows),
        space=space,
        ood_threshold=ood_threshold,
    )
    return ConfidenceFit(confidence, calibration, held_out_outputs, training_outputs)


def _fit_space(
    training: LabelledOutputs | None, held_out: LabelledOutputs
) -> tuple[FeatureSpace | None, np.ndarray, float]:
    """Return the feature space, the (N,) scores of held-out images, and the threshold.

    Without a feature space: None, nan and inf.
    """
    none = None, np.full(len(held_out.targets), np.nan), np.inf
    if training is None or training.features is None or held_out.features is None:
        return none
    space = fit_feature_space(training.features, training.targets)
    if space is None:
        return none
    scores = held_out.ood_scores
    if scores is None:
        scores = space.ood_scores(held_out.features)
    if np.isnan(scores).any():
        return none
    return space, scores, float(np.quantile(scores, 1 - OOD_SHARE))


def _sample(images: Sequence[ImageFile], count: int, seed: int) -> list[ImageFile]:
    """Return a random sample of at most `count` images, in their order."""
    if len(images) <= count:
        return list(images)
    rows = np.random.default_rng(seed).choice(len(images), count, replace=False)
    return [images[row] for row in np.sort(rows)]


def _run_network(
    predictor: Predictor,
    root: Path,
    images: Sequence[ImageFile],
    task: str,
    workers: int,
    report: Reporter,
) -> LabelledOutputs | None:
    """Return the outputs for the readable images; None where there are none."""
    index = {name: number for number, name in enumerate(predictor.card.classes)}
    logits, features, targets, readable = [], [], [], []
    outputs = stream_outputs(predictor, (root / image.path for image in images), workers=workers)
    with report.track(task, len(images)) as advance:
        for image, (_, output) in zip(images, outputs, strict=True):
            if output.logits is not None:
                logits.append(output.logits)
                targets.append(index[image.label])
                readable.append(image)
                if output.features is not None:
                    features.append(output.features)
            advance(1)
    if not logits:
        return None
    stacked = np.stack(features) if features else None
    return LabelledOutputs(np.stack(logits), stacked, np.array(targets), readable)
