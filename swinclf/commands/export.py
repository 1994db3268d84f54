"""export: a deployable file, proved equal to the run on real images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swinclf.config import ExportFormat
from swinclf.data.walk import walk_images
from swinclf.device import Precision, default_workers
from swinclf.errors import ExportError, MismatchError
from swinclf.exporting.onnx import export_onnx
from swinclf.exporting.parity import Parity, compare_probabilities
from swinclf.inference.predictor import Asked, Predictor, TorchPredictor, open_predictor
from swinclf.inference.samples import SAMPLE_COUNT, list_samples
from swinclf.inference.stream import answer_all
from swinclf.models.store import load_model
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import RunFolder

DEFAULT_TOLERANCE = 1e-3
BATCHES = (1, 2, 7)  # a batch size that was baked into the file shows at one of these


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        path: The file.
        parity: Its answers beside the run's, both in float32.
        drift: The run's answers in its own precision beside those in float32, where that is
            another.
        run_precision: The run's own precision.
    """

    path: Path
    parity: Parity
    drift: Parity | None
    run_precision: Precision


def export(
    model: Path,
    export_format: ExportFormat,
    output: Path | None = None,
    *,
    tolerance: float = DEFAULT_TOLERANCE,
    data: Path | None = None,
    asked: Asked = Asked(),  # noqa: B008 - a frozen value
    report: Reporter = SILENT,
) -> Export:
    """Writes a run as another format and compares the two on real images.

    Args:
        model: A model.safetensors.
        export_format: What to write.
        output: The file; None for `model.FORMAT` beside the model.
        tolerance: The largest difference of a probability that is allowed, in float32 on both
            sides.
        data: A folder of images to compare on; None for those kept in the run.
        asked: How the run's side is computed.
        report: Told of progress.

    Raises:
        MismatchError: If the answers differ by more; the file is left, for looking into it.
        SwinclfError: If it cannot be done.
    """
    if model.suffix != ".safetensors":
        raise ExportError(
            f"a run, or its model.safetensors, to export; got '{model}'",
            found="a file that is an export itself",
            hint="--run RUN",
        )
    path = output or model.with_suffix(f".{export_format}")
    images = _images(model, data)
    network, card = load_model(model, impl=asked.impl)
    report.note(f"writing {card.model} as {export_format}")
    export_onnx(network, card, path)
    ours = open_predictor(model, Asked(asked.impl, asked.device, Precision.FP32))
    if ours.note:
        report.warn(ours.note)
    theirs = open_predictor(path)
    reference = _answers(ours, images, batch_size=32)
    parity = max(
        (
            compare_probabilities(
                reference, _answers(theirs, images, batch_size=size), tolerance=tolerance
            )
            for size in BATCHES
        ),
        key=lambda one: (one.flips, one.largest),
    )
    if not parity.agrees:
        raise MismatchError(
            f"'{path}' to answer as its run on {parity.images} images, within {tolerance:g}",
            found=f"a largest difference of {parity.largest:.2g}, {parity.flips} labels differ",
            hint="--tolerance if you can live with it, or tell us: it should not happen",
        )
    own = open_predictor(model, asked)
    drift = None
    if isinstance(own, TorchPredictor) and own.hardware.precision is not Precision.FP32:
        drift = compare_probabilities(
            reference, _answers(own, images, batch_size=32), tolerance=1.0
        )
    return Export(path, parity, drift, own.card.precision)


def _images(model: Path, data: Path | None) -> list[str]:
    """The images to compare on."""
    if data is not None:
        images = list(walk_images(str(data)))
        step = max(1, len(images) // 256)
        found, images = f"none in '{data}'", images[::step]
    else:
        images = [str(path) for path in list_samples(RunFolder(model.parent).samples)]
        found = f"none kept beside '{model}'"
    if not images:
        raise ExportError(
            "real images to compare the export with the run on",
            found=found,
            hint=f"--data DIR, any folder of about {SAMPLE_COUNT} images",
        )
    return images


def _answers(predictor: Predictor, images: Sequence[str], *, batch_size: int) -> np.ndarray:
    """(N, K) probabilities; images that cannot be read are left out of the comparison."""
    answers = answer_all(predictor, images, workers=default_workers(), batch_size=batch_size)
    rows = [answer.probabilities for _, answer in answers if answer.probabilities is not None]
    if not rows:
        raise ExportError(
            "readable images to compare on",
            found=f"{len(images)}, none readable",
            hint="--data DIR",
        )
    return np.stack(rows)
