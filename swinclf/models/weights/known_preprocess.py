"""Preprocessing of pretrained weights, from the configuration files next to them or their layout.

Reads timm's config.json, transformers' preprocessor_config.json (processor_config.json if text is
processed too) and OpenCLIP's open_clip_config.json; damaged or missing values are ignored.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from swinclf.models.weights.layouts import LAYOUTS
from swinclf.preprocess import FIT_OF_CROP_MODE, Colours, Fit, Interpolation, Preprocess

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_TOO_LARGE = (ArithmeticError, RecursionError)  # of numbers and depths
_MOST_PX = 65_536  # side of an image; anything larger is damage
_NORMALISATIONS = {"imagenet": IMAGENET, "clip": CLIP, "half": HALF}
# Pillow's numbers, as written by transformers.
_RESAMPLE = {
    0: Interpolation.NEAREST,
    1: Interpolation.LANCZOS,
    2: Interpolation.BILINEAR,
    3: Interpolation.BICUBIC,
}
# Resize and crop sides of torchvision, px (crop first), by width and number of blocks in the
# deepest stage. Source: the transforms of its *_Weights.IMAGENET1K_V1.
_TORCHVISION_SWIN = {
    ("torchvision Swin", 96, 6): (224, 232),
    ("torchvision Swin", 96, 18): (224, 246),
    ("torchvision Swin", 128, 18): (224, 238),
    ("torchvision Swin V2", 96, 6): (256, 260),
    ("torchvision Swin V2", 96, 18): (256, 260),
    ("torchvision Swin V2", 128, 18): (256, 272),
}


@dataclass(frozen=True, kw_only=True)
class KnownPreprocess:
    """Known preprocessing of weights; None where unknown."""

    reason: str  # its origin, as in "(from config.json)"
    mean: Colours | None = None  # red, green, blue, in [0, 1]
    std: Colours | None = None  # red, green, blue
    interpolation: Interpolation | None = None  # filter of the resize
    crop_pct: float | None = None  # fraction of the resized side that the crop covers, in (0, 1]
    fit: Fit | None = None  # how other aspect ratios are handled
    img_size: int | None = None  # side of the image, px, if it is square


def read_preprocess(weights: Path) -> KnownPreprocess | None:
    """Read the configuration files next to a weights file; None if there are none."""
    readers: dict[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {
        "config.json": _from_timm,
        "preprocessor_config.json": _from_transformers,
        "processor_config.json": lambda config: _from_transformers(config["image_processor"]),
        "open_clip_config.json": _from_open_clip,
    }
    for name, read in readers.items():
        try:
            content = json.loads((weights.parent / name).read_text(encoding="utf-8"))
            found = read(content) if isinstance(content, dict) else {}
        except (OSError, ValueError, TypeError, KeyError, AttributeError, *_TOO_LARGE):
            continue
        if any(value is not None for value in found.values()):
            return KnownPreprocess(reason=f"from {name}", **found)
    return None


def preprocess_of_run(preprocess: Preprocess) -> KnownPreprocess:
    """Return the whole preprocessing of an earlier run."""
    return KnownPreprocess(
        reason="as the run that --weights names",
        mean=preprocess.mean,
        std=preprocess.std,
        interpolation=preprocess.interpolation,
        crop_pct=preprocess.crop_pct,
        fit=preprocess.fit,
        img_size=preprocess.height,
    )


def preprocess_of_layout(
    layout: str | None, tensors: Mapping[str, Tensor]
) -> KnownPreprocess | None:
    """Return the preprocessing common to all published files of a layout; None if they differ.

    `tensors` are under timm's names.
    """
    named = next((one for one in LAYOUTS if one.name == layout), None)
    if named is None or named.normalisation is None:
        return None
    mean, std = _NORMALISATIONS[named.normalisation]
    width = tensors["patch_embed.proj.weight"].shape[0] if tensors else 0
    interpolation, crop = None, None
    if named.name == "torchvision ViT":
        patch = tensors["patch_embed.proj.weight"].shape[-1]
        crop = _crop_of(224, 242 if (width, patch) == (1024, 16) else 256)
        interpolation = Interpolation.BILINEAR
    elif named.name.startswith("torchvision"):
        blocks = sum(
            name.startswith("layers.2.") and name.endswith(".norm1.weight") for name in tensors
        )
        sides = _TORCHVISION_SWIN.get((named.name, width, blocks))
        crop = _crop_of(*sides) if sides else None
        interpolation = Interpolation.BICUBIC
    return KnownPreprocess(
        reason=f"as usual for {named.name}",
        mean=mean,
        std=std,
        interpolation=interpolation,
        crop_pct=crop,
        fit=Fit.CROP if crop else None,
    )


def _from_timm(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read the config.json of timm's save_for_hf, also as transformers' TimmWrapper writes it."""
    own = config.get("pretrained_cfg") or (config if "architecture" in config else {})
    mode = own.get("crop_mode")
    size = own.get("input_size") or ()
    return {
        "mean": _colours(own.get("mean"), low=0),
        "std": _colours(own.get("std")),
        "interpolation": _interpolation(own.get("interpolation")),
        "crop_pct": _fraction(own.get("crop_pct")),
        "fit": None if mode is None else FIT_OF_CROP_MODE.get(str(mode), Fit.CROP),
        "img_size": _side(size[1:]),
    }


