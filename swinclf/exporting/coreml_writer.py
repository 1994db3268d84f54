"""Export to Core ML (.mlpackage), for iPhones and Macs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from swinclf.config import ExportFormat
from swinclf.device import import_extra
from swinclf.errors import ExportError
from swinclf.export_formats import FORMATS
from swinclf.exporting.deployed_network import OUTPUTS, DeployedNetwork, quiet_export
from swinclf.exporting.source import ExportSource
from swinclf.files import cannot_write, replace_path
from swinclf.inference.mobile_predictors import quiet_stderr

MANIFEST = FORMATS[ExportFormat.COREML].entry_file


def export_coreml(source: ExportSource, path: Path) -> None:
    """Write an ML program of one image, with the input and outputs of `DeployedNetwork`.

    It needs iOS 16 or macOS 13, computes in float32, and has the metadata in its own. A folder at
    `path` is overwritten.

    Raises:
        ExportError: If the extra is not installed, the network cannot be exported, or the folder
            has other files.
        RunError: If the folder cannot be written.
    """
    network = DeployedNetwork(source)
    if path.is_dir() and not (path / MANIFEST).is_file() and any(path.iterdir()):
        raise ExportError(
            f"a new folder for the export, or an earlier export: '{path}'",
            found="other files",
            hint="--output FOLDER",
        )
    with quiet_stderr():
        (coremltools,) = import_extra("coreml", "coremltools")
        with quiet_export(source.card.model, "coreml"):
            model = coremltools.convert(
                _program(network),
                outputs=[coremltools.TensorType(name=name) for name in OUTPUTS],
                minimum_deployment_target=coremltools.target.iOS16,
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
            )
    model.user_defined_metadata.update(source.metadata())
    model.license = source.license
    model.short_description = "Image classifier"
    try:
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            written, before = Path(folder) / path.name, Path(folder) / "before"
            with quiet_stderr():
                model.save(str(written))
            if path.is_dir():
                replace_path(path, before)
            try:
                replace_path(written, path)
            except OSError:
                if before.is_dir():
                    replace_path(before, path)
                raise
    except OSError as error:
        raise cannot_write(path, error) from error


@torch.no_grad()
def _program(network: DeployedNetwork) -> Any:
    """Return a network of one image as a program of basic operators, without `alias`.

    coremltools does not know that operator, which returns what it gets.
    """
    program = torch.export.export(network, (network.example()[:1],)).run_decompositions({})
    for node in list(program.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            program.graph.erase_node(node)
    return program
