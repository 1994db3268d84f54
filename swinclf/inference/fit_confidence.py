"""What a trained model's confidence is worth: measured once, on images it was not fitted to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swinclf.confidence.ood import FeatureSpace, fit_feature_space
from swinclf.confidence.parameters import Confidence, Threshold
from swinclf.confidence.temperature import Calibration, calibrate, thresholds
from swinclf.data.folder import ImageFile
from swinclf.inference.predictor import Outputs, Predictor, softmax
from swinclf.inference.stream import answer_all
from swinclf.reporter import Reporter

HELD_OUT_MOST = 5000  # more images do not change one number, the temperature, any more
LOGITS_MOST = 25_000_000  # values kept at once: 100 MB
TRAINING_MOST = 2000
STRANGEST_SHARE = 0.05  # of the held-out images are stranger than the limit


@dataclass(frozen=True)
class Measured:
    """What was found.

    Attributes:
        confidence: Goes with the weights.
        calibration: For people; None where no images were held out.
        judged: The held-out images that it was measured on.
        known: The training images that they were compared with.
    """

    confidence: Confidence
    calibration: Calibration | None
    judged: Seen | None = None
    known: Seen | None = None


@dataclass(frozen=True)
class Seen:
    """What the network made of labelled images.

    Attributes:
        logits: (N, K).
        features: (N, D); None from a model that does not give them.
        targets: (N,) class indices.
        images: Which they are.
    """

    logits: np.ndarray
    features: np.ndarray | None
    targets: np.ndarray
    images: Sequence[ImageFile] = ()


def measure_confidence(
    predictor: Predictor,
    root: Path,
    held_out: Sequence[ImageFile],
    training: Sequence[ImageFile],
    *,
    seed: int,
    workers: int,
    report: Reporter,
    kept: Callable[[Sequence[ImageFile]], Outputs] | None = None,
) -> Measured:
    """Fits the temperature, the thresholds and the description of the training images.

    Args:
        predictor: The model, with temperature 1.
        root: The folder that the images' paths are relative to.
        held_out: Images that were not trained on, with labels; a sample of them is used.
        training: Images that were; a sample of them is used.
        seed: Of the samples and folds.
        workers: Threads that decode.
        report: Told of progress.
        kept: Gives what the model would, without running it on the images; None runs it.
    """
    if not held_out:
        return Measured(Confidence(), None)

    def see(images: Sequence[ImageFile], task: str) -> Seen | None:
        if kept is None:
            return _see(predictor, root, images, task, workers, report)
        number = {name: index for index, name in enumerate(classes)}
        targets = [number[image.label] for image in images]
        return Seen(*kept(images), np.array(targets), images) if images else None

    classes = predictor.card.classes
    most = max(1, min(HELD_OUT_MOST, LOGITS_MOST // len(classes)))
    judged = see(_sample(held_out, most, seed), "calibrating")
    if judged is None:
        return Measured(Confidence(), None)
    known = see(_sample(training, TRAINING_MOST, seed), "measuring")
    return replace(confidence_of(judged, known, seed=seed), judged=judged, known=known)


def confidence_of(judged: Seen, known: Seen | None, *, seed: int) -> Measured:
    """Fits the temperature, the thresholds and the description of the training images.

    Args:
        judged: Held-out images, at least one.
        known: Training images; None leaves strangeness unmeasured.
        seed: Of the folds.
    """
    calibration = calibrate(judged.logits, judged.targets, seed=seed)
    space, strangest = _space_and_limit(known, judged)
    probabilities = softmax(judged.logits, calibration.temperature)
    right = judged.logits.argmax(axis=1) == judged.targets
    answered = np.ones(len(right), dtype=bool)
    if space is not None and judged.features is not None:
        answered = space.strangeness(judged.features) <= strangest
    confidence = Confidence(
        temperature=calibration.temperature,
        thresholds=_thresholds(probabilities.max(axis=1), right, answered),
        space=space,
        strangest=strangest,
    )
    return Measured(confidence, calibration)


def _thresholds(
    probability: np.ndarray, right: np.ndarray, answered: np.ndarray
) -> tuple[Threshold, ...]:
    """Those for the images that are answered at all, with what share of all it makes."""
    share = float(answered.mean())
    rows = thresholds(probability[answered], right[answered])
    return tuple(row._replace(coverage=row.coverage * share) for row in rows)


def _space_and_limit(known: Seen | None, judged: Seen) -> tuple[FeatureSpace | None, float]:
    """Where the training images lie, and how far off a held-out image may be."""
    if known is None or known.features is None or judged.features is None:
        return None, np.inf
    space = fit_feature_space(known.features, known.targets)
    if space is None:
        return None, np.inf
    return space, float(np.quantile(space.strangeness(judged.features), 1 - STRANGEST_SHARE))


def _sample(images: Sequence[ImageFile], most: int, seed: int) -> list[ImageFile]:
    """At most so many of the images, in their order."""
    if len(images) <= most:
        return list(images)
    rows = np.random.default_rng(seed).choice(len(images), most, replace=False)
    return [images[row] for row in np.sort(rows)]


def _see(
    predictor: Predictor,
    root: Path,
    images: Sequence[ImageFile],
    task: str,
    workers: int,
    report: Reporter,
) -> Seen | None:
    """Runs the network on labelled images; None where none could be read."""
    index = {name: number for number, name in enumerate(predictor.card.classes)}
    logits, features, targets, seen = [], [], [], []
    answers = answer_all(predictor, (root / image.path for image in images), workers=workers)
    with report.track(task, len(images)) as advance:
        for image, (_, answer) in zip(images, answers, strict=True):
            if answer.logits is not None:
                logits.append(answer.logits)
                targets.append(index[image.label])
                seen.append(image)
                if answer.features is not None:
                    features.append(answer.features)
            advance(1)
    if not logits:
        return None
    return Seen(np.stack(logits), np.stack(features) if features else None, np.array(targets), seen)
