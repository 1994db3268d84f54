"""Cross-validation of a frozen network's head, on cached features.

A fifth of a small dataset is too few images for a score, and too many to train without. So the head
is fitted once per fold to the images of the other folds; together these heads score every image.
The model itself gets a head that is fitted to all images.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch

from swinclf.confidence.ood import fit_feature_space
from swinclf.data.folder import TRAIN
from swinclf.data.split import SplitRule
from swinclf.inference.fit_confidence import LabelledOutputs
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.prepare import build_feature_batches, build_schedule
from swinclf.training.logistic_regression import fit_baseline


def cross_validate(plan: Plan, context: Context) -> LabelledOutputs:
    """Return the outputs of the training images, each by a head fitted without its fold."""
    dataset, extracted, config = plan.dataset, plan.extracted, plan.config
    device = context.hardware.device
    batches = build_feature_batches(plan, device)
    assert batches is not None
    images = dataset.of(TRAIN)
    fold_of = assign_folds(
        [image.label for image in images],
        [extracted.digests[image.path] for image in images],
        folds=config.folds,
        rule=plan.start.extraction.split,
    )
    schedule = build_schedule(plan, device)
    features = extracted.plain_features(images)
    targets = batches.train_targets.cpu().numpy()
    logits = torch.zeros(len(images), len(dataset.classes))
    ood_scores = np.full(len(images), np.nan, np.float32)
    with context.report.track("cross-validating", config.folds) as advance:
        for fold in range(config.folds):
            rows = torch.from_numpy(np.flatnonzero(fold_of == fold))
            others = torch.from_numpy(np.flatnonzero(fold_of != fold))
            part = replace(
                batches,
                train_features=batches.train_features[:, others],
                train_targets=batches.train_targets[others],
            )
            fit = fit_baseline(part, len(dataset.classes), schedule, seed=config.seed)
            with torch.inference_mode():
                logits[rows] = fit.probe(features[rows])
            space = fit_feature_space(features[others].numpy(), targets[others.numpy()])
            if space is not None:
                ood_scores[rows.numpy()] = space.ood_scores(features[rows].numpy())
            advance(1)
    return LabelledOutputs(logits.numpy(), features.numpy(), targets, images, ood_scores)


def assign_folds(
    labels: Sequence[str], digests: Sequence[bytes], *, folds: int, rule: SplitRule
) -> np.ndarray:
    """Return the fold of each image, (N,): each class is divided evenly, duplicates stay together.

    The rule defines the order of the images of a class.
    """
    contents: dict[str, set[bytes]] = defaultdict(set)
    for label, digest in zip(labels, digests, strict=True):
        contents[label].add(digest)
    fold_of: dict[bytes, int] = {}
    for label in sorted(contents):
        for digest in sorted(contents[label] - fold_of.keys(), key=rule.position):
            fold_of[digest] = len(fold_of) % folds
    return np.array([fold_of[digest] for digest in digests])
