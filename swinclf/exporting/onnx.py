"""ONNX: one file with a free batch size, class names and preprocessing in its metadata."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import nn

from swinclf.card import ModelCard
from swinclf.errors import ExportError
from swinclf.files import write_bytes
from swinclf.runtime import import_onnx_extra

OPSET = 20
INPUT, OUTPUT = "pixels", "logits"


def export_onnx(network: nn.Module, card: ModelCard, path: Path) -> None:
    """Writes a network as ONNX: `pixels` (N, 3, H, W), normalised -> `logits` (N, K), float32.

    Args:
        network: In evaluation mode, on the CPU, in float32.
        card: Goes into the file's metadata.
        path: The file, replaced if it is there.

    Raises:
        ExportError: If the extra is not installed or the network cannot be exported.
        RunError: If the file cannot be written.
    """
    onnx, _ = import_onnx_extra("onnx", "onnxscript")  # torch's exporter wants the other half
    # Two pictures and not one: an exporter takes a size of 1 for a constant.
    example = torch.zeros(2, 3, card.preprocess.height, card.preprocess.width)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except Exception as error:  # the exporter fails in as many ways as networks can be written
        raise ExportError(
            f"a network that can be written as ONNX: '{card.model}'",
            found=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"[
                :240
            ],
            hint="--impl native, or another --model",
        ) from error
    assert program is not None
    model = program.model_proto
    onnx.helper.set_model_props(model, card.to_metadata())
    write_bytes(path, model.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences the exporter, which prints and warns about its own affairs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
