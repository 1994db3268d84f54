"""The formats of `swinclf export`, in one table: names of files, writers and predictors.

Writers and predictors are named as text and imported when they are used, as their packages are
optional or slow to import.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, cast

from swinclf.config import ExportFormat
from swinclf.errors import ConfigError
from swinclf.shell_quoting import quoted

# Names of the inputs and outputs of exported graphs.
PIXELS, IMAGES = "pixels", "images"  # resized and normalised; of any size, as decoded
LOGITS, FEATURES, OOD_SCORE = OUTPUTS = "logits", "features", "ood_score"
PROBABILITIES, LABEL, ACCEPTED = "probabilities", "label", "accepted"


@dataclass(frozen=True, kw_only=True)
class FormatEntry:
    """One format."""

    default_name: str  # the file or folder in a run, such as model.onnx
    # the file in that folder that identifies the format; empty if it is one file
    entry_file: str = ""
    weights_file: str = ""  # another one that stands for the folder
    # `module:function(source, path)`, where source is an `exporting.source.ExportSource`
    writer: str
    # `module:callable(path, options)` that returns an `inference.predictor.Predictor` of the
    # written file
    predictor: str
    has_variants: bool = False  # whether --embed and --precision apply to it
    platform: str = ""  # the only `sys.platform` on which the format runs; empty for any

    @property
    def suffix(self) -> str:
        """The suffix of the file, such as .onnx; empty for a folder."""
        return Path(self.default_name).suffix

    @property
    def runs_here(self) -> bool:
        """Whether files of this format can be computed on this machine's system."""
        return self.platform in ("", sys.platform)

    def find(self, path: Path) -> Path | None:
        """Return the file of an export that is opened; None if `path` is not of this format."""
        if not self.entry_file:
            is_ours = path.suffix.lower() == self.suffix and not path.is_dir()
            return path if is_ours else None
        folder = path if path.is_dir() else path.parent
        is_part = path.is_dir() or path.name in (self.entry_file, self.weights_file)
        if not is_part or (self.suffix and folder.suffix.lower() != self.suffix):
            return None
        entry = folder / self.entry_file
        return entry if entry.is_file() else None

    def load_writer(self) -> Callable[..., Any]:
        """Import the writer."""
        return cast(Callable[..., Any], resolve_name(self.writer))

    def load_predictor(self) -> Callable[..., Any]:
        """Import the predictor."""
        return cast(Callable[..., Any], resolve_name(self.predictor))


FORMATS: dict[ExportFormat, FormatEntry] = {
    ExportFormat.ONNX: FormatEntry(
        default_name="model.onnx",
        writer="swinclf.exporting.writers:export_onnx",
        predictor="swinclf.inference.exported_predictor:OnnxPredictor",
        has_variants=True,
    ),
    ExportFormat.TIMM: FormatEntry(
        default_name="model-timm",
        entry_file="swinclf.json",
        weights_file="model.safetensors",
        writer="swinclf.exporting.timm_writer:export_timm",
        predictor="swinclf.inference.exported_predictor:open_timm_folder",
    ),
    ExportFormat.TORCH_EXPORT: FormatEntry(
        default_name="model.pt2",
        writer="swinclf.exporting.writers:export_program",
        predictor="swinclf.inference.exported_predictor:ProgramPredictor",
    ),
    ExportFormat.OPENVINO: FormatEntry(
        default_name="model.xml",
        writer="swinclf.exporting.writers:export_openvino",
        predictor="swinclf.inference.exported_predictor:OpenVinoPredictor",
    ),
    ExportFormat.WEB: FormatEntry(
        default_name="model.html",
        writer="swinclf.exporting.web:export_web",
        predictor="swinclf.inference.exported_predictor:WebPagePredictor",
        has_variants=True,
    ),
    ExportFormat.COREML: FormatEntry(
        default_name="model.mlpackage",
        entry_file="Manifest.json",
        writer="swinclf.exporting.writers:export_coreml",
        predictor="swinclf.inference.exported_predictor:CoreMlPredictor",
        platform="darwin",
    ),
    ExportFormat.LITERT: FormatEntry(
        default_name="model.tflite",
        writer="swinclf.exporting.writers:export_litert",
        predictor="swinclf.inference.exported_predictor:LiteRtPredictor",
    ),
}
MODEL_SUFFIXES = (
    ".safetensors",
    *(one.suffix for one in FORMATS.values() if one.suffix),
)


def check_variants(export_format: ExportFormat, option: str) -> None:
    """Raise a ConfigError unless --embed and --precision apply to a format.

    `option` is what was given, such as `--precision int8`.
    """
    if not FORMATS[export_format].has_variants:
        able = " or ".join(name for name, one in FORMATS.items() if one.has_variants)
        raise ConfigError(
            f"--format {able}, for {option}",
            found=f"--format {export_format}",
            hint=f"swinclf export --format onnx {option}",
        )


def check_suffix(path: Path, export_format: ExportFormat) -> None:
    """Raise a ConfigError unless a path ends as the files of a format do."""
    suffix = FORMATS[export_format].suffix
    if suffix and path.suffix.lower() != suffix:
        raise ConfigError(
            f"an --output that ends in {suffix}, for {export_format}",
            found=f"'{path}'",
            hint=f"--output {quoted(path.with_suffix(suffix))}",
        )


def find_export(path: Path) -> tuple[FormatEntry, Path] | None:
    """Return the format of an exported file or folder and the file to open; None for others."""
    for one in FORMATS.values():
        if entry := one.find(path):
            return one, entry
    return None
