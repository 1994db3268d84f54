"""The inputs of `predict`: paths, encoded images, PIL images and arrays.

An invalid image is reported as the error of that input, as an unreadable file is; an invalid
collection of inputs raises.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from swinclf.data.dataset_layout import ARCHIVES
from swinclf.data.images import turn_upright
from swinclf.data.walk import walk_images
from swinclf.errors import ConfigError

Source = str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | np.ndarray
VIDEOS = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
ENCODED = (bytes, bytearray, memoryview)
ONE = "a path, the bytes of an image file, a PIL image or a (height, width, 3) uint8 array"


def list_sources(inputs: Any) -> Iterable[Any]:
    """Return the inputs as an iterable; a single one becomes a list of one.

    `inputs` are a `Source`, an iterable of them, or an (N, height, width, 3) array.

    Raises:
        ConfigError: If they are none of these.
    """
    if isinstance(inputs, (str, os.PathLike, Image.Image, *ENCODED)):
        return [inputs]
    if getattr(inputs, "ndim", None) in (0, 2, 3):
        return [inputs]
    if isinstance(inputs, Mapping) or not isinstance(inputs, Iterable):
        raise ConfigError(
            f"{ONE}, or an iterable of those",
            found=_kind_of(inputs),
            hint='classifier.predict(["a.jpg", "b.jpg"])',
        )
    return inputs


def to_pil(source: Any) -> Image.Image:
    """Convert a PIL image, or an array or tensor (H, W, 3) of uint8, to a PIL image.

    An image as `Image.open` returns it is turned upright, as its file is; one that was changed
    since is not, as that may have been done.

    Raises:
        ValueError: If it is something else, or empty; with a hint.
    """
    if isinstance(source, Image.Image):
        if 0 in source.size:
            raise ValueError(f"expected an image with pixels; found one of size {source.size}")
        return turn_upright(source) if isinstance(source, ImageFile) else source
    if not hasattr(source, "__array__") or not hasattr(source, "shape"):
        raise ValueError(f"expected {ONE}; found {_kind_of(source)}")
    pixels = np.asarray(source)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        found = f"found shape {pixels.shape} of {pixels.dtype}{_range_of(pixels)}"
        raise ValueError(f"expected an array (height, width, 3) of uint8; {found}{_hint(pixels)}")
    return Image.fromarray(pixels)


def explain_unreadable(path: str, reason: str) -> str:
    """Return why a path could not be read: a URL, folder, archive or video, else `reason`."""
    if path.startswith(("http:/", "https:/", "ftp:/", "s3:/", "gs:/")):
        return "this is a URL, not a file: download it first"
    if os.path.isdir(path):  # noqa: PTH112 - paths stay the strings they were given as
        if next(iter(walk_images(path)), None) is None:
            return "the folder contains no images"
        return "this is a folder, not an image: pass its files as inputs"
    if path.lower().endswith(ARCHIVES) and Path(path).is_file():
        return "this is an archive, not an image: unpack it first"
    if path.lower().endswith(VIDEOS) and Path(path).is_file():
        return "this is a video, not an image: save its frames as images first"
    return reason


def _kind_of(value: object) -> str:
    return "None" if value is None else f"a value of type {type(value).__name__}"


def _range_of(pixels: np.ndarray) -> str:
    if not pixels.size or pixels.dtype.kind not in "iuf":
        return ""
    return f" from {pixels.min():g} to {pixels.max():g}"


def _hint(pixels: np.ndarray) -> str:
    """Return how to convert an array to a valid one, where that can be guessed."""
    if not pixels.size:
        return ", which is empty"
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3) and pixels.shape[2] not in (3, 4):
        return "; channels come last: array.transpose(1, 2, 0)"
    if pixels.ndim == 2:
        return "; for a greyscale image: numpy.stack([array] * 3, axis=-1)"
    if pixels.ndim == 3 and pixels.shape[2] == 4:
        return "; without the alpha channel: array[..., :3]"
    if pixels.dtype.kind == "f":
        low, high = float(pixels.min()), float(pixels.max())
        if low >= 0 and high <= 1:
            return "; for values from 0 to 1: (255 * array).round().astype('uint8')"
        if low >= 0 and high <= 255:
            return "; for values from 0 to 255: array.round().astype('uint8')"
        return "; pass the image before normalisation"
    if pixels.dtype.kind in "iu" and pixels.min() >= 0 and pixels.max() <= 255:
        return "; array.astype('uint8')"
    return ""
