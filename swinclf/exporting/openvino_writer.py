"""Export to OpenVINO's IR, converted from the ONNX file."""

from __future__ import annotations

import tempfile
from pathlib import Path

from swinclf.device import import_openvino
from swinclf.exporting.deployed_network import quiet_export
from swinclf.exporting.onnx import export_onnx
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes


def export_openvino(source: ExportSource, path: Path) -> None:
    """Write an IR, FILE.xml at `path` and FILE.bin, in float32 with the metadata in rt_info.

    Existing files are overwritten.

    Raises:
        ExportError: If an extra is not installed or the network cannot be exported.
        RunError: If a file cannot be written.
    """
    openvino = import_openvino()
    with tempfile.TemporaryDirectory() as folder:
        onnx, written = Path(folder) / "model.onnx", Path(folder) / path.name
        export_onnx(source, onnx)
        with quiet_export(source.card.model, "openvino"):
            # Not convert_model, which sends statistics.
            model = openvino.Core().read_model(str(onnx))
            for key, text in source.metadata().items():
                model.set_rt_info(text, ["swinclf", key])
            openvino.save_model(model, str(written), compress_to_fp16=False)
        write_bytes(path.with_suffix(".bin"), written.with_suffix(".bin").read_bytes())
        write_bytes(path, written.read_bytes())
