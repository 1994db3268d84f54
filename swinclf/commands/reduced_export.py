"""export in a lower precision: size, speed, accuracy and changed labels, compared with float32."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from swinclf.card import ModelCard
from swinclf.config import Embed, ExportFormat, ExportPrecision
from swinclf.data.folder import TRAIN
from swinclf.data.loader import load_for_prediction, map_ahead
from swinclf.device import Precision, default_workers
from swinclf.errors import DataError, ExportError, MismatchError
from swinclf.export_formats import FORMATS, check_suffix, check_variants
from swinclf.exporting.quantize import Reduction
from swinclf.exporting.source import ExportSource, starting_license
from swinclf.inference.predictor import RUN_OPTIONS, InferenceOptions, Predictor, open_predictor
from swinclf.inference.samples import images_to_compare
from swinclf.inference.selection import ALL, match_labels, select_images
from swinclf.inference.stream import stream_outputs
from swinclf.models.store import load_model
from swinclf.reporter import SILENT, Reporter, format_percent
from swinclf.run_folder import find_data_folder, find_enclosing_run, make_folder

TOLERANCES = {ExportPrecision.FP16: 0.005, ExportPrecision.INT8: 0.02}
BATCH = 7
MOST_COMPARED, MOST_CALIBRATED = 500, 64
Item = TypeVar("Item")


@dataclass(frozen=True)
class ReducedExport:
    """A finished export in a lower precision, compared with the run in float32."""

    path: Path
    precision: ExportPrecision
    reduction: Reduction  # the effect on size and speed
    tolerance: float  # the largest mean, and share of labels that differ, that is allowed
    images: int  # number of images compared
    mean: float  # mean over the images of the largest difference of a probability, in [0, 1]
    largest: float  # the largest of them
    flips: int  # number of images whose label differs
    accuracy: float | None  # of the file on these images, in [0, 1]; None without labels
    fp32_accuracy: float | None  # the same of the run in float32

    @property
    def agrees(self) -> bool:
        """Whether the difference is within the tolerance; of few images, one label may differ."""
        return self.mean <= self.tolerance and self.flips <= max(1, self.tolerance * self.images)

    def describe(self) -> list[str]:
        """Return accuracy and differences in words, a line each."""
        parts = [
            f"{self.flips} of {self.images} labels differ",
            f"probabilities differ by {self.mean:.2g} on average and {self.largest:.2g} at most",
        ]
        if self.accuracy is not None and self.fp32_accuracy is not None:
            before, after = (format_percent(one) for one in (self.fp32_accuracy, self.accuracy))
            parts.insert(0, f"accuracy {after}, {before} in fp32")
        return parts


def export_reduced(
    model: Path,
    export_format: ExportFormat,
    precision: ExportPrecision,
    output: Path | None = None,
    *,
    embed: Embed = Embed.NONE,
    tolerance: float | None = None,
    data: Path | None = None,
    options: InferenceOptions = RUN_OPTIONS,
    report: Reporter = SILENT,
) -> ReducedExport:
    """Export a run in a lower precision and measure what that costs and gains.

    `model` is a model.safetensors; `output` is None for `model-PRECISION.FORMAT` next to it.
    `tolerance` is the largest allowed mean difference of a probability, and share of labels that
    differ; None for 0.005 in fp16 and 0.02 in int8. `data` is a folder of images to calibrate and
    compare on; None for the run's own dataset, or, if it is not found, the images stored in the
    run.

    Raises:
        MismatchError: If it differs by more; the file is not deleted.
        SwinclfError: If it cannot be done.
    """
    check_variants(export_format, f"--precision {precision}")
    entry = FORMATS[export_format]
    name = Path(entry.default_name)
    path = output or model.with_name(f"{name.stem}-{precision}{name.suffix}")
    check_suffix(path, export_format)
    network, card = load_model(model, impl=options.impl)
    images = _find_images(model, card, data)
    pixels = _load_pixels(images.calibration, card)
    report.note(f"writing {card.model} as {export_format} in {precision}, which takes a minute")
    source = ExportSource(
        network, card, model, starting_license(model, card.model), embed, precision, pixels
    )
    make_folder(path.parent)
    reduction = entry.load_writer()(source, path)
    run = open_predictor(model, InferenceOptions(options.impl, options.device, Precision.FP32))
    done = ReducedExport(
        path,
        precision,
        tolerance=TOLERANCES[precision] if tolerance is None else tolerance,
        reduction=reduction,
        **_compare(run, open_predictor(path), images, report),
    )
    if not done.agrees:
        raise MismatchError(
            f"'{path}' to agree with its run in fp32, within {done.tolerance:g} on average",
            found="; ".join(done.describe()),
            hint=f"--precision {'fp16' if precision is ExportPrecision.INT8 else 'fp32'}, or a "
            "larger --tolerance if that is acceptable",
        )
    return done


def _compare(
    run: Predictor, exported: Predictor, images: _Images, report: Reporter
) -> dict[str, Any]:
    """Return the fields of a `ReducedExport` that compare probabilities, on the readable images."""
    with report.track("comparing with fp32", 2 * len(images.compared)) as advance:
        rows = zip(
            _probabilities(run, images.compared, advance),
            _probabilities(exported, images.compared, advance),
            images.labels or [""] * len(images.compared),
            strict=True,
        )
        known = [row for row in rows if row[0] is not None and row[1] is not None]
    if not known:
        raise ExportError(
            "readable images to compare on",
            found=f"{len(images.compared)}, none readable",
            hint="--data DIR",
        )
    ours, theirs = (np.array([row[column] for row in known]) for column in (0, 1))
    # NaN compares as false: treat it as the largest possible difference.
    differences = np.nan_to_num(np.abs(ours - theirs), nan=1.0).max(axis=1)
    before, after = ours.argmax(axis=1), theirs.argmax(axis=1)
    accuracies: list[float | None] = [None, None]
    if images.labels:
        targets = np.array([run.card.classes.index(label) for *_, label in known])
        accuracies = [float((one == targets).mean()) for one in (before, after)]
    return {
        "images": len(known),
        "mean": float(differences.mean()),
        "largest": float(differences.max()),
        "flips": int((before != after).sum()),
        "fp32_accuracy": accuracies[0],
        "accuracy": accuracies[1],
    }


def _probabilities(
    predictor: Predictor, images: Sequence[str], advance: Callable[[int], None]
) -> list[np.ndarray | None]:
    """Return the (K,) probabilities of each image; None for one that cannot be read."""
    outputs = stream_outputs(predictor, images, workers=default_workers(), batch_size=BATCH)
    rows = []
    for _, output in outputs:
        rows.append(output.probabilities)
        advance(1)
    return rows


@dataclass(frozen=True)
class _Images:
    """Images to compare on, with the class of each or of none, and images to calibrate on."""

    compared: list[str]
    labels: list[str]
    calibration: list[str]


def _find_images(model: Path, card: ModelCard, data: Path | None) -> _Images:
    """Return labelled images if there are any, and others for the calibration.

    Those of the run's own dataset are its held-out images; it is calibrated on training images. A
    cross-validated run has only these, whose accuracy would say nothing.
    """
    root, run = data or find_data_folder(model), find_enclosing_run(model)
    with suppress(DataError):  # not a folder of this model's classes
        if root is not None and root.is_dir():
            index, split, _ = select_images(root, None, run, card, SILENT)
            compared, _ = match_labels(index, card)
            others = compared
            if split == ALL:
                compared, others = compared[::2], compared[1::2] or compared
            elif split != TRAIN:
                others = list(select_images(root, TRAIN, run, card, SILENT).folder.images)
            compared = _evenly(compared, MOST_COMPARED)
            return _Images(
                [str(index.root / one.path) for one in compared],
                [] if split == TRAIN else [one.label for one in compared],
                [str(index.root / one.path) for one in _evenly(others, MOST_CALIBRATED)],
            )
    images = images_to_compare(model, data)
    return _Images(_evenly(images, MOST_COMPARED), [], _evenly(images, MOST_CALIBRATED))


def _evenly(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items, evenly spaced."""
    return list(items[:: max(1, -(-len(items) // most))])


def _load_pixels(files: Sequence[str], card: ModelCard) -> np.ndarray:
    """Return readable images, (N, H, W, 3) uint8 in the network's size; raise if there are none."""

    def load(file: str) -> np.ndarray | None:
        return load_for_prediction(Path(file), card.preprocess, digest=False).pixels

    loaded = map_ahead(
        load, files, workers=default_workers(), ahead=BATCH, late=lambda _file, _why: None
    )
    pixels = [one for one in loaded if one is not None]
    if not pixels:
        raise ExportError(
            "readable images to calibrate on",
            found=f"{len(files)}, none readable",
            hint="--data DIR",
        )
    return np.stack(pixels)
