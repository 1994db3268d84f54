"""ONNX export: one file with a free batch size, class names and preprocessing in its metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from swinclf.config import Embed, ExportPrecision
from swinclf.data.transforms import to_numpy_input
from swinclf.device import import_extra
from swinclf.errors import ExportError
from swinclf.export_formats import FEATURES, LOGITS, PIXELS
from swinclf.exporting.preprocess_graph import check_embeddable, embed_preprocess
from swinclf.exporting.quantize import Reduction, reduce_precision
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes

OPSET = 20


def export_onnx(source: ExportSource, path: Path) -> Reduction | None:
    """Write a network as ONNX: `pixels` (N, 3, H, W), normalised -> `logits`, `features`.

    The logits, (N, K) float32, are already divided by the temperature, so that their softmax gives
    the run's probabilities. The features, (N, D) float32, are the classifier's input, for
    out-of-distribution detection. With `source.embed`, as `embed_preprocess` describes.

    Args:
        source: The model; its card is written to the file's metadata.
        path: The file; overwritten.

    Returns:
        The effect of a precision below float32; None for float32.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    model, reduction = build_onnx(source)
    write_bytes(path, model.SerializeToString())
    return reduction


def build_onnx(source: ExportSource) -> tuple[Any, Reduction | None]:
    """Return what `export_onnx` writes, as an onnx.ModelProto, and what it returns."""
    onnx, _ = import_extra("onnx", "onnx", "onnxscript")  # onnxscript is needed by torch's exporter
    if source.embed is Embed.PREPROCESS:
        check_embeddable(source.card.preprocess)  # before the network is exported, which takes long
    model, reduction = _network_graph(source), None
    if source.precision is not ExportPrecision.FP32:
        assert source.calibration is not None
        pixels = to_numpy_input(source.calibration, source.card.preprocess)
        model, reduction = reduce_precision(model, source.precision, pixels)
    if source.embed is Embed.PREPROCESS:
        embed_preprocess(model, source.card)
    card = source.card
    applied = replace(card, confidence=replace(card.confidence, temperature=1.0))
    onnx.helper.set_model_props(model, applied.to_metadata())
    return model, reduction


def _network_graph(source: ExportSource) -> Any:
    """Return the network as an onnx.ModelProto."""
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
                input_names=[PIXELS],
                output_names=[LOGITS, FEATURES],
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
    return program.model_proto


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
