"""export: write a deployable file and verify it against the run on real images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swinclf.config import Embed, ExportFormat
from swinclf.data.walk import walk_images
from swinclf.device import Precision, default_workers
from swinclf.errors import ExportError, MismatchError
from swinclf.export_formats import FORMATS
from swinclf.exporting.parity import Parity, compare_probabilities
from swinclf.exporting.source import ExportSource
from swinclf.inference.predictor import InferenceOptions, Predictor, TorchPredictor, open_predictor
from swinclf.inference.samples import SAMPLE_COUNT, list_samples
from swinclf.inference.stream import stream_outputs
from swinclf.models.store import load_model
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import RunFolder

DEFAULT_TOLERANCE = 1e-3
# With the preprocessing in the file: ONNX Runtime rounds some pixels to the next of 255 steps.
EMBEDDED_TOLERANCE = 1e-2
BATCHES = (1, 2, 7)  # a batch size that is fixed in the file fails with one of these


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        path: The file.
        parity: Comparison of its probabilities with the run's, both in float32.
        drift: Comparison of the run's own precision with float32; None if it is float32.
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
    embed: Embed = Embed.NONE,
    tolerance: float | None = None,
    data: Path | None = None,
    options: InferenceOptions = InferenceOptions(),  # noqa: B008 - a frozen value
    report: Reporter = SILENT,
) -> Export:
    """Export a run and compare its probabilities with the file's on real images.

    Args:
        model: A model.safetensors.
        export_format: Format of the file.
        output: The file; None for `model.FORMAT` next to the model.
        embed: What the file contains besides the network.
        tolerance: Largest allowed difference of a probability, both in float32; None for 0.001, or
            0.01 if the preprocessing is embedded, where also a label in 500 may differ.
        data: A folder of images to compare on; None for those stored in the run.
        options: Device, precision and backend of the run.
        report: Receives progress.

    Raises:
        MismatchError: If they differ by more; the file is not deleted.
        SwinclfError: If it cannot be done.
    """
    if model.suffix != ".safetensors":
        raise ExportError(
            f"a run, or its model.safetensors, to export; got '{model}'",
            found="a file that is an export itself",
            hint="--run RUN",
        )
    entry = FORMATS[export_format]
    write, path = entry.load_writer(), output or model.with_name(entry.default_name)
    images = _images(model, data)
    network, card = load_model(model, impl=options.impl)
    report.note(f"writing {card.model} as {export_format}")
    write(ExportSource(network, card, model, embed=embed), path)
    ours = open_predictor(model, InferenceOptions(options.impl, options.device, Precision.FP32))
    if ours.note:
        report.warn(ours.note)
    theirs = open_predictor(entry.file_to_open(path))
    if tolerance is None:
        tolerance = EMBEDDED_TOLERANCE if theirs.takes_any_size else DEFAULT_TOLERANCE
    passes = 1 + len(BATCHES)
    with report.track("comparing with the run", passes * len(images)) as advance:
        reference = _probabilities(ours, images, batch_size=32, advance=advance)
        parity = _worst_parity(reference, theirs, images, tolerance, advance)
    if not parity.agrees:
        raise MismatchError(
            f"'{path}' to agree with its run on {parity.images} images, within {tolerance:g}",
            found=f"a largest difference of {parity.largest:.2g}, {parity.flips} labels differ",
            hint="a larger --tolerance if that is acceptable; otherwise please report this bug",
        )
    own = open_predictor(model, options)
    drift = None
    if isinstance(own, TorchPredictor) and own.hardware.precision is not Precision.FP32:
        drift = compare_probabilities(
            reference, _probabilities(own, images, batch_size=32), tolerance=1.0
        )
    return Export(path, parity, drift, own.card.precision)


def _worst_parity(
    reference: np.ndarray,
    exported: Predictor,
    images: Sequence[str],
    tolerance: float,
    advance: Callable[[int], None],
) -> Parity:
    """Return the parity of an exported file at the batch size at which it differs most."""
    return max(
        (
            compare_probabilities(
                reference,
                _probabilities(exported, images, batch_size=size, advance=advance),
                tolerance=tolerance,
                most_flips=-(-len(images) // 500) if exported.takes_any_size else 0,
            )
            for size in BATCHES
        ),
        key=lambda one: (one.flips, one.largest),
    )


def _images(model: Path, data: Path | None) -> list[str]:
    if data is not None:
        images = list(walk_images(str(data)))
        step = max(1, len(images) // 256)
        found, images = f"none in '{data}'", images[::step]
    else:
        images = [str(path) for path in list_samples(RunFolder(model.parent).samples)]
        found = f"none stored next to '{model}'"
    if not images:
        raise ExportError(
            "real images to compare the export with the run on",
            found=found,
            hint=f"--data DIR, any folder of about {SAMPLE_COUNT} images",
        )
    return images


def _probabilities(
    predictor: Predictor,
    images: Sequence[str],
    *,
    batch_size: int,
    advance: Callable[[int], None] = lambda _done: None,
) -> np.ndarray:
    """Return the (N, K) probabilities of the readable images."""
    outputs = stream_outputs(predictor, images, workers=default_workers(), batch_size=batch_size)
    rows = []
    for _, output in outputs:
        advance(1)
        if output.probabilities is not None:
            rows.append(output.probabilities)
    if not rows:
        raise ExportError(
            "readable images to compare on",
            found=f"{len(images)}, none readable",
            hint="--data DIR",
        )
    return np.stack(rows)
