"""ONNX export: one file with a free batch size, class names and preprocessing in its metadata."""

from __future__ import annotations

from pathlib import Path

import torch

from swinclf.device import import_extra
from swinclf.exporting.deployed_network import INPUT, OUTPUTS, DeployedNetwork, quiet_export
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes

OPSET = 20


def export_onnx(source: ExportSource, path: Path) -> None:
    """Write a network as ONNX, with the input and outputs of `DeployedNetwork`.

    Args:
        source: The model; its metadata becomes that of the file.
        path: The file; overwritten.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    onnx, _ = import_extra("onnx", "onnx", "onnxscript")  # onnxscript is needed by torch's exporter
    network = DeployedNetwork(source)
    with quiet_export(source.card.model, "ONNX"):
        program = torch.onnx.export(
            network,
            (network.example(),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, source.metadata())
    write_bytes(path, model.SerializeToString())
