"""Preprocessing and decisions as ONNX nodes, around a network's own graph.

The extended graph takes decoded images, (N, H, W, 3) uint8 of any size, and repeats
`data.transforms` on them. After the network it computes probabilities, the label, and whether the
prediction is accepted.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from swinclf.card import ModelCard
from swinclf.confidence.selective import Confidence, Threshold
from swinclf.data.transforms import LONGEST, fill_colour, scale_and_shift
from swinclf.device import import_extra
from swinclf.errors import ExportError
from swinclf.export_formats import (
    ACCEPTED,
    IMAGES,
    LABEL,
    LOGITS,
    OOD_SCORE,
    PIXELS,
    PROBABILITIES,
)
from swinclf.preprocess import Fit, Interpolation, Preprocess

REJECT_PRECISION = 0.95  # as `predict --reject` without a value

# Pillow's resampling filters. ONNX Runtime rounds uint8 after each of the two passes, as Pillow
# does; resized as floats, images would differ by up to half a step of 1/255.
_RESIZE: dict[Interpolation, dict[str, Any]] = {
    Interpolation.BILINEAR: {"mode": "linear", "antialias": 1, "exclude_outside": 1},
    Interpolation.BICUBIC: {
        "mode": "cubic",
        "cubic_coeff_a": -0.5,
        "antialias": 1,
        "exclude_outside": 1,
    },
}


def embed_preprocess(model: Any, card: ModelCard) -> None:
    """Give a model the input `images` instead of `pixels`, and outputs for decisions.

    The outputs are `probabilities` (N, K) float32, `label` (N,) int64 and, if the card has
    rejection thresholds, `accepted` (N,) bool.

    The model, an onnx.ModelProto with `pixels` -> `logits`, divided by the temperature, and
    `ood_score`, is changed.

    Raises:
        ExportError: If the preprocessing cannot be expressed.
    """
    check_embeddable(card.preprocess)
    (onnx,) = import_extra("onnx", "onnx")
    kinds = onnx.TensorProto
    before, after = _Nodes(onnx, "before"), _Nodes(onnx, "after")
    _add_preprocess(before, card.preprocess)
    probabilities = after.op("Softmax", LOGITS, axis=1, name=PROBABILITIES)
    after.op("ArgMax", LOGITS, axis=1, keepdims=0, name=LABEL)
    outputs = [
        (PROBABILITIES, kinds.FLOAT, ["batch", len(card.classes)]),
        (LABEL, kinds.INT64, ["batch"]),
    ]
    if threshold := embedded_threshold(card.confidence):
        _add_reject_rule(after, card.confidence, probabilities, threshold)
        outputs.append((ACCEPTED, kinds.BOOL, ["batch"]))
    graph, value = model.graph, onnx.helper.make_tensor_value_info
    nodes = [*before.nodes, *graph.node, *after.nodes]
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.initializer.extend([*before.constants, *after.constants])
    graph.input.append(value(IMAGES, kinds.UINT8, ["batch", "height", "width", 3]))
    graph.output.extend(value(*one) for one in outputs)


def check_embeddable(preprocess: Preprocess) -> None:
    """Raise an ExportError if a preprocessing cannot be expressed as ONNX nodes."""
    reason = ""
    if preprocess.interpolation not in _RESIZE:
        reason = (
            f"{preprocess.interpolation} resampling; ONNX repeats only "
            f"{' and '.join(_RESIZE)} as Pillow computes them"
        )
    elif preprocess.ranges:
        kinds = ", ".join(one.kind for one in preprocess.ranges)
        reason = f"a training on images of {kinds}, while the input of the file has 8 bits"
    if reason:
        raise ExportError(
            "a run whose preprocessing can be embedded",
            found=reason,
            hint="swinclf export --embed none, with the preprocessing in your own program",
        )


def embedded_threshold(confidence: Confidence) -> Threshold | None:
    """Return the threshold of `accepted`: for 0.95, else for the highest precision reached."""
    rows = confidence.thresholds
    return confidence.threshold(REJECT_PRECISION) or (rows[-1] if rows else None)


class _Nodes:
    """ONNX nodes and their constants; a value is referred to by its name."""

    def __init__(self, onnx: Any, prefix: str) -> None:
        self._onnx, self._prefix = onnx, prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def op(self, kind: str, *inputs: _Value, name: str = "", **attributes: Any) -> str:
        """Add a node of an operator with one output; return the output's name.

        The inputs are names of values, constants, or "" for one that is left out.
        """
        names = [one if isinstance(one, str) else self._constant(one) for one in inputs]
        output = name or self._new_name(kind)
        self.nodes.append(self._onnx.helper.make_node(kind, names, [output], **attributes))
        return output

    def shape(self, images: str) -> str:
        """Return (height, width) of (N, H, W, 3), int64."""
        return self.op("Shape", images, start=1, end=3)

    def swapped(self, size: str) -> str:
        """Return (width, height) of (height, width)."""
        return self.op("Gather", size, np.array([1, 0]))

    def rounded(self, value: str) -> str:
        """Return a float64 as int64, halves to even numbers, as Python's `round`."""
        return self.op("Cast", self.op("Round", value), to=self._onnx.TensorProto.INT64)

    def to_double(self, value: str) -> str:
        """Return a value as float64."""
        return self.op("Cast", value, to=self._onnx.TensorProto.DOUBLE)

    def to_float(self, value: str) -> str:
        """Return a value as float32."""
        return self.op("Cast", value, to=self._onnx.TensorProto.FLOAT)

    def half(self, size: str) -> str:
        """Return half of int64 sizes, rounded."""
        return self.rounded(self.op("Mul", self.to_double(size), np.array(0.5)))

    def centre(self, images: str, whole: _Value, size: _Value, axes: tuple[int, int]) -> str:
        """Return the centre crop of images, from one (height, width) to another."""
        corner = self.half(self.op("Sub", whole, size))
        return self.op("Slice", images, corner, self.op("Add", corner, size), np.array(axes))

    def _constant(self, values: np.ndarray | np.generic) -> str:
        name = self._new_name("constant")
        self.constants.append(self._onnx.numpy_helper.from_array(np.asarray(values), name))
        return name

    def _new_name(self, kind: str) -> str:
        return f"swinclf/{self._prefix}/{kind}_{len(self.nodes) + len(self.constants)}"


