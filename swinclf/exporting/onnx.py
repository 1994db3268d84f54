"""ONNX export: one file with a free batch size, class names and preprocessing in its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from swinclf.config import Embed, ExportPrecision
from swinclf.data.transforms import to_numpy_input
from swinclf.device import import_extra
from swinclf.export_formats import FEATURES, LOGITS, PIXELS
from swinclf.exporting.deployed_network import OUTPUTS, DeployedNetwork, quiet_export
from swinclf.exporting.preprocess_graph import add_ood_score, check_embeddable, embed_preprocess
from swinclf.exporting.quantize import Reduction, reduce_precision
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes

OPSET = 20


def export_onnx(source: ExportSource, path: Path) -> Reduction | None:
    """Write a network as ONNX; return the effect of a precision below float32, None for float32.

    Input and outputs are those of `DeployedNetwork`; with `source.embed`, those of
    `embed_preprocess`. The model's metadata becomes that of the file. A file at `path` is
    overwritten.

    Raises:
        ExportError: If the extra is not installed, or the network or its preprocessing cannot be
            exported.
        RunError: If the file cannot be written.
    """
    model, reduction = build_onnx(source)
    write_bytes(path, model.SerializeToString())
    return reduction


def build_onnx(source: ExportSource) -> tuple[Any, Reduction | None]:
    """Return what `export_onnx` writes, as an onnx.ModelProto, and what it returns."""
    onnx, _ = import_extra("onnx", "onnx", "onnxscript")  # onnxscript is needed by torch's exporter
    if source.embed is Embed.PREPROCESS:
        check_embeddable(source.card.preprocess)  # exporting the network takes long
    model, reduction = _network_graph(source), None
    if source.precision is not ExportPrecision.FP32:
        assert source.calibration is not None
        # Squared distances stay in float32.
        model = onnx.utils.Extractor(model).extract_model([PIXELS], [LOGITS, FEATURES])
        pixels = to_numpy_input(source.calibration, source.card.preprocess)
        model, reduction = reduce_precision(model, source.precision, pixels)
        add_ood_score(model, source.card.confidence)
    if source.embed is Embed.PREPROCESS:
        embed_preprocess(model, source.card)
    onnx.helper.set_model_props(model, source.metadata())
    return model, reduction


def _network_graph(source: ExportSource) -> Any:
    """Return the network as an onnx.ModelProto."""
    network = DeployedNetwork(source)
    with quiet_export(source.card.model, "ONNX"):
        program = torch.onnx.export(
            network,
            (network.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[PIXELS],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    return program.model_proto
