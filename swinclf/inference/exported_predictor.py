"""Exported files as predictors: on the CPU, by the metadata of the file."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np

from swinclf.card import ModelCard, check_sizes
from swinclf.config import ExportFormat
from swinclf.data.transforms import to_numpy_input
from swinclf.device import Precision, available_cores, import_extra, import_openvino
from swinclf.errors import DeviceError, RunError, SwinclfError
from swinclf.export_formats import IMAGES, OUTPUTS, PIXELS
from swinclf.inference.predictor import (
    InferenceOptions,
    Outputs,
    TorchPredictor,
    choose_model_hardware,
)
from swinclf.out_of_memory import first_error_line
from swinclf.parallel_batches import ONE_BATCH, ParallelBatches

# Decoded images are large and of many sizes: batches of the usual size would only take memory.
SMALL_BATCHES = ParallelBatches(1, size=4)
METADATA, LABELS = "swinclf.json", "labels.txt"  # in the archive at the end of a LiteRT file
_MOST_METADATA = 64 * 1024**2  # bytes
_PAGE_MODEL = re.compile(rb'<script type="text/plain" id="model">([A-Za-z0-9+/=]+)</script>')
_STDERR = Lock()
_PRECISIONS = (None, Precision.AUTO, Precision.FP32)


class ExportedPredictor:
    """A network in an exported file; the formats differ in how it is read and computed.

    Args:
        path: The file.
        options: The device must be the CPU, precision and backend those of the file.

    Raises:
        RunError: If it is not a file of this format, or its card and its network disagree.
        DeviceError: If an option does not apply, or the format does not run on this system.
        ExportError: If the extra is not installed.
    """

    kind: ExportFormat
    takes_any_size = False
    parallel = ONE_BATCH
    device = "cpu"
    note = ""

    def __init__(self, path: Path, options: InferenceOptions) -> None:
        self._path = path
        given = {
            "--device": None if options.device in ("auto", "cpu") else options.device,
            "--precision": None if options.precision in _PRECISIONS else options.precision,
            "--impl": options.impl,
        }
        if refused := [f"{name} {value}" for name, value in given.items() if value]:
            raise DeviceError(
                f"no --impl or --precision, and --device cpu, for an exported file ({self.kind})",
                found=", ".join(refused),
                hint="none of these options, or --run RUN",
            )
        try:
            self.metadata = self._read()
        except (SwinclfError, MemoryError):
            raise
        except Exception as error:  # the exceptions of runtimes have no common base
            raise self._error("an exported file", error) from error
        self.card = ModelCard.from_metadata(self.metadata, where=str(path))
        self._check_network()

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        try:
            if not self.takes_any_size:
                pixels = to_numpy_input(pixels, self.card.preprocess)
            arrays = self._compute(pixels)
        except Exception as error:  # no common base either
            raise self._error(f"a network that computes {len(pixels)} images", error) from error
        return Outputs(*arrays[:3])

    def _read(self) -> Mapping[str, str]:
        """Import the runtime, read the file, and return its metadata."""
        raise NotImplementedError

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        """Compute (N, 3, H, W) float32 -> logits, and features and out-of-distribution scores."""
        raise NotImplementedError

    def _check_network(self) -> None:
        """Refuse a file whose card and network disagree, by the outputs for a blank image."""
        size = self.card.preprocess
        blank = self.outputs(np.zeros((1, size.height, size.width, 3), np.uint8))
        check_sizes(
            self.card,
            where=str(self._path),
            logits=_width(blank.logits),
            features=None if blank.features is None else _width(blank.features),
        )

    def _error(self, expected: str, error: Exception) -> RunError:
        return RunError(
            f"{expected} ({self.kind}) at '{self._path}'",
            found=first_error_line(error),
            hint=f"swinclf export --format {self.kind}",
        )


class OnnxPredictor(ExportedPredictor):
    """An ONNX file, computed by ONNX Runtime, without torch."""

    kind = ExportFormat.ONNX

    def _read(self) -> Mapping[str, str]:
        (ort,) = import_extra("onnx", "onnxruntime")
        options = ort.SessionOptions()
        options.log_severity_level = 3  # warnings are about its own optimisations
        self._session = ort.InferenceSession(
            self._model(), options, providers=["CPUExecutionProvider"]
        )
        self.takes_any_size = IMAGES in [one.name for one in self._session.get_inputs()]
        self._input = IMAGES if self.takes_any_size else PIXELS
        if self.takes_any_size:
            self.parallel = SMALL_BATCHES
        # Decisions may follow; they are made here as for every other model.
        self._outputs = [one.name for one in self._session.get_outputs()][:3]
        found: Mapping[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def _model(self) -> str | bytes:
        """Return the path of the ONNX model, or the model."""
        return str(self._path)

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        arrays: Sequence[np.ndarray] = self._session.run(self._outputs, {self._input: inputs})
        return arrays


class WebPagePredictor(OnnxPredictor):
    """The ONNX model in a page."""

    kind = ExportFormat.WEB

    def _model(self) -> bytes:
        found = _PAGE_MODEL.search(self._path.read_bytes())
        if found is None:
            raise ValueError("a page without a model")
        return gzip.decompress(base64.b64decode(found[1], validate=True))


class OpenVinoPredictor(ExportedPredictor):
    """An OpenVINO IR, a pair of files .xml and .bin."""

    kind = ExportFormat.OPENVINO

    def _read(self) -> Mapping[str, str]:
        core = import_openvino().Core()
        model = core.read_model(str(self._path))
        info: Mapping[str, str] = {}
        if model.has_rt_info("swinclf"):
            info = model.get_rt_info("swinclf").value
        # The default of some CPUs is bfloat16, which the exported network was not compared in.
        self._model = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return {key: str(value) for key, value in info.items()}

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        return [np.array(one) for one in self._model([inputs]).values()]


class ProgramPredictor(ExportedPredictor):
    """A .pt2 file, computed by torch without the network's code."""

    kind = ExportFormat.TORCH_EXPORT

    def _read(self) -> Mapping[str, str]:
        from swinclf.models.program_file import load_program

        self._network, metadata = load_program(self._path)
        return metadata

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        with torch.inference_mode():
            return [one.numpy() for one in self._network(torch.from_numpy(inputs))]


