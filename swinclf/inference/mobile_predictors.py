"""Files for phones and small boards as predictors: LiteRT anywhere, Core ML on macOS.

Both compute one image at a time: their graphs have fixed shapes.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from swinclf.config import ExportFormat
from swinclf.device import available_cores, import_extra
from swinclf.errors import DeviceError
from swinclf.export_formats import FEATURES, LOGITS, OOD_SCORE, PIXELS
from swinclf.inference.exported_predictor import ExportedPredictor

OUTPUTS = (LOGITS, FEATURES, OOD_SCORE)
_MOST_METADATA = 64 * 1024**2  # bytes
_STDERR = Lock()
METADATA, LABELS = "swinclf.json", "labels.txt"  # in the archive at the end of a LiteRT file


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Keep what libraries in C++ write to standard error off the terminal."""
    with _STDERR, ExitStack() as restored:
        with suppress(OSError, ValueError, AttributeError):  # there may be no such stream
            sys.stderr.flush()
            original = os.dup(2)
            restored.callback(os.close, original)
            nowhere = os.open(os.devnull, os.O_WRONLY)
            restored.callback(os.close, nowhere)
            restored.callback(os.dup2, original, 2)
            os.dup2(nowhere, 2)
        yield


class LiteRtPredictor(ExportedPredictor):
    """A .tflite file, computed by LiteRT on the CPU."""

    kind = ExportFormat.LITERT

    def _import(self) -> None:
        (self._runtime,) = import_extra("litert", "ai_edge_litert.interpreter")

    def _read(self) -> Mapping[str, str]:
        found = _archived_metadata(self._path)
        with quiet_stderr():
            interpreter = self._runtime.Interpreter(str(self._path), num_threads=available_cores())
            interpreter.allocate_tensors()
            self._network = interpreter.get_signature_runner()
        return found

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        rows = [self._network(**{PIXELS: one[None]}) for one in inputs]
        return [np.concatenate([row[name] for row in rows]) for name in OUTPUTS]


def _archived_metadata(path: Path) -> Mapping[str, str]:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(METADATA).file_size > _MOST_METADATA:
            raise ValueError(f"{METADATA} is too large")
        found = json.loads(archive.read(METADATA))
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(f"{METADATA} is not an object of texts")
    return found


class CoreMlPredictor(ExportedPredictor):
    """An .mlpackage folder, computed by Core ML on the CPU of a Mac.

    Raises:
        DeviceError: On other systems.
    """

    kind = ExportFormat.COREML

    def _import(self) -> None:
        if sys.platform != "darwin":
            raise DeviceError(
                "macOS, to compute a Core ML file",
                found=sys.platform,
                hint="--run RUN, with the run that it was exported from",
            )
        self._coremltools: Any = import_extra("coreml", "coremltools")[0]

    def _read(self) -> Mapping[str, str]:
        self._network = self._coremltools.models.MLModel(
            str(self._path.parent), compute_units=self._coremltools.ComputeUnit.CPU_ONLY
        )
        found: Mapping[str, str] = dict(self._network.user_defined_metadata)
        return found

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        rows = [self._network.predict({PIXELS: one[None]}) for one in inputs]
        return [np.concatenate([row[name] for row in rows]) for name in OUTPUTS]
