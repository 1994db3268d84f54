"""Features of images and their mirror images by the network of `swinclf check --weights`."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swinclf.data.folder import FolderIndex
from swinclf.data_quality.near_duplicates import MirroredFeatures
from swinclf.device import StopFlag, choose_hardware
from swinclf.pipeline.extract_features import build_extractor
from swinclf.pipeline.plan import Context
from swinclf.pipeline.starting_model import StartingModel, build_starting_model, resolve_machine
from swinclf.preprocess import ValueRange
from swinclf.reporter import Reporter
from swinclf.settings import gather_settings
from swinclf.training.feature_extraction import MIRROR, PLAIN


@dataclass(frozen=True)
class DuplicateFeatureExtractor:
    """Feature extraction for the search for near-duplicates, as in training a head."""

    start: StartingModel  # the network; features cached by a training of its head are used again
    context: Context

    def extract(self, root: Path, paths: Sequence[str], rows: np.ndarray) -> MirroredFeatures:
        """Extract the features of images and of their mirror images, of those that can be read.

        `rows` are the identifiers of the images in the result, (N,), ascending.

        Raises:
            DeviceError: If memory runs out.
        """
        with closing(build_extractor(root, self.start, self.context)) as extractor:
            extractor.extract(paths, lambda *_: (PLAIN, MIRROR))
        digests, table = extractor.extracted.digests, extractor.extracted.features
        assert table is not None
        plain, mirrored = (
            table.gather([digests[path] + view for path in paths if path in digests]).numpy()
            for view in (PLAIN, MIRROR)
        )
        return MirroredFeatures(rows[[path in digests for path in paths]], plain, mirrored)


def build_duplicate_extractor(
    weights: Path | None,
    model: str | None,
    index: FolderIndex,
    *,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...],
) -> DuplicateFeatureExtractor:
    """Build the network of a run or of a weights file.

    `weights` is None for those of an `embedded` model; `model` is the network of a weights file,
    None for the run's, else the default of a training.

    Raises:
        WeightsError: If the file does not exist or does not fit the network.
        ModelError: If there is no such network.
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
    return DuplicateFeatureExtractor(start, Context(hardware, report, StopFlag()))