_Value = str | np.ndarray | np.generic


def _add_preprocess(nodes: _Nodes, preprocess: Preprocess) -> None:
    """Add `images`, (N, H, W, 3) uint8 -> `pixels`, (N, 3, H, W) float32, as `eval_pixels`."""
    size = np.array([preprocess.height, preprocess.width])
    if preprocess.fit is Fit.SQUASH:
        values = nodes.to_float(_resized(nodes, IMAGES, size, preprocess.interpolation))
    elif preprocess.fit is Fit.PAD:
        values = _padded(nodes, size, preprocess)
    else:
        values = nodes.to_float(_cropped(nodes, size, preprocess))
    scale, shift = (one.reshape(3, 1, 1) for one in scale_and_shift(preprocess))
    nodes.op("Add", nodes.op("Mul", values, scale), shift, name=PIXELS)


def _resized(nodes: _Nodes, images: str, size: _Value, interpolation: Interpolation) -> str:
    """Return (N, H, W, 3) images as (N, 3, *size), still uint8."""
    planes = nodes.op("Transpose", images, perm=[0, 3, 1, 2])
    whole = nodes.op("Concat", nodes.op("Shape", planes, end=2), size, axis=0)
    return nodes.op("Resize", planes, "", "", whole, **_RESIZE[interpolation])


def _cropped(nodes: _Nodes, size: np.ndarray, preprocess: Preprocess) -> str:
    """Return the centre of images that are scaled to cover a size."""
    whole = nodes.shape(IMAGES)
    longest = nodes.op("Mul", nodes.op("ReduceMin", whole, keepdims=1), np.array([LONGEST]))
    trimmed_size = nodes.op("Min", whole, longest)
    trimmed = nodes.centre(IMAGES, whole, trimmed_size, (1, 2))
    target = np.array(preprocess.scaled_size)
    # Of each side: what the proportion demands if the other side has its target, rounded down.
    product = nodes.op("Mul", trimmed_size, target[::-1].copy())
    proportional = nodes.op("Div", product, nodes.swapped(trimmed_size))
    scaled_size = nodes.op("Max", proportional, target)
    scaled = _resized(nodes, trimmed, scaled_size, preprocess.interpolation)
    return nodes.centre(scaled, scaled_size, size, (2, 3))


def _padded(nodes: _Nodes, size: np.ndarray, preprocess: Preprocess) -> str:
    """Return images that are scaled to fit into a size and padded with the mean colour."""
    whole = nodes.to_double(nodes.shape(IMAGES))
    ratio = nodes.op("Div", whole, nodes.swapped(whole))
    proportional = nodes.rounded(nodes.op("Mul", ratio, size[::-1].astype(np.float64)))
    scaled_size = nodes.op("Max", nodes.op("Min", proportional, size), np.array(1))
    scaled = nodes.to_float(_resized(nodes, IMAGES, scaled_size, preprocess.interpolation))
    rest = nodes.op("Sub", size, scaled_size)
    corner = nodes.half(rest)
    margins = nodes.op("Concat", corner, nodes.op("Sub", rest, corner), axis=0)
    fill = np.array(fill_colour(preprocess), np.float32).reshape(3, 1, 1)
    # Pad has one constant for all channels: 0, the difference from the colour.
    padded = nodes.op("Pad", nodes.op("Sub", scaled, fill), margins, "", np.array([2, 3]))
    return nodes.op("Add", padded, fill)


def _add_reject_rule(
    nodes: _Nodes, confidence: Confidence, probabilities: str, threshold: Threshold
) -> None:
    """Add `accepted`, as not `confidence.selective.is_rejected`."""
    best = nodes.op("ReduceMax", probabilities, np.array([1]), keepdims=0)
    is_sure = nodes.op("GreaterOrEqual", best, np.float32(threshold.probability))
    if confidence.space is None:
        nodes.op("Identity", is_sure, name=ACCEPTED)
        return
    is_familiar = nodes.op("LessOrEqual", OOD_SCORE, np.float32(confidence.ood_threshold))
    nodes.op("And", is_sure, is_familiar, name=ACCEPTED)
