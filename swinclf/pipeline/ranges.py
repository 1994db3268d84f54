"""The value ranges by which a training scales its images: measured once, then stored in the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swinclf.data.folder import TEST, TRAIN, VAL, FolderIndex
from swinclf.data.images import content_digest
from swinclf.data.value_range import describe_range, measure_ranges
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import StartingModel
from swinclf.preprocess import parse_ranges


def resolve_ranges(
    index: FolderIndex,
    start: StartingModel,
    context: Context,
    saved: Mapping[str, Any] | None,
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
        options = start.extraction
        rule = replace(options.split, val=0.0) if index.has_val else options.split

        def takes(data: bytes) -> bool:
            return rule.expected(content_digest(data)) == TRAIN

        files = [index.root / one.path for one in index.images if one.split not in (VAL, TEST)]
        ranges = measure_ranges(files, workers=options.workers, takes=takes)
    for one in ranges:
        context.report.note(describe_range(one))
    return replace(start, preprocess=replace(start.preprocess, ranges=ranges))