def _from_transformers(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read a preprocessor_config.json with a resize to a square, or a resize and a crop."""
    size, crop = config.get("size"), config.get("crop_size")
    scaled, cut = _edge(size), _edge(crop)
    crops = bool(config.get("do_center_crop")) and cut is not None
    fraction = _fraction(config.get("crop_pct"))
    is_square = isinstance(size, int) or (isinstance(size, Mapping) and "height" in size)
    fit = None
    if crops and scaled and cut:
        fit, fraction = Fit.CROP, _crop_of(cut, max(scaled, cut))
    elif fraction is not None and scaled and scaled < 384:
        fit = Fit.CROP
    elif is_square or (fraction is not None and scaled):  # ConvNeXT crops small images only
        fit, fraction = Fit.SQUASH, 1.0
    scale = 1.0 if config.get("do_rescale") is False else config.get("rescale_factor") or 1 / 255
    factor = 255 * float(scale)
    normalises = config.get("do_normalize", True)
    mean, std = config.get("image_mean"), config.get("image_std")
    if not normalises:
        mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
    if math.isclose(factor, 1, rel_tol=1e-3):
        factor = 1.0
    return {
        "mean": _colours(mean, low=0, over=factor),
        "std": _colours(std, over=factor),
        "interpolation": _RESAMPLE.get(config.get("resample", -1)),
        "crop_pct": fraction,
        "fit": fit,
        "img_size": cut if crops else scaled,
    }


def _from_open_clip(config: Mapping[str, Any]) -> dict[str, Any]:
    """Read an open_clip_config.json: resized by the shorter side, and cropped without a margin."""
    own = config.get("preprocess_cfg") or {}
    vision = (config.get("model_cfg") or {}).get("vision_cfg") or {}
    fits = {"shortest": Fit.CROP, "longest": Fit.PAD, "squash": Fit.SQUASH}
    mean = _colours(own.get("mean"), low=0)
    return {
        "mean": mean,
        "std": _colours(own.get("std")),
        "interpolation": _interpolation(own.get("interpolation")),
        "crop_pct": 1.0 if mean else None,
        "fit": fits.get(own.get("resize_mode", "shortest")) if mean else None,
        "img_size": _edge(own.get("size")) or _edge(vision.get("image_size")),
    }


def _colours(value: Any, *, low: float | None = None, over: float = 1.0) -> Colours | None:
    """Return three numbers, divided by `over`; None if they are not plausible."""
    if not isinstance(value, list | tuple) or len(value) != 3:
        return None
    red, green, blue = (float(one) / over for one in value)
    if not all(math.isfinite(one) and one > -1e-9 for one in (red, green, blue)):
        return None
    if low is None and min(red, green, blue) <= 0:
        return None
    return red, green, blue


def _interpolation(value: Any) -> Interpolation | None:
    return Interpolation(value) if value in set(Interpolation) else None


def _fraction(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        return None
    return float(value)


def _edge(size: Any) -> int | None:
    """Return the side of a square, or the shorter side of a resize, px."""
    if isinstance(size, Mapping):
        if "shortest_edge" in size:
            return _edge(size["shortest_edge"])
        return _side((size.get("height"), size.get("width")))
    if isinstance(size, list | tuple):
        return _side(size)
    is_size = isinstance(size, int) and not isinstance(size, bool) and 8 <= size <= _MOST_PX
    return size if is_size else None


def _side(size: Any) -> int | None:
    """Return the side of (height, width), px, if it is a square."""
    return _edge(size[0]) if len(size) == 2 and size[0] == size[1] else None


def _crop_of(cut: int, scaled: int) -> float:
    """Return the fraction that crops `scaled` to `cut` px, rounded so that it gives `scaled`."""
    return math.floor(1e4 * cut / scaled + 1e-9) / 1e4
