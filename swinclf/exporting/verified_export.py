"""Verified exports: written, opened as another program would, and compared with their run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

import numpy as np

from swinclf.config import Embed, ExportFormat, ExportPrecision
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
from swinclf.exporting.quantize import Reduction
from swinclf.exporting.source import ExportSource, starting_license
from swinclf.files import folder_bytes
from swinclf.inference.predictor import InferenceOptions, Predictor, open_predictor
from swinclf.inference.stream import stream_outputs
from swinclf.models.store import load_model
from swinclf.parallel_batches import divide_threads
from swinclf.reporter import Reporter
from swinclf.run_folder import make_folder

DEFAULT_TOLERANCE = 1e-3
# With the preprocessing in the file: ONNX Runtime rounds some pixels to the next of 255 steps.
EMBEDDED_TOLERANCE = 1e-2
REDUCED_TOLERANCES = {ExportPrecision.FP16: 0.005, ExportPrecision.INT8: 0.02}  # of the mean
BATCHES = (1, 2, 7)  # a batch size that is fixed in the file fails with one of these
SPEED_S = 1.0


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        export_format: The format.
        path: The file or folder.
        bytes: Its size.
        parity: Comparison of its answers with those of the run in float32; None if the format does
            not run on this system.
        images_per_second: Speed of the network on this machine; None if it was not measured.
        precision: The number format of the file.
        reduction: The effect of a lower precision on size and speed; None in float32.
    """

    export_format: ExportFormat
    path: Path
    bytes: int
    parity: Parity | None
    images_per_second: float | None = None
    precision: ExportPrecision = ExportPrecision.FP32
    reduction: Reduction | None = None

    @property
    def agrees(self) -> bool:
        """Whether nothing shows that its answers are not those of the run."""
        return self.parity is None or self.parity.agrees


class RunToExport:
    """A run, and its answers to the images that exports are compared on.

    `model` is a model.safetensors; `labels` are those of the images, or empty. `tolerance` is the
    largest allowed difference of a probability; None for 0.001, or 0.01 if the file preprocesses
    images, where also a label in 500 may differ. In a lower precision it is of the mean, and the
    share of labels that may differ; None for 0.005 in fp16 and 0.02 in int8. The attribute
    `predictor` is the run's, in float32.

    Raises:
        ExportError: If no image can be read.
    """

    def __init__(
        self,
        model: Path,
        images: Sequence[str],
        labels: Sequence[str],
        options: InferenceOptions,
        tolerance: float | None,
        report: Reporter,
    ) -> None:
        self._images, self._labels = images, labels
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
        precision: ExportPrecision = ExportPrecision.FP32,
        pixels: np.ndarray | None = None,
        with_speed: bool = False,
    ) -> Export:
        """Write a file and compare it with the run.

        `path` is a file or folder; `pixels` is `ExportSource.calibration`. `with_speed` is whether
        to measure the speed of its network, too.

        Raises:
            ExportError: If the format cannot be written here.
        """
        what = f"{self._source.card.model} as {export_format} in {precision}"
        self._report.note(f"writing {what}")
        entry = FORMATS[export_format]
        make_folder(path.parent)
        source = replace(self._source, embed=embed, precision=precision, calibration=pixels)
        reduction = entry.load_writer()(source, path)
        parity, speed = None, None
        if entry.runs_here:
            predictor, parity = self.compare(path, precision)
            speed = measure_speed(predictor) if with_speed else None
        return Export(export_format, path, _size(path), parity, speed, precision, reduction)

    def compare(
        self, path: Path, precision: ExportPrecision = ExportPrecision.FP32
    ) -> tuple[Predictor, Parity]:
        """Open an exported file and return its parity, at the batch size where it is worst."""
        theirs = open_predictor(path, InferenceOptions(precision=Precision.FP32))
        default = EMBEDDED_TOLERANCE if theirs.takes_any_size else DEFAULT_TOLERANCE
        default = REDUCED_TOLERANCES.get(precision, default)
        tolerance = default if self._tolerance is None else self._tolerance
        count, is_reduced = len(self._images), precision is not ExportPrecision.FP32
        most_flips = -(-count // 500) if theirs.takes_any_size else 0
        if is_reduced:  # of few images, one label may differ
            most_flips = max(1, int(min(tolerance, 1.0) * count))
        sizes = BATCHES[-1:] if is_reduced else BATCHES
        with self._report.track(
            f"comparing {path.name} with the run", len(sizes) * count
        ) as advance:
            parity = worst_parity(
                compare_answers(
                    self._reference,
                    self._answers(theirs, size, advance),
                    tolerance=tolerance,
                    most_flips=most_flips,
                    is_of_mean=is_reduced,
                )
                for size in sizes
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
        labels: list[str] = []
        for number, (_, output) in enumerate(outputs):
            advance(1)
            if output.probabilities is not None:
                probabilities.append(output.probabilities)
                ood_scores.append(output.selective_scores[1])
                labels += self._labels[number : number + 1]
        if not probabilities:
            raise ExportError(
                "readable images to compare on",
                found=f"{len(self._images)}, none readable",
                hint="--data DIR",
            )
        card = predictor.card
        arrays = np.stack(probabilities), np.array(ood_scores)
        return Answers(card.classes, *arrays, card.confidence, tuple(labels))


def disagreement_error(done: Export) -> MismatchError:
    """Return the error for an export that does not agree with its run."""
    parity = done.parity
    assert parity is not None
    hint = "a larger --tolerance if that is acceptable; otherwise please report this bug"
    if done.precision is not ExportPrecision.FP32 and not parity.metadata:
        higher = "fp16" if done.precision is ExportPrecision.INT8 else "fp32"
        hint = f"--precision {higher}, or a larger --tolerance if that is acceptable"
    return MismatchError(
        f"'{done.path}' to agree with its run in fp32 on {parity.images} images, "
        f"within {parity.tolerance:g}{' on average' if parity.is_of_mean else ''}",
        found="; ".join(parity.describe()),
        hint=hint,
    )


def _size(path: Path) -> int:
    """Return the bytes of a file with those of its name that belong to it, or of a folder."""
    if path.is_dir():
        return folder_bytes(path)
    weights = path.with_suffix(".bin")
    is_pair = path.suffix == ".xml" and weights.is_file()
    return path.stat().st_size + (weights.stat().st_size if is_pair else 0)


def measure_speed(predictor: Predictor, seconds: float = SPEED_S) -> float:
    """Return images per second of a network alone, in as many batches at a time as `predict`.

    Measures for `seconds`, but a batch at least.
    """
    parallel, size = predictor.parallel, predictor.card.preprocess
    shape = (parallel.size, size.height, size.width, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)

    def count_batches(_thread: int) -> int:
        count = 0
        while not count or perf_counter() - start < seconds:
            predictor.outputs(pixels)
            count += 1
        return count

    with divide_threads(parallel), ThreadPoolExecutor(parallel.count) as threads:
        predictor.outputs(pixels)  # the first call is slower
        start = perf_counter()
        batches = sum(threads.map(count_batches, range(parallel.count)))
        return batches * parallel.size / (perf_counter() - start)
