"""The preprocessing that is measured on the training images: value ranges and colours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from swinclf.data.folder import TEST, TRAIN, VAL, FolderIndex
from swinclf.data.images import content_digest
from swinclf.data.loader import batched, load_batches, load_for_prediction
from swinclf.data.value_range import describe_range, measure_ranges
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import StartingModel
from swinclf.preprocess import MEASURED, Colours, Fit, Preprocess, parse_ranges
from swinclf.settings import Settings

MEASURED_IMAGES = 10_000  # at most, spread evenly
BATCH = 256
LEAST_STD = 0.001  # of images of a single colour


def resolve_ranges(
    index: FolderIndex, start: StartingModel, context: Context, saved: Mapping[str, Any] | None
) -> StartingModel:
    """Return the starting model with the value ranges of the training images; report them.

    Only training images are measured, as far as the split is known before all images have been
    read. `saved` are the ranges of a resumed run; None for a new one.

    Raises:
        DataError: If the disk fails.
    """
    if saved is not None:
        ranges = parse_ranges(saved)
    else:
        rule = start.split_rule(index)

        def takes(data: bytes) -> bool:
            return rule.expected(content_digest(data)) == TRAIN

        files = [index.root / one.path for one in index.images if one.split not in (VAL, TEST)]
        ranges = measure_ranges(files, workers=start.extraction.workers, takes=takes)
    for one in ranges:
        context.report.note(describe_range(one))
    return replace(start, preprocess=replace(start.preprocess, ranges=ranges))


def resolve_colours(
    settings: Settings, start: StartingModel, dataset: FolderIndex, context: Context
) -> StartingModel:
    """Return the starting model with measured colours where the settings ask for them.

    A resumed training measures them again: sums of integers do not depend on the order.
    """
    config, old = settings.config, start.preprocess
    if MEASURED not in (config.mean, config.std):
        return start
    mean, std = measure_colours(dataset.paths(TRAIN), old, workers=start.extraction.workers)
    mean = mean if config.mean == MEASURED else old.mean
    std = std if config.std == MEASURED else old.std
    shown = (" ".join(f"{one:.3f}" for one in colours) for colours in (mean, std))
    context.report.note("colours of the training images: mean {}, deviation {}".format(*shown))
    return replace(start, preprocess=replace(old, mean=mean, std=std))


def measure_colours(
    files: list[Path], preprocess: Preprocess, *, workers: int
) -> tuple[Colours, Colours]:
    """Return mean and standard deviation of red, green and blue, in [0, 1], over all pixels.

    Files that cannot be read are left out. Of the preprocessing, only the geometry is used; an
    image that would be padded is squashed, as padding has the mean colour of another dataset.
    """
    if preprocess.fit is Fit.PAD:
        preprocess = replace(preprocess, fit=Fit.SQUASH)
    chosen = files[:: -(-len(files) // MEASURED_IMAGES)]
    sums, squares, count = np.zeros(3, np.int64), np.zeros(3, np.int64), 0
    for batch in load_batches(
        list(batched(chosen, BATCH)),
        lambda path: load_for_prediction(path, preprocess, digest=False),
        workers=workers,
    ):
        for _, loaded in batch:
            if loaded.pixels is not None:
                pixels = loaded.pixels.reshape(-1, 3).astype(np.int64)
                sums, squares = sums + pixels.sum(0), squares + (pixels**2).sum(0)
                count += len(pixels)
    mean = sums / max(1, count)
    std = np.sqrt(squares / max(1, count) - mean**2)
    red, green, blue = (mean / 255).tolist()
    red_std, green_std, blue_std = np.maximum(std / 255, LEAST_STD).tolist()
    return (red, green, blue), (red_std, green_std, blue_std)
