"""Predictors: a torch network and an exported file behind one interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from swinclf.card import ModelCard
from swinclf.config import Impl
from swinclf.data.transforms import to_torch_input
from swinclf.device import (
    Hardware,
    Precision,
    choose_hardware,
    multiplies_natively,
    require_precision,
)
from swinclf.export_formats import find_export
from swinclf.out_of_memory import DividedBatches
from swinclf.parallel_batches import ParallelBatches, choose_parallel_batches

if TYPE_CHECKING:
    from torch import nn


class Outputs(NamedTuple):
    """The outputs of a network for N images."""

    logits: np.ndarray  # (N, K) float32
    # (N, D) float32, the input of the head; None from a file that does not give them
    features: np.ndarray | None = None
    # (N,) float32, the out-of-distribution score; None if it is to be computed from the features
    ood_score: np.ndarray | None = None

    def rows(self, chosen: slice) -> Outputs:
        """Return the outputs for some of the images."""
        features = None if self.features is None else self.features[chosen]
        score = None if self.ood_score is None else self.ood_score[chosen]
        return Outputs(self.logits[chosen], features, score)


class Predictor(Protocol):
    """A model that computes logits and features of images."""

    card: ModelCard
    parallel: ParallelBatches  # how many batches are computed at a time
    device: str
    note: str  # a remark on the device for the user; may be empty
    takes_any_size: bool  # whether the preprocessing is part of the model

    def outputs(self, pixels: np.ndarray) -> Outputs:
        """Compute the outputs for (N, H, W, 3) uint8 images.

        They are resized as the card says, or of any size if `takes_any_size`.
        """


@dataclass(frozen=True)
class InferenceOptions:
    """Options for running a model; those that are None follow the card."""

    impl: Impl | None = None  # backend that builds the network; None for the run's
    device: str = "auto"  # auto, cpu, cuda, cuda:N or mps
    precision: Precision | None = None  # number format; None for the run's


RUN_OPTIONS = InferenceOptions()


def open_predictor(path: Path, options: InferenceOptions = RUN_OPTIONS) -> Predictor:
    """Open a model.safetensors or an exported file of any format that can run here.

    Raises:
        RunError, WeightsError, ModelError, DeviceError, ExportError: If it cannot be opened with
            these options.
    """
    if exported := find_export(path):
        entry, file = exported
        predictor: Predictor = entry.load_predictor()(file, options)
        return predictor
    return TorchPredictor.open(path, options)


class TorchPredictor:
    """A predictor with a torch network.

    Where memory runs out, a batch is computed in halves, down to single images, and so are later
    batches.
    """

    takes_any_size = False

    def __init__(
        self,
        network: nn.Module,
        card: ModelCard,
        hardware: Hardware,
        metadata: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        from swinclf.models.compute import Computer

        self.metadata = metadata
        self.card, self.hardware, self.device = card, hardware, hardware.device
        self.note = hardware.note
        self._computer = Computer(network, hardware)
        pixels = card.preprocess.height * card.preprocess.width
        self.parallel = choose_parallel_batches(hardware.device, pixels)
        self._divided = DividedBatches(hardware.device)

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
        parts = self._divided.compute(self._compute, pixels)
        logits, features = (np.concatenate(one) for one in zip(*parts, strict=True))
        return Outputs(logits, features)

    def _compute(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        inputs = to_torch_input(pixels, self.card.preprocess, self.hardware.device)
        logits, features = self._computer.outputs(inputs)
        return logits.cpu().numpy(), features.cpu().numpy()


def choose_model_hardware(card: ModelCard, options: InferenceOptions) -> Hardware:
    """Return device and precision for a model: those of the options, else those of the run.

    A run's precision that this machine does not compute natively is replaced by fp32.
    """
    hardware = choose_hardware(options.device, Precision.FP32)
    precision = options.precision or card.precision
    if precision is Precision.AUTO:
        return choose_hardware(options.device, precision)
    if options.precision is None and precision is not Precision.FP32:
        able, reason = multiplies_natively(hardware.device, precision)
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
