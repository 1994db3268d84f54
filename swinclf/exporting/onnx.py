"""ONNX export: one file with a free batch size, class names and preprocessing in its metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from swinclf.device import import_extra
from swinclf.errors import ExportError
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes

OPSET = 20
INPUT, OUTPUTS = "pixels", ("logits", "features")


def export_onnx(source: ExportSource, path: Path) -> None:
    """Write a network as ONNX: `pixels` (N, 3, H, W), normalised -> `logits`, `features`.

    The logits, (N, K) float32, are already divided by the temperature, so that their softmax gives
    the run's probabilities. The features, (N, D) float32, are the classifier's input, for
    out-of-distribution detection.

    Args:
        source: The model; its card is written to the file's metadata.
        path: The file; overwritten.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    onnx, _ = import_extra("onnx", "onnx", "onnxscript")  # onnxscript is needed by torch's exporter
    network, card = source.network, source.card
    # Two images, since the exporter treats a size of 1 as a constant.
    example = torch.zeros(2, 3, card.preprocess.height, card.preprocess.width)
    try:
        with _quiet():
            program = torch.onnx.export(
                _LogitsAndFeatures(network, card.confidence.temperature).eval(),
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter raises anything
        raise ExportError(
            f"a network that can be exported to ONNX: '{card.model}'",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
                :240
            ],
            hint="--impl native, or another --model",
        ) from error
    assert program is not None
    model = program.model_proto
    applied = replace(card, confidence=replace(card.confidence, temperature=1.0))
    onnx.helper.set_model_props(model, applied.to_metadata())
    write_bytes(path, model.SerializeToString())


class _LogitsAndFeatures(nn.Module):
    """The network with logits and features as outputs."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network, self.temperature = network, temperature
        for module in network.modules():  # the exporter decomposes in-place ReLU6: seconds more
            if hasattr(module, "inplace"):
                module.inplace = False  # type: ignore[assignment]

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute (N, 3, H, W) -> (N, K), (N, D)."""
        tokens = self.network.forward_features(pixels)  # type: ignore[operator]
        logits = self.network.forward_head(tokens)  # type: ignore[operator]
        features: torch.Tensor = self.network.forward_head(tokens, pre_logits=True)  # type: ignore[operator]
        return logits / self.temperature, features


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's prints and warnings."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
