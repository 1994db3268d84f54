"""Predictors: a torch network and an exported file behind one interface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from swinclf.card import ModelCard, check_sizes, mismatch_error
from swinclf.config import Impl
from swinclf.data.transforms import to_numpy_input, to_torch_input
from swinclf.device import (
    Hardware,
    Precision,
    choose_hardware,
    has_native_bf16,
    import_extra,
    require_precision,
    translate_out_of_memory,
)
from swinclf.errors import DeviceError, RunError
from swinclf.export_formats import IMAGES, PIXELS, format_of
from swinclf.parallel_batches import ONE_BATCH, ParallelBatches, choose_parallel_batches

if TYPE_CHECKING:
    from torch import nn

# Decoded images are large and of many sizes: batches of the usual size would only take memory.
SMALL_BATCHES = ParallelBatches(1, first_size=4, max_size=4)


class Outputs(NamedTuple):
    """The outputs of a network for N images.

    Attributes:
        logits: (N, K) float32.
        features: (N, D) float32, the input of the head; None from a file that does not give them.
    """

    logits: np.ndarray
    features: np.ndarray | None


class Predictor(Protocol):
    """A model that computes logits and features of images.

    Attributes:
        card: The model card.
        parallel: How many batches are computed at a time.
        device: The torch device.
        note: A remark on the device for the user; may be empty.
        takes_any_size: Whether the preprocessing is part of the model.
    """

    card: ModelCard
    parallel: ParallelBatches
    device: str
    note: str
    takes_any_size: bool

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """Compute the outputs for (N, H, W, 3) uint8 images.

        They are resized as the card says, or of any size if `takes_any_size`.
        """


@dataclass(frozen=True)
class InferenceOptions:
    """Options for running a model; those that are None follow the card.

    Attributes:
        impl: Backend that builds the network; None for the run's.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Number format; None for the run's.
    """

    impl: Impl | None = None
    device: str = "auto"
    precision: Precision | None = None


RUN_OPTIONS = InferenceOptions()


def open_predictor(path: Path, options: InferenceOptions = RUN_OPTIONS) -> Predictor:
    """Open a model.safetensors or an exported file of any format that can run here.

    Raises:
        RunError, WeightsError, ModelError, DeviceError, ExportError: If it cannot be opened with
            these options.
    """
    if exported := format_of(path):
        predictor: Predictor = exported.load_predictor()(path, options)
        return predictor
    return TorchPredictor.open(path, options)


class TorchPredictor:
    """A predictor with a torch network."""

    takes_any_size = False

    def __init__(self, network: nn.Module, card: ModelCard, hardware: Hardware) -> None:
        from swinclf.models.compute import Computer

        self.card, self.hardware, self.device = card, hardware, hardware.device
        self.note = hardware.note
        self._computer = Computer(network, hardware)
        pixels = card.preprocess.height * card.preprocess.width
        self.parallel = choose_parallel_batches(hardware.device, pixels)

    @classmethod
    def open(cls, path: Path, options: InferenceOptions) -> TorchPredictor:
        """Open a model.safetensors."""
        from swinclf.models.store import load_model

        network, card = load_model(path, impl=options.impl)
        return cls(network, card, choose_model_hardware(card, options))

    @property
    def network(self) -> nn.Module:
        """The network, in evaluation mode and float32, on the device."""
        return self._computer.network

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        with translate_out_of_memory(len(pixels)):
            inputs = to_torch_input(pixels, self.card.preprocess, self.hardware.device)
            logits, features = self._computer.outputs(inputs)
            return Outputs(logits.cpu().numpy(), features.cpu().numpy())


class OnnxPredictor:
    """An exported ONNX file, run by ONNX Runtime on the CPU, without torch.

    Args:
        path: The file.
        options: Device, precision and backend.
        content: The ONNX model; None to read it from the file.
    """

    device = "cpu"
    note = ""

    def __init__(
        self, path: Path, options: InferenceOptions = RUN_OPTIONS, content: bytes | None = None
    ) -> None:
        (ort,) = import_extra("onnx", "onnxruntime")
        if options.device not in ("auto", "cpu"):
            raise DeviceError(
                "--device cpu for an ONNX file",
                found=options.device,
                hint="--device cpu, or --run RUN",
            )
        try:
            session_options = ort.SessionOptions()
            session_options.log_severity_level = 3  # warnings are about its own optimisations
            self._session = ort.InferenceSession(
                content or str(path), session_options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        except (
            Exception
        ) as error:  # ONNX Runtime's exceptions have no common base that it documents
            raise RunError(
                f"an ONNX file at '{path}'",
                found=first_error_line(error),
                hint="swinclf export --format onnx",
            ) from error
        self._path = path
        self.card = ModelCard.from_metadata(metadata, where=str(path))
        self.takes_any_size = self._session.get_inputs()[0].name == IMAGES
        self.parallel = SMALL_BATCHES if self.takes_any_size else ONE_BATCH
        # Probabilities and decisions may follow; they are computed as for every other model.
        self._outputs = [one.name for one in self._session.get_outputs()][:2]
        self._check_graph()

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        inputs = {PIXELS: to_numpy_input(pixels, self.card.preprocess)}
        if self.takes_any_size:
            inputs = {IMAGES: pixels}
        try:
            logits, *features = self._session.run(self._outputs, inputs)
        except Exception as error:  # no common base either
            raise RunError(
                f"the network in '{self._path}' to compute {len(pixels)} images",
                found=first_error_line(error),
                hint="swinclf export --format onnx",
            ) from error
        return Outputs(logits, features[0] if features else None)

    def _check_graph(self) -> None:
        """Refuse a file whose card and graph disagree.

        Raises:
            RunError: If they disagree.
        """
        where, wanted = str(self._path), self.card.preprocess
        inputs = {one.name: one for one in self._session.get_inputs()}
        if inputs.keys() not in ({PIXELS}, {IMAGES}):
            raise mismatch_error(where, f"inputs {', '.join(inputs)} and not one '{PIXELS}'")
        (one,) = inputs.values()
        shape, kind = one.shape, one.type
        expected: tuple[int | None, ...] = (None, 3, wanted.height, wanted.width)
        if self.takes_any_size:
            expected = (None, None, None, 3)
        fits = len(shape) == 4 and all(
            not isinstance(side, int) or one is None or side == one
            for side, one in zip(shape, expected, strict=True)
        )
        if kind != f"tensor({'uint8' if self.takes_any_size else 'float'})" or not fits:
            raise mismatch_error(
                where,
                f"a size of {wanted.height} x {wanted.width} px in the card and an input of shape "
                f"{tuple(shape)} ({kind})",
            )
        sizes = [self._width_of(one.shape) for one in self._session.get_outputs()[:2]]
        if not sizes or None in sizes:  # not in the graph: measured on a blank image
            blank = np.zeros((1, wanted.height, wanted.width, 3), np.uint8)
            sizes = [self._width_of(one.shape) for one in self.outputs(blank) if one is not None]
        check_sizes(
            self.card,
            where=where,
            logits=sizes[0] or 0,
            features=sizes[1] if len(sizes) > 1 else None,
        )

    @staticmethod
    def _width_of(shape: Sequence[object]) -> int | None:
        """Return the second of two dimensions; 0 if there are not two, None if it is dynamic."""
        if len(shape) != 2:
            return 0
        return shape[1] if isinstance(shape[1], int) else None


def first_error_line(error: Exception) -> str:
    """Return the first line of an exception's text, or its name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def choose_model_hardware(card: ModelCard, options: InferenceOptions) -> Hardware:
    """Return device and precision for a model: those of the options, else those of the run.

    A run's precision that this machine does not compute natively is replaced by fp32.
    """
    hardware = choose_hardware(options.device, Precision.FP32)
    precision = options.precision or card.precision
    if precision is Precision.AUTO:
        return choose_hardware(options.device, precision)
    if options.precision is None and precision is not Precision.FP32:
        able, reason = has_native_bf16(hardware.device)
        if not able:
            return replace(hardware, reason=f"the run was in {precision}, but {reason}")
    require_precision(hardware.device, precision)
    reason = "as requested" if options.precision else "as in the run"
    return replace(hardware, precision=precision, reason=reason)


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Return the (N, K) float32 probabilities of (N, K) logits, computed in float64.

    Not scipy's: importing it takes 0.2 s, which predicting goes without
    (`python -X importtime -c "import scipy.special"`).
    """
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)
