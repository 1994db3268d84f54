"""Export to LiteRT (.tflite), for Android and small boards."""

from __future__ import annotations

import io
import json
import tempfile
import zipfile
from pathlib import Path

import torch

from swinclf.device import import_extra
from swinclf.export_formats import PIXELS
from swinclf.exporting.deployed_network import OUTPUTS, DeployedNetwork, quiet_export
from swinclf.exporting.source import ExportSource
from swinclf.files import to_utf8, write_bytes
from swinclf.inference.mobile_predictors import LABELS, METADATA, quiet_stderr


class _NamedOutputs(torch.nn.Module):
    """A `DeployedNetwork` whose outputs have names in the file."""

    def __init__(self, network: DeployedNetwork) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute (N, 3, H, W) -> the outputs by name."""
        return dict(zip(OUTPUTS, self.network(pixels), strict=True))


def export_litert(source: ExportSource, path: Path) -> None:
    """Write a LiteRT model of one image, with the input and outputs of `DeployedNetwork`.

    An archive at the end of the file, where TensorFlow Lite keeps labels, holds the metadata and
    the class names, one a line. A file at `path` is overwritten.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    network = DeployedNetwork(source)
    with quiet_stderr():
        (litert_torch,) = import_extra("litert", "litert_torch")
        with quiet_export(source.card.model, "litert"), tempfile.TemporaryDirectory() as folder:
            example = network.example()[:1]
            # Its operators on sizes that are not fixed are incomplete: a batch has one image.
            model = litert_torch.convert(_NamedOutputs(network), sample_kwargs={PIXELS: example})
            written = Path(folder) / path.name
            model.export(str(written))
            content = written.read_bytes()
    with_archive = io.BytesIO(content)
    with zipfile.ZipFile(with_archive, "a") as archive:
        names = [" ".join(name.splitlines()) for name in source.card.classes]
        archive.writestr(METADATA, to_utf8(json.dumps(source.metadata())))
        archive.writestr(LABELS, to_utf8("\n".join(names) + "\n"))
    write_bytes(path, with_archive.getvalue())
