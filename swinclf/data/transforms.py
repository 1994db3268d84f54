"""Image transforms for evaluation: images -> arrays, according to a `Preprocess`."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from swinclf.preprocess import Fit, Interpolation, Preprocess

if TYPE_CHECKING:
    import torch

LONGEST = 32  # longer aspect ratios are cropped before scaling; only the centre is used anyway

RESAMPLING = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}


def eval_pixels(picture: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Return the pixels for evaluation: RGB -> (H, W, 3) uint8."""
    size = (preprocess.width, preprocess.height)
    resampling = RESAMPLING[preprocess.interpolation]
    if preprocess.fit is Fit.SQUASH:
        fitted = picture.resize(size, resampling)
    elif preprocess.fit is Fit.PAD:
        fitted = _padded(picture, size, resampling, fill_colour(preprocess))
    else:
        fitted = _centre_crop(cover(picture, preprocess.scaled_size, resampling), size)
    return np.asarray(fitted)


def to_numpy_input(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Convert (N, H, W, 3) uint8 -> (N, 3, H, W) float32, normalised, without torch."""
    scale, shift = scale_and_shift(preprocess)
    return np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))


def to_torch_input(pixels: np.ndarray, preprocess: Preprocess, device: str) -> torch.Tensor:
    """Convert (N, H, W, 3) uint8 -> (N, 3, H, W) float32, normalised on `device`."""
    scale, shift = scale_and_shift_on(preprocess, device)
    return (to_device(pixels, device) * scale + shift).permute(0, 3, 1, 2).contiguous()


def to_device(values: np.ndarray, device: str) -> torch.Tensor:
    """Return an array as a tensor on a device; copied asynchronously to a GPU."""
    import torch

    tensor = torch.from_numpy(values)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@lru_cache(maxsize=8)
def scale_and_shift_on(preprocess: Preprocess, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `scale_and_shift` on a device."""
    scale, shift = scale_and_shift(preprocess)
    return to_device(scale, device), to_device(shift, device)


def scale_and_shift(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Return (pixel / 255 - mean) / std as one product and one sum, (3,) float32 each."""
    std = np.asarray(preprocess.std, dtype=np.float64)
    mean = np.asarray(preprocess.mean, dtype=np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def fill_colour(preprocess: Preprocess) -> tuple[int, ...]:
    """Return the mean colour, which fills what an image does not cover: red, green, blue."""
    return tuple(round(255 * value) for value in preprocess.mean)


def cover(picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Scale an image, in proportion, to the smallest size that covers (height, width)."""
    picture = _without_ends(picture)
    return picture.resize(covering_size(picture.size, size), resampling)


def covering_size(size: tuple[int, int], target: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest (width, height) in proportion to `size` that covers (height, width)."""
    height, width = target
    if height * size[0] >= width * size[1]:  # the height decides
        return int(height * size[0] / size[1]), height
    return width, int(width * size[1] / size[0])


def _without_ends(picture: Image.Image) -> Image.Image:
    """Return the centre of a very long image, which could take any memory if scaled whole."""
    width, height = picture.size
    longest = LONGEST * min(width, height)
    if max(width, height) <= longest:
        return picture
    return _centre_crop(picture, (min(width, longest), min(height, longest)))


def _padded(
    picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling, fill: tuple[int, ...]
) -> Image.Image:
    """Scale an image, in proportion, to fit into (width, height), and pad it with a colour.

    As Pillow's `ImageOps.pad`, which fails if the shorter side is less than a pixel.
    """
    width, height = size
    if picture.width * height >= picture.height * width:  # the width decides
        height = max(1, round(picture.height / picture.width * width))
    else:
        width = max(1, round(picture.width / picture.height * height))
    padded = Image.new("RGB", size, fill)
    corner = round((size[0] - width) / 2), round((size[1] - height) / 2)
    padded.paste(picture.resize((width, height), resampling), corner)
    return padded


def _centre_crop(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    width, height = size
    left, top = round((picture.width - width) / 2), round((picture.height - height) / 2)
    return picture.crop((left, top, left + width, top + height))
