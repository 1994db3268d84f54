"""export: write deployable files and verify them against the run on real images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from swinclf.config import Embed, ExportFormat
from swinclf.errors import ExportError, RunError
from swinclf.export_formats import FORMATS, check_suffix, check_variants
from swinclf.exporting.verified_export import (
    Export,
    RunToExport,
    disagreement_error,
    measure_speed,
)
from swinclf.inference.predictor import RUN_OPTIONS, InferenceOptions
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import make_folder


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
    tolerance: float | None = None,
    data: Path | None = None,
    options: InferenceOptions = RUN_OPTIONS,
    report: Reporter = SILENT,
) -> Export:
    """Export a run and compare its answers with the file's on real images.

    `model` is a model.safetensors. `output` is a file or folder; None for the format's name next to
    the model. `embed` is for ONNX only; `tolerance` is as of `RunToExport`. `data` is a folder of
    images to compare on; None for those stored in the run.

    Raises:
        MismatchError: If they differ by more, or in labels, rejections or metadata; the file is
            not deleted.
        SwinclfError: If it cannot be done.
    """
    entry = FORMATS[export_format]
    entry.load_writer()  # raises before anything is computed
    path = output or model.with_name(entry.default_name)
    check_suffix(path, export_format)
    if embed is not Embed.NONE:
        check_variants(export_format, f"--embed {embed}")
    run = RunToExport(model, data, options, tolerance, report)
    done = run.export(export_format, path, embed=embed)
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
    run = RunToExport(model, data, options, tolerance, report)
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
