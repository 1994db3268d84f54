"""The formats of `swinclf export`, in one table: names of files, extras, writers and predictors.

Writers and predictors are named as text and imported when they are used, as their packages are
optional or slow to import.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from swinclf.config import ExportFormat
from swinclf.errors import ExportError

# Names of the inputs and outputs of exported graphs.
PIXELS, IMAGES = "pixels", "images"  # resized and normalised; of any size, as decoded
LOGITS, FEATURES = "logits", "features"
PROBABILITIES, LABEL, ACCEPTED = "probabilities", "label", "accepted"


@dataclass(frozen=True, kw_only=True)
class FormatEntry:
    """One format.

    Attributes:
        default_name: The file or folder in a run, such as model.onnx.
        entry_file: The file in that folder that stands for the whole; empty if it is one file.
        writer: `module:function(source, path)`, where source is an `exporting.source.ExportSource`;
            empty if the format cannot be written.
        predictor: `module:callable(path, options)` that returns an `inference.predictor.Predictor`
            of the written file; empty if it cannot run here.
        extra: The optional extra of swinclf that it needs; may be empty.
        has_precisions: Whether it can be written in fp16 and int8.
        reason: Why the format cannot be written; may be empty.
        hint: What to do instead, if it cannot be written.
    """

    default_name: str
    entry_file: str = ""
    writer: str = ""
    predictor: str = ""
    extra: str = ""
    has_precisions: bool = False
    reason: str = ""
    hint: str = ""

    @property
    def suffix(self) -> str:
        """The suffix of the file that is opened as RUN, such as .onnx."""
        return Path(self.entry_file or self.default_name).suffix

    def file_to_open(self, output: Path) -> Path:
        """Return the file that is opened as RUN of an export written to `output`."""
        return output / self.entry_file if self.entry_file else output

    def load_writer(self) -> Callable[..., Any]:
        """Import the writer.

        Raises:
            ExportError: If the format cannot be written.
        """
        if not self.writer:
            raise ExportError(
                "a format that can be written here", found=self.reason, hint=self.hint
            )
        return _imported(self.writer)

    def load_predictor(self) -> Callable[..., Any]:
        """Import the predictor."""
        return _imported(self.predictor)


FORMATS: dict[ExportFormat, FormatEntry] = {
    ExportFormat.ONNX: FormatEntry(
        default_name="model.onnx",
        writer="swinclf.exporting.onnx:export_onnx",
        predictor="swinclf.inference.predictor:OnnxPredictor",
        extra="onnx",
        has_precisions=True,
    ),
    ExportFormat.WEB: FormatEntry(
        default_name="model.html",
        writer="swinclf.exporting.web:export_web",
        predictor="swinclf.inference.web_page:open_web_page",
        extra="onnx",
        has_precisions=True,
    ),
}
MODEL_SUFFIXES = (".safetensors", *(one.suffix for one in FORMATS.values() if one.predictor))


def format_of(path: Path) -> FormatEntry | None:
    """Return the format of an exported file by its suffix; None if it is not one."""
    suffix = path.suffix.lower()
    return next((one for one in FORMATS.values() if one.predictor and one.suffix == suffix), None)


def _imported(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    found: Callable[..., Any] = getattr(import_module(module), attribute)
    return found
