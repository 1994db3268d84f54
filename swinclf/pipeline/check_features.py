"""Features of images and their mirror images by the network of `swinclf check --weights`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np

from swinclf.data.folder import FolderIndex
from swinclf.data_quality.near_duplicates import MirroredFeatures
from swinclf.device import StopFlag, choose_hardware
from swinclf.pipeline.extract_features import build_extractor
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import build_starting_model, resolve_machine
from swinclf.preprocess import ValueRange
from swinclf.reporter import Reporter
from swinclf.settings import gather_settings
from swinclf.training.feature_extraction import MIRROR, PLAIN


def extract_duplicate_features(
    weights: Path | None,
    model: str | None,
    index: FolderIndex,
    *,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...],
) -> MirroredFeatures:
    """Extract the features of images and of their mirror images, of those that can be read.

    Features cached by a training of the head are used again. `weights` is a run or a weights file,
    None for those of an `embedded` model; `model` is the network of a weights file, None for the
    run's, else the default of a training.

    Raises:
        WeightsError: If the file does not exist or does not fit the network.
        ModelError: If there is no such network.
        DeviceError: If memory runs out for a single image.
    """
    options = {
        "weights": None if weights is None else str(weights),
        "model": model,
        "freeze_layers": True,
        "workers": workers,
    }
    hardware = choose_hardware()
    settings = resolve_machine(gather_settings(options), hardware, index.root)
    settings, start = build_starting_model(settings, index, None, report)
    start = replace(start, preprocess=replace(start.preprocess, ranges=ranges))
    report.note(
        f"also searching for near-duplicates by features: {settings.config.model} on "
        f"{hardware.device} in {hardware.precision}" + (f", weights '{weights}'" if weights else "")
    )
    paths = [image.path for image in index.images]
    with closing(
        build_extractor(index.root, start, Context(hardware, report, StopFlag()))
    ) as extractor:
        extractor.extract(paths, lambda *_: (PLAIN, MIRROR))
    digests, table = extractor.extracted.digests, extractor.extracted.features
    assert table is not None
    plain, mirrored = (
        table.gather([digests[path] + view for path in paths if path in digests]).numpy()
        for view in (PLAIN, MIRROR)
    )
    rows = np.flatnonzero([path in digests for path in paths])
    return MirroredFeatures(rows, plain, mirrored)
