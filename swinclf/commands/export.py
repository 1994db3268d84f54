"""export: write deployable files and verify them against the run on real images."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from swinclf.card import ModelCard
from swinclf.config import Embed, ExportFormat, ExportPrecision
from swinclf.data.folder import TRAIN
from swinclf.data.loader import evenly_spaced, load_for_prediction, map_ahead
from swinclf.device import default_workers
from swinclf.errors import DataError, ExportError, RunError
from swinclf.export_formats import FORMATS, check_suffix, check_variants, find_export
from swinclf.exporting.verified_export import (
    Export,
    RunToExport,
    disagreement_error,
    measure_speed,
)
from swinclf.inference.predictor import RUN_OPTIONS, InferenceOptions
from swinclf.inference.samples import images_to_compare
from swinclf.inference.selection import ALL, match_labels, select_images
from swinclf.models.store import read_card
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import find_data_folder, find_enclosing_run, make_folder, refuse_inside

MOST_COMPARED, MOST_LABELLED, MOST_CALIBRATED = 256, 500, 64  # images
AHEAD = 32  # images decoded in advance


@dataclass(frozen=True)
class Unavailable:
    """A format that could not be written here, or whose file could not be computed."""

    export_format: ExportFormat
    reason: str
    hint: str
    is_broken: bool  # whether that is a failure, not a missing extra or another system


@dataclass(frozen=True)
class AllExports:
    """The exports to every format that can be written here."""

    exports: tuple[Export, ...]  # the exports, also those that do not agree with the run
    unavailable: tuple[Unavailable, ...]  # the other formats
    run_images_per_second: float  # speed of the run's network in float32 on this machine

    @property
    def agree(self) -> bool:
        """Whether there are exports, no format failed, and every export agrees with the run."""
        is_broken = not self.exports or any(one.is_broken for one in self.unavailable)
        return not is_broken and all(one.agrees for one in self.exports)


def export(
    model: Path,
    export_format: ExportFormat,
    output: Path | None = None,
    *,
    embed: Embed = Embed.NONE,
    precision: ExportPrecision = ExportPrecision.FP32,
    tolerance: float | None = None,
    data: Path | None = None,
    options: InferenceOptions = RUN_OPTIONS,
    report: Reporter = SILENT,
) -> Export:
    """Export a run and compare its answers with the file's on real images.

    `model` is a model.safetensors. `output` is a file or folder; None for the format's name next to
    the model. `tolerance` is as of `RunToExport`. `data` is a folder of images to compare on, and
    to calibrate int8 on; None for those stored in the run, or in a lower precision for the run's
    own dataset if it is found.

    Raises:
        MismatchError: If they differ by more, or in labels, rejections or metadata; the file is
            not deleted.
        SwinclfError: If it cannot be done.
    """
    refuse_inside(find_data_folder(model), output, "--output")
    entry = FORMATS[export_format]
    entry.load_writer()  # raises before anything is computed
    path = model.with_name(entry.default_name)
    if embed is not Embed.NONE:
        check_variants(export_format, f"--embed {embed}")
    if precision is not ExportPrecision.FP32:
        check_variants(export_format, f"--precision {precision}")
        path = path.with_stem(f"{path.stem}-{precision}")
    path = output or path
    check_suffix(path, export_format)
    images, pixels = _find_images(model, data, precision), None
    if images.calibration:
        pixels = _load_pixels(images.calibration, read_card(model))
    run = RunToExport(model, images.compared, images.labels, options, tolerance, report)
    done = run.export(export_format, path, embed=embed, precision=precision, pixels=pixels)
    if not done.agrees:
        raise disagreement_error(done)
    return done


def export_all(
    model: Path,
    folder: Path | None = None,
    *,
    tolerance: float | None = None,
    data: Path | None = None,
    options: InferenceOptions = RUN_OPTIONS,
    report: Reporter = SILENT,
) -> AllExports:
    """Export a run to every format that can be written here, and measure speed as well.

    The files are written to `folder`; None for that of the model. Other arguments as for `export`.

    Raises:
        SwinclfError: If the run cannot be read, or there are no images to compare on.
    """
    refuse_inside(find_data_folder(model), folder, "--output")
    images = _find_images(model, data, ExportPrecision.FP32)
    run = RunToExport(model, images.compared, (), options, tolerance, report)
    folder = make_folder(folder) if folder else model.parent
    exports, unavailable = [], []
    for export_format, entry in FORMATS.items():
        try:
            done = run.export(export_format, folder / entry.default_name, with_speed=True)
            exports.append(done)
        except (ExportError, RunError) as error:
            is_broken = isinstance(error, RunError)
            unavailable.append(Unavailable(export_format, error.found, error.hint, is_broken))
    return AllExports(tuple(exports), tuple(unavailable), measure_speed(run.predictor))


@dataclass(frozen=True)
class _Images:
    """Images to compare on, with the class of each or of none, and images to calibrate on."""

    compared: list[str]
    labels: list[str]
    calibration: list[str]


def _find_images(model: Path, data: Path | None, precision: ExportPrecision) -> _Images:
    """Return in a lower precision labelled images if there are any, and others for the calibration.

    Those of the run's own dataset are its held-out images; it is calibrated on training images. A
    cross-validated run has only these, whose accuracy would say nothing.
    """
    if find_export(model):
        raise ExportError(
            f"a run, or its model.safetensors, to export; got '{model}'",
            found="a file that is an export itself",
            hint="--run RUN",
        )
    if precision is ExportPrecision.FP32:
        return _Images(evenly_spaced(images_to_compare(model, data), MOST_COMPARED), [], [])
    card = read_card(model)
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
            compared = evenly_spaced(compared, MOST_LABELLED)
            return _Images(
                [str(index.root / one.path) for one in compared],
                [] if split == TRAIN else [one.label for one in compared],
                [str(index.root / one.path) for one in evenly_spaced(others, MOST_CALIBRATED)],
            )
    images = images_to_compare(model, data)
    return _Images(evenly_spaced(images, MOST_LABELLED), [], evenly_spaced(images, MOST_CALIBRATED))


def _load_pixels(files: Sequence[str], card: ModelCard) -> np.ndarray:
    """Return readable images, (N, H, W, 3) uint8 in the network's size; raise if there are none."""

    def load(file: str) -> np.ndarray | None:
        return load_for_prediction(Path(file), card.preprocess, digest=False).pixels

    loaded = map_ahead(
        load, files, workers=default_workers(), ahead=AHEAD, late=lambda _file, _why: None
    )
    pixels = [one for one in loaded if one is not None]
    if not pixels:
        raise ExportError(
            "readable images to calibrate on",
            found=f"{len(files)}, none readable",
            hint="--data DIR",
        )
    return np.stack(pixels)
