"""A small ONNX file with a model card, made without a network: for tests of what reads one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

COLOURS = ("blue", "green", "red")


def card(classes: Sequence[str] = COLOURS, side: int = 32) -> dict[str, str]:
    """The metadata of a model card."""
    preprocessing = {
        **{"height": side, "width": side, "interpolation": "bicubic", "crop_pct": 1.0},
        **{"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fit": "crop"},
    }
    return {
        "format": "swinclf-1",
        "model": "colours",
        "impl": "native",
        "classes": json.dumps(list(classes)),
        "preprocessing": json.dumps(preprocessing),
        "model_args": "{}",
        "precision": "fp32",
        "calibration": json.dumps({"temperature": 1.0}),
        "split": json.dumps({"seed": 0, "val_split": 0.2}),
        "versions": json.dumps({"swinclf": "0.1.0"}),
    }


def write_onnx(
    path: Path,
    metadata: Mapping[str, str] | None = None,
    *,
    outputs: int = 3,
    side: int | str = 32,
    channels: int | str = 3,
    shown: int | str | None = None,
    names: tuple[str, str] = ("pixels", "logits"),
) -> Path:
    """A network whose logits are the mean blue, green and red, and constants after them.

    Args:
        path: The file.
        metadata: Its model card; None for one of three colours.
        outputs: Logits, K >= 3.
        side: Height and width of the input in the graph; a name leaves them open.
        channels: Of the input, likewise.
        shown: How many logits the graph declares; None for `outputs`.
        names: Of the input and of the output.
    """
    weight = np.zeros((3, outputs), np.float32)
    weight[[0, 1, 2], [2, 1, 0]] = 9.0
    bias = np.zeros(outputs, np.float32)
    bias[3:] = -9.0
    pixels, logits = names
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [pixels, "axes"], ["features"], keepdims=0),
            helper.make_node("Gemm", ["features", "weight", "bias"], [logits]),
        ],
        "colours",
        [helper.make_tensor_value_info(pixels, TensorProto.FLOAT, ["n", channels, side, side])],
        [
            helper.make_tensor_value_info(
                logits, TensorProto.FLOAT, ["n", outputs if shown is None else shown]
            ),
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", "d"]),
        ],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(weight, "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, dict(card() if metadata is None else metadata))
    onnx.save(model, path)
    return path
