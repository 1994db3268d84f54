"""The value ranges that a training scales its images by: measured once, then those of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from swinclf.data.folder import TEST, VAL, FolderIndex
from swinclf.data.images import content_digest
from swinclf.data.split import split_position
from swinclf.data.value_range import describe_range, measure_ranges
from swinclf.pipeline.plan import Context
from swinclf.pipeline.start import Start
from swinclf.preprocess import parse_ranges


def settle_ranges(
    index: FolderIndex,
    start: Start,
    context: Context,
    saved: Mapping[str, Any] | None,
) -> Start:
    """Return the start with the value ranges of the training images; says them.

    Args:
        index: The images. Held-out ones are not measured.
        start: Of the training.
        context: Where it runs.
        saved: The ranges of the run that is resumed; None for a new one.

    Raises:
        DataError: If the disk is gone.
    """
    if saved is not None:
        ranges = parse_ranges(saved)
    else:
        options = start.extraction

        def takes(data: bytes) -> bool:
            if index.has_val:
                return True
            return split_position(content_digest(data), options.seed) >= options.val_split

        files = [index.root / one.path for one in index.images if one.split not in (VAL, TEST)]
        ranges = measure_ranges(files, workers=options.workers, takes=takes)
    for one in ranges:
        context.report.note(describe_range(one))
    return replace(start, preprocess=replace(start.preprocess, ranges=ranges))
