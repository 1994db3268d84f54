"""Lower precision of an ONNX model: float16, or int8 with ranges calibrated on images.

Knows graphs and arrays; whether the result is accurate enough is measured by its caller.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swinclf.config import ExportPrecision
from swinclf.device import import_extra
from swinclf.errors import ExportError
from swinclf.export_formats import PIXELS
from swinclf.files import write_bytes

# In a network with attention these alone: they take the time, and with softmax, norms and GELU in
# int8 the error of the logits triples. In a convolutional network all operators: the clipping after
# a layer makes its range narrow.
PRODUCTS = ("Conv", "MatMul", "Gemm")
INT8_ONNXRUNTIME = (1, 32)  # 1.31 quantises the ViT of tests/test_reduced_export.py to chance
BATCH = 8  # images of a batch, in calibration and timing
ROUNDS = 5  # of timing, of both precisions in turn; the fastest of each counts


@dataclass(frozen=True)
class Reduction:
    """The effect of a lower precision on a network, without its preprocessing."""

    size_bytes: int  # of the model
    fp32_size_bytes: int  # of the model in float32
    images_per_second: float  # on this CPU, by ONNX Runtime
    fp32_images_per_second: float  # the same in float32


def reduce_precision(
    model: Any, precision: ExportPrecision, pixels: np.ndarray
) -> tuple[Any, Reduction]:
    """Return a model in a lower precision; its input and outputs stay float32.

    The model is an onnx.ModelProto with the input `pixels`. int8 is calibrated on `pixels`, (N, 3,
    H, W) float32.

    Raises:
        ExportError: If the extra is not installed, or too old for int8.
    """
    with _quiet():
        is_fp16 = precision is ExportPrecision.FP16
        reduced = _to_fp16(model) if is_fp16 else _to_int8(model, pixels)
    files = [one.SerializeToString() for one in (model, reduced)]
    fp32_rate, rate = _images_per_second(files, pixels[:BATCH])
    return reduced, Reduction(len(files[1]), len(files[0]), rate, fp32_rate)


def _to_fp16(model: Any) -> Any:
    (float16,) = import_extra("onnx", "onnxruntime.transformers.float16")
    copy = type(model).FromString(model.SerializeToString())  # the converter changes its input
    return float16.convert_float_to_float16(copy, keep_io_types=True)


def _to_int8(model: Any, pixels: np.ndarray) -> Any:
    onnx, ort, quantization = import_extra(
        "onnx", "onnx", "onnxruntime", "onnxruntime.quantization"
    )
    if tuple(map(int, ort.__version__.split(".")[:2])) < INT8_ONNXRUNTIME:
        raise ExportError(
            "ONNX Runtime 1.32 or later for --precision int8",
            found=ort.__version__,
            hint="pip install --upgrade onnxruntime",
        )

    class Batches(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            self._starts = iter(range(0, len(pixels), BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            start = next(self._starts, None)
            return None if start is None else {PIXELS: pixels[start : start + BATCH]}

    has_attention = any(node.op_type == "Softmax" for node in model.graph.node)
    with tempfile.TemporaryDirectory() as folder:
        before, path = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        write_bytes(before, model.SerializeToString())  # a model in memory would be changed
        quantization.quantize_static(
            before,
            path,
            Batches(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=list(PRODUCTS) if has_attention else None,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
        )
        return onnx.load(str(path))


def _images_per_second(files: Sequence[bytes], pixels: np.ndarray) -> list[float]:
    """Return the throughput of models on the same batch, timed in turn."""
    (ort,) = import_extra("onnx", "onnxruntime")
    sessions = [ort.InferenceSession(one, providers=["CPUExecutionProvider"]) for one in files]
    fastest = [float("inf")] * len(sessions)
    for _ in range(1 + ROUNDS):  # the first one warms up, and is never the fastest
        for number, session in enumerate(sessions):
            start = time.perf_counter()
            session.run(None, {PIXELS: pixels})
            fastest[number] = min(fastest[number], time.perf_counter() - start)
    return [len(pixels) / seconds for seconds in fastest]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the remarks of the quantizer."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
