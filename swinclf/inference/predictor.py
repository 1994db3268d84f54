"""What gives probabilities: a network in torch or an exported file, to its users the same."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.transforms import to_numpy_input, to_torch_input
from swinclf.errors import DeviceError, RunError
from swinclf.lanes import OWN_THREADS, Lanes, lanes_on
from swinclf.runtime import (
    Hardware,
    Precision,
    choose_hardware,
    import_onnx_extra,
    multiplies_bf16,
    out_of_memory_named,
    require_precision,
)


class Outputs(NamedTuple):
    """What a network makes of N pictures.

    Attributes:
        logits: (N, K) float32.
        features: (N, D) float32, what the classifier saw; None from a file that does not give them.
    """

    logits: np.ndarray
    features: np.ndarray | None


class Predictor(Protocol):
    """Pictures in, logits and features out."""

    card: ModelCard
    lanes: Lanes
    device: str

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """Compute N pictures, (N, H, W, 3) uint8, preprocessed by the card."""


@dataclass(frozen=True)
class Asked:
    """How a model is to be run; what is left open follows the card.

    Attributes:
        impl: Who builds the network; None for whoever the run had.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: Number format.
    """

    impl: Impl | None = None
    device: str = "auto"
    precision: Precision | None = None


AS_THE_RUN = Asked()


def open_predictor(path: Path, asked: Asked = AS_THE_RUN) -> Predictor:
    """Opens a model.safetensors or an exported .onnx file.

    Raises:
        RunError, WeightsError, ModelError, DeviceError, ExportError: If it cannot be opened as
            asked.
    """
    if path.suffix.lower() == ".onnx":
        return OnnxPredictor(path, asked)
    return TorchPredictor.open(path, asked)


class TorchPredictor:
    """A network in torch."""

    def __init__(self, network: object, card: ModelCard, hardware: Hardware) -> None:
        from torch import nn

        from swinclf.models.compute import Computer

        assert isinstance(network, nn.Module)
        self.card, self.hardware, self.device = card, hardware, hardware.device
        self._computer = Computer(network, hardware)
        pixels = card.preprocess.height * card.preprocess.width
        self.lanes = lanes_on(hardware.device, pixels)

    @classmethod
    def open(cls, path: Path, asked: Asked) -> TorchPredictor:
        """Opens a model.safetensors."""
        from swinclf.models.store import load_model

        network, card = load_model(path, impl=asked.impl)
        return cls(network, card, hardware_for(card, asked))

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        with out_of_memory_named(len(pixels)):
            inputs = to_torch_input(pixels, self.card.preprocess, self.hardware.device)
            logits, features = self._computer.outputs(inputs)
            return Outputs(logits.cpu().numpy(), features.cpu().numpy())


class OnnxPredictor:
    """An exported ONNX file, run by ONNX Runtime on the CPU, without torch."""

    lanes = OWN_THREADS
    device = "cpu"

    def __init__(self, path: Path, asked: Asked = AS_THE_RUN) -> None:
        (ort,) = import_onnx_extra("onnxruntime")
        if asked.device not in ("auto", "cpu"):
            raise DeviceError(
                "--device cpu for an ONNX file",
                found=asked.device,
                hint="--device cpu, or --run RUN",
            )
        try:
            options = ort.SessionOptions()
            options.log_severity_level = (
                3  # what it says below errors is about its own optimisations
            )
            self._session = ort.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
            metadata = self._session.get_modelmeta().custom_metadata_map
        except (
            Exception
        ) as error:  # ONNX Runtime's exceptions have no common base that it documents
            raise RunError(
                f"an ONNX file at '{path}'",
                found=str(error).splitlines()[0][:200],
                hint="swinclf export --format onnx",
            ) from error
        self.card = ModelCard.from_metadata(metadata, where=str(path))

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """See `Predictor`."""
        logits, *features = self._session.run(
            None, {"pixels": to_numpy_input(pixels, self.card.preprocess)}
        )
        return Outputs(logits, features[0] if features else None)


def hardware_for(card: ModelCard, asked: Asked) -> Hardware:
    """Device and precision for a model: as asked, else as the run, if this machine is as able."""
    hardware = choose_hardware(asked.device, Precision.FP32)
    precision = asked.precision or card.precision
    if precision is Precision.AUTO:
        return choose_hardware(asked.device, precision)
    if asked.precision is None and precision is not Precision.FP32:
        able, reason = multiplies_bf16(hardware.device)
        if not able:
            return replace(hardware, reason=f"the run was in {precision}, but {reason}")
    require_precision(hardware.device, precision)
    return Hardware(hardware.device, precision, "as asked" if asked.precision else "as the run")


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """(N, K) logits -> (N, K) float32 probabilities, computed in float64."""
    scaled = logits.astype(np.float64) / temperature
    exponentials = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32)
