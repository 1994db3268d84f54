"""Cross-validation of a frozen network's head, on cached features.

A fifth of a small dataset is too few images for a score, and too many to train without. So the head
is fitted once per fold to the images of the other folds; together these heads score every image.
The model itself gets a head that is fitted to all images.

Many folds leave each head almost all images. What takes longest, the sweep of the L2, is shared by
the folds of a group, and excludes all images of the group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch

from swinclf.confidence.ood import fit_feature_space
from swinclf.data.folder import TRAIN
from swinclf.data.split import SplitRule
from swinclf.inference.fit_confidence import LabelledOutputs
from swinclf.out_of_memory import translate_out_of_memory
from swinclf.pipeline.plan import Context, Plan
from swinclf.pipeline.prepare import build_feature_batches, build_schedule
from swinclf.training.batches import FeatureBatches
from swinclf.training.logistic_regression import choose_strength, fit_head
from swinclf.training.schedule import Schedule

GROUPS = 10  # of folds, which share the L2, the start of each fit and the feature space


def cross_validate(plan: Plan, context: Context) -> LabelledOutputs:
    """Return the outputs of the training images, each by a head fitted without its fold."""
    dataset, extracted, config = plan.dataset, plan.extracted, plan.config
    device = context.hardware.device
    batches = build_feature_batches(plan, device)
    assert batches is not None
    images, classes = dataset.of(TRAIN), len(dataset.classes)
    digests = [extracted.digests[image.path] for image in images]
    labels = [image.label for image in images]
    fold_of = assign_folds(labels, digests, folds=config.folds, rule=plan.start.extraction.split)
    features = extracted.plain_features(images)
    tracked = context.report.track("cross-validating", config.folds, "folds")
    with translate_out_of_memory(None), tracked as advance:
        logits, ood_scores = score_by_folds(
            batches, features, fold_of, build_schedule(plan, device), config.seed, classes, advance
        )
    targets = batches.train_targets.cpu().numpy()
    return LabelledOutputs(logits, features.numpy(), targets, images, ood_scores)


def score_by_folds(
    batches: FeatureBatches,
    features: torch.Tensor,
    fold_of: np.ndarray,
    schedule: Schedule,
    seed: int,
    classes: int,
    advance: Callable[[int], object],
) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, K) and OOD scores (N,) of the training images, each without its own fold.

    `features` are those of the unmirrored images, (N, D), on the CPU; `fold_of` has the fold of
    each, (N,); `advance` is called after each fold.
    """
    logits = torch.zeros(len(features), classes)
    ood_scores = np.full(len(features), np.nan, np.float32)
    targets = batches.train_targets.cpu().numpy()
    folds = np.unique(fold_of)
    for group in np.unique(folds % GROUPS):
        in_group = fold_of % GROUPS == group
        rng = np.random.default_rng([seed, 2])
        strength, start = choose_strength(_select(batches, ~in_group), classes, schedule, rng)
        space = fit_feature_space(features.numpy()[~in_group], targets[~in_group])
        if space is not None:
            ood_scores[in_group] = space.ood_scores(features.numpy()[in_group])
        for fold in folds[folds % GROUPS == group]:
            others = _select(batches, fold_of != fold)
            fit = fit_head(others, classes, schedule, rng, strength=strength, start=start)
            rows = torch.from_numpy(np.flatnonzero(fold_of == fold))
            with torch.inference_mode():
                logits[rows] = fit.probe(features[rows])
            advance(1)
    return logits.numpy(), ood_scores


def _select(batches: FeatureBatches, is_selected: np.ndarray) -> FeatureBatches:
    """Return the batches of some training images, by a mask (N,)."""
    rows = torch.from_numpy(np.flatnonzero(is_selected))
    features, targets = batches.train_features[:, rows], batches.train_targets[rows]
    return replace(batches, train_features=features, train_targets=targets)


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
