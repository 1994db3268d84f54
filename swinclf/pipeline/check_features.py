"""What the network of `--weights` sees in images and in their mirror images, to compare them by."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from swinclf.data.folder import FolderIndex
from swinclf.data_quality.feature_neighbours import MirroredFeatures
from swinclf.device import StopFlag, choose_hardware, fixed_batch_size, translate_out_of_memory
from swinclf.models.compute import Computer
from swinclf.pipeline.extract_features import known_features
from swinclf.pipeline.plan import Context
from swinclf.pipeline.start import Start, build_start, settle_machine
from swinclf.preprocess import ValueRange
from swinclf.reporter import Reporter
from swinclf.settings import gather_settings
from swinclf.training.feature_extraction import MIRROR, PLAIN, Looker


@dataclass(frozen=True)
class Viewer:
    """A network that is to look at images, as a training of its head alone would have it look.

    Attributes:
        start: The network, as that training would start: cached features are used again.
        context: Where it runs.
    """

    start: Start
    context: Context

    def see(self, root: Path, paths: Sequence[str], rows: np.ndarray) -> MirroredFeatures:
        """Looks at images, each as it is and in the mirror.

        Args:
            root: What the paths are relative to.
            paths: The images.
            rows: (N,) what each is called in the answer, ascending.

        Returns:
            Of those images that could be read.

        Raises:
            DeviceError: If memory runs out.
        """
        hardware = self.context.hardware
        looker = Looker(
            root,
            self.start.preprocess,
            Computer(self.start.network, hardware),
            hardware,
            workers=self.start.extraction.workers,
            report=self.context.report,
            stop=self.context.stop,
            known=known_features(self.start, self.context),
        )
        with closing(looker), translate_out_of_memory(fixed_batch_size(hardware.device)):
            looker.look(paths, lambda *_: (PLAIN, MIRROR))
        digests, table = looker.seen.digests, looker.seen.features
        assert table is not None
        plain, mirrored = (
            table.gather([digests[path] + view for path in paths if path in digests]).numpy()
            for view in (PLAIN, MIRROR)
        )
        return MirroredFeatures(rows[[path in digests for path in paths]], plain, mirrored)


def open_viewer(
    weights: Path,
    model: str | None,
    index: FolderIndex,
    *,
    workers: int,
    report: Reporter,
    ranges: tuple[ValueRange, ...] = (),
) -> Viewer:
    """Builds the network of a run or of a weights file, before any image is looked at.

    Args:
        weights: A run folder or a weights file.
        model: What network the file is of; None for the run's own, else as a training would choose.
        index: The dataset.
        workers: Threads that read.
        report: Told what looks, and where.
        ranges: Which values of more than 8 bits are black and white.

    Raises:
        WeightsError: If there is no such file, or it does not fit.
        ModelError: If there is no such network.
    """
    asked = {"weights": str(weights), "model": model, "freeze_layers": True, "workers": workers}
    hardware = choose_hardware()
    settings = settle_machine(gather_settings(asked), hardware, index.root)
    settings, start = build_start(settings, index.classes, None, report)
    start = replace(start, preprocess=replace(start.preprocess, ranges=ranges))
    report.note(
        f"{settings.config.model} on {hardware.device} in {hardware.precision} looks for near "
        f"copies, too (weights '{weights}')"
    )
    return Viewer(start, Context(hardware, report, StopFlag()))
