"""Verified exports: written, opened as another program would, and compared with their run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from swinclf.config import Embed, ExportFormat
from swinclf.device import Precision, default_workers
from swinclf.errors import ExportError, MismatchError
from swinclf.export_formats import FORMATS
from swinclf.exporting.parity import (
    Answers,
    Parity,
    compare_answers,
    differing_metadata,
    worst_parity,
)
from swinclf.exporting.source import ExportSource, starting_license
from swinclf.files import folder_bytes
from swinclf.inference.predictor import InferenceOptions, Predictor, open_predictor
from swinclf.inference.samples import images_to_compare
from swinclf.inference.stream import stream_outputs
from swinclf.models.store import load_model
from swinclf.reporter import Reporter
from swinclf.run_folder import make_folder

DEFAULT_TOLERANCE = 1e-3
# With the preprocessing in the file: ONNX Runtime rounds some pixels to the next of 255 steps.
EMBEDDED_TOLERANCE = 1e-2
BATCHES = (1, 2, 7)  # a batch size that is fixed in the file fails with one of these
SPEED_BATCH, SPEED_S = 8, 1.0
MOST_COMPARED = 256  # images; of many, about as many, evenly spaced


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        export_format: The format.
        path: The file or folder.
        bytes: Its size.
        parity: Comparison of its answers with the run's, both in float32; None if the format does
            not run on this system.
        images_per_second: Speed of the network on this machine; None if it was not measured.
    """

    export_format: ExportFormat
    path: Path
    bytes: int
    parity: Parity | None
    images_per_second: float | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing shows that its answers are not those of the run."""
        return self.parity is None or self.parity.agrees


class RunToExport:
    """A run, and its answers to the images that exports are compared on.

    `model` is a model.safetensors; `data` a folder of images to compare on, None for those stored
    in the run. `tolerance` is the largest allowed difference of a probability, both in float32;
    None for 0.001, or 0.01 if the file preprocesses images, where also a label in 500 may differ.
    The attribute `predictor` is the run's, in float32.

    Raises:
        ExportError: If it is no run, or there are no images.
    """

    def __init__(
        self,
        model: Path,
        data: Path | None,
        options: InferenceOptions,
        tolerance: float | None,
        report: Reporter,
    ) -> None:
        if model.suffix != ".safetensors":
            raise ExportError(
                f"a run, or its model.safetensors, to export; got '{model}'",
                found="a file that is an export itself",
                hint="--run RUN",
            )
        images = images_to_compare(model, data)
        self._images = images[:: max(1, len(images) // MOST_COMPARED)]
        network, card = load_model(model, impl=options.impl)
        self._source = ExportSource(network, card, model, starting_license(model, card.model))
        self._tolerance, self._report = tolerance, report
        fp32 = InferenceOptions(options.impl, options.device, Precision.FP32)
        self.predictor = open_predictor(model, fp32)
        if self.predictor.note:
            report.warn(self.predictor.note)
        with report.track("predicting with the run", len(self._images)) as advance:
            self._reference = self._answers(self.predictor, 32, advance)

    def export(
        self,
        export_format: ExportFormat,
        path: Path,
        *,
        embed: Embed = Embed.NONE,
        with_speed: bool = False,
    ) -> Export:
        """Write a file and compare it with the run.

        `path` is a file or folder. `with_speed` is whether to measure the speed of its network,
        too.

        Raises:
            ExportError: If the format cannot be written here.
        """
        self._report.note(f"writing {self._source.card.model} as {export_format}")
        entry = FORMATS[export_format]
        make_folder(path.parent)
        entry.load_writer()(replace(self._source, embed=embed), path)
        parity, speed = None, None
        if entry.runs_here:
            predictor, parity = self.compare(path)
            speed = measure_speed(predictor) if with_speed else None
        return Export(export_format, path, _size(path), parity, speed)

    def compare(self, path: Path) -> tuple[Predictor, Parity]:
        """Open an exported file and return its parity, at the batch size where it is worst."""
        theirs = open_predictor(path, InferenceOptions(precision=Precision.FP32))
        default = EMBEDDED_TOLERANCE if theirs.takes_any_size else DEFAULT_TOLERANCE
        with self._report.track(
            f"comparing {path.name} with the run", len(BATCHES) * len(self._images)
        ) as advance:
            parity = worst_parity(
                compare_answers(
                    self._reference,
                    self._answers(theirs, size, advance),
                    tolerance=default if self._tolerance is None else self._tolerance,
                    most_flips=-(-len(self._images) // 500) if theirs.takes_any_size else 0,
                )
                for size in BATCHES
            )
        found = getattr(theirs, "metadata", {})
        different = differing_metadata(self._source.metadata(), found)
        return theirs, replace(parity, metadata=different)

    def _answers(
        self,
        predictor: Predictor,
        batch_size: int,
        advance: Callable[[int], None],
    ) -> Answers:
        """Return the answers to the readable images."""
        outputs = stream_outputs(
            predictor, self._images, workers=default_workers(), batch_size=batch_size
        )
        probabilities, ood_scores = [], []
        for _, output in outputs:
            advance(1)
            if output.probabilities is not None:
                probabilities.append(output.probabilities)
                ood_scores.append(output.selective_scores[1])
        if not probabilities:
            raise ExportError(
                "readable images to compare on",
                found=f"{len(self._images)}, none readable",
                hint="--data DIR",
            )
        card = predictor.card
        return Answers(card.classes, np.stack(probabilities), np.array(ood_scores), card.confidence)


def disagreement_error(done: Export) -> MismatchError:
    """Return the error for an export that does not agree with its run."""
    parity = done.parity
    assert parity is not None
    parts = [
        f"a largest difference of {parity.largest:.2g}, {parity.flips} labels differ",
        f"{parity.rejections} rejections differ" if parity.rejections else "",
        f"its metadata differs: {', '.join(parity.metadata)}" if parity.metadata else "",
    ]
    return MismatchError(
        f"'{done.path}' to agree with its run on {parity.images} images, "
        f"within {parity.tolerance:g}",
        found=", ".join(filter(None, parts)),
        hint="a larger --tolerance if that is acceptable; otherwise please report this bug",
    )


def _size(path: Path) -> int:
    """Return the bytes of a file with those of its name that belong to it, or of a folder."""
    if path.is_dir():
        return folder_bytes(path)
    weights = path.with_suffix(".bin")
    is_pair = path.suffix == ".xml" and weights.is_file()
    return path.stat().st_size + (weights.stat().st_size if is_pair else 0)


def measure_speed(predictor: Predictor) -> float:
    """Return images per second of a network alone, in batches of `SPEED_BATCH`."""
    size = predictor.card.preprocess
    shape = (SPEED_BATCH, size.height, size.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    predictor.outputs(pixels)  # the first call is slower
    start, count = perf_counter(), 0
    while not count or perf_counter() - start < SPEED_S:
        predictor.outputs(pixels)
        count += SPEED_BATCH
    return count / (perf_counter() - start)
