"""Warnings about the result of a training: no better than guessing, or an exploded loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from swinclf.metrics import Metrics
from swinclf.reporter import EpochRow, format_percent

EXPLODED = 3  # times the loss of a uniform guess


def result_warnings(metrics: Metrics, history: Sequence[EpochRow]) -> Iterator[str]:
    """Yield what speaks against using the trained model, a sentence each."""
    if len(metrics.classes) > 1 and metrics.accuracy_ci95[0] <= metrics.majority_accuracy:
        yield (
            f"the accuracy of {format_percent(metrics.accuracy)} on {metrics.images:,} images is "
            "not significantly better than always answering the largest class "
            f"({format_percent(metrics.majority_accuracy)}): do not rely on this model"
        )
    uniform = math.log(max(2, len(metrics.classes)))
    losses = [row.train_loss for row in history]
    if losses and losses[-1] > max(losses[0], EXPLODED * uniform):
        yield (
            f"the training loss has exploded: {losses[-1]:,.4g} in the last epoch, where guessing "
            f"has {uniform:.2g}; try a lower --lr"
        )
    elif metrics.loss > 10 * EXPLODED * uniform:
        yield (
            f"the loss of {metrics.loss:,.4g} is far above that of guessing ({uniform:.2g}); "
            "try a lower --lr"
        )
