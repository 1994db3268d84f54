"""Export to a program of torch.export (.pt2): loaded by torch alone, without the network's code."""

from __future__ import annotations

import io
import json
from pathlib import Path

import torch

from swinclf.exporting.deployed_network import DeployedNetwork, quiet_export
from swinclf.exporting.source import ExportSource
from swinclf.files import write_bytes
from swinclf.models.program_file import METADATA

_ORIGINS = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node")


def export_program(source: ExportSource, path: Path) -> None:
    """Write a program with the input and outputs of `DeployedNetwork`, and a free batch size.

    The model's metadata is the extra file `metadata.json`. A file at `path` is overwritten.

    Raises:
        ExportError: If the network cannot be exported.
        RunError: If the file cannot be written.
    """
    network, buffer = DeployedNetwork(source), io.BytesIO()
    with quiet_export(source.card.model, "torch-export"), torch.no_grad():
        program = torch.export.export(
            network, (network.example(),), dynamic_shapes=({0: torch.export.Dim("batch")},)
        )
        program.example_inputs = None  # megabytes of zeros, in a pickle
        program._guards_code = []  # batch sizes above 0
        for node in program.graph.nodes:
            for name in _ORIGINS:  # paths of this machine among them
                node.meta.pop(name, None)
        torch.export.save(program, buffer, extra_files={METADATA: json.dumps(source.metadata())})
    write_bytes(path, buffer.getvalue())