class LiteRtPredictor(ExportedPredictor):
    """A .tflite file, computed by LiteRT on the CPU, image by image: its shapes are fixed."""

    kind = ExportFormat.LITERT

    def _read(self) -> Mapping[str, str]:
        (runtime,) = import_extra("litert", "ai_edge_litert.interpreter")
        found = _archived_metadata(self._path)
        with quiet_stderr():
            interpreter = runtime.Interpreter(str(self._path), num_threads=available_cores())
            interpreter.allocate_tensors()
            self._network = interpreter.get_signature_runner()
        return found

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        return _joined([self._network(**{PIXELS: one[None]}) for one in inputs])


class CoreMlPredictor(ExportedPredictor):
    """An .mlpackage folder, computed by Core ML on the CPU of a Mac, image by image."""

    kind = ExportFormat.COREML

    def _read(self) -> Mapping[str, str]:
        if sys.platform != "darwin":
            raise DeviceError(
                "macOS, to compute a Core ML file",
                found=sys.platform,
                hint="--run RUN, with the run that it was exported from",
            )
        (coremltools,) = import_extra("coreml", "coremltools")
        self._network: Any = coremltools.models.MLModel(
            str(self._path.parent), compute_units=coremltools.ComputeUnit.CPU_ONLY
        )
        found: Mapping[str, str] = dict(self._network.user_defined_metadata)
        return found

    def _compute(self, inputs: np.ndarray) -> Sequence[np.ndarray]:
        return _joined([self._network.predict({PIXELS: one[None]}) for one in inputs])


def open_timm_folder(path: Path, options: InferenceOptions) -> TorchPredictor:
    """Open a folder of `swinclf export --format timm`, by the preprocessing in its config.json.

    `path` is the swinclf.json in it. The network is timm's.

    Raises:
        RunError, WeightsError, DeviceError: If it cannot be opened with these options.
    """
    from swinclf.models.timm_folder import load_timm_folder, read_folder_metadata

    folder = path.parent
    metadata = read_folder_metadata(folder)
    card = ModelCard.from_metadata(metadata, where=str(folder))
    network: Any = load_timm_folder(folder)
    features = getattr(network, "head_hidden_size", network.num_features)
    check_sizes(card, where=str(folder), logits=network.num_classes, features=features)
    return TorchPredictor(network, card, choose_model_hardware(card, options), metadata)


def _width(rows: np.ndarray) -> int:
    """Return the number of columns; 0 if it is not a matrix."""
    return int(rows.shape[1]) if rows.ndim == 2 else 0


def _joined(rows: Sequence[Mapping[str, np.ndarray]]) -> list[np.ndarray]:
    """Return the outputs of single images as arrays of all images."""
    return [np.concatenate([row[name] for row in rows]) for name in OUTPUTS]


def _archived_metadata(path: Path) -> Mapping[str, str]:
    with zipfile.ZipFile(path) as archive:
        if archive.getinfo(METADATA).file_size > _MOST_METADATA:
            raise ValueError(f"{METADATA} is too large")
        found = json.loads(archive.read(METADATA))
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(f"{METADATA} is not an object of texts")
    return found


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
