"""Image transforms: images -> arrays, according to a `Preprocess`.

Augmentation uses a generator per (seed, epoch, image), so its result does not depend on threads,
batches or interruptions of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from swinclf.config import Augment
from swinclf.preprocess import Fit, Interpolation, Preprocess

if TYPE_CHECKING:
    import torch

LONGEST = 32  # longer aspect ratios are cropped before scaling; only the centre is used anyway

_RESAMPLING = {
    Interpolation.NEAREST: Image.Resampling.NEAREST,
    Interpolation.BILINEAR: Image.Resampling.BILINEAR,
    Interpolation.BICUBIC: Image.Resampling.BICUBIC,
    Interpolation.LANCZOS: Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images."""

    kind: Augment
    min_crop: float  # smallest area of a random crop, a fraction in (0, 1]
    mirror: bool  # whether to mirror half of the images
    rotate: float = 0.0  # largest rotation to either side, in turns
    zoom: float = 0.0  # largest change of width and of height, each drawn by itself, in [0, 1)


def eval_pixels(picture: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Return the pixels for evaluation: RGB -> (H, W, 3) uint8."""
    size = (preprocess.width, preprocess.height)
    resampling = _RESAMPLING[preprocess.interpolation]
    if preprocess.fit is Fit.SQUASH:
        fitted = picture.resize(size, resampling)
    elif preprocess.fit is Fit.PAD:
        fitted = _padded(picture, size, resampling, fill_colour(preprocess))
    else:
        fitted = _centre_crop(_cover(picture, preprocess.scaled_size, resampling), size)
    return np.asarray(fitted)


def common_pixels(
    picture: Image.Image, preprocess: Preprocess, augmentation: Augmentation
) -> np.ndarray:
    """Return the pixels that are common to all epochs, before augmentation: RGB -> (H, W, 3) uint8.

    They can be cached. A large image is scaled down until its smallest crop has the input size.
    """
    if augmentation.kind is Augment.NONE:
        return eval_pixels(picture, preprocess)
    side = math.ceil(max(preprocess.height, preprocess.width) / math.sqrt(augmentation.min_crop))
    if min(picture.size) > side:
        picture = _cover(picture, (side, side), _RESAMPLING[preprocess.interpolation])
    return np.asarray(picture)


class AugmentedImage(NamedTuple):
    """An image after augmentation."""

    pixels: np.ndarray  # (H, W, 3) uint8
    is_mirrored: bool  # whether it is the mirror image


def augment_pixels(
    common: np.ndarray,
    preprocess: Preprocess,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> AugmentedImage:
    """Return the pixels for one epoch of training: cropped, rotated, augmented, mirrored.

    `common` is from `common_pixels` and not changed; `rng` is that of this image and epoch.
    """
    pixels = common
    if augmentation.kind is not Augment.NONE:
        picture = Image.fromarray(common)
        size = (preprocess.width, preprocess.height)
        box = _random_box(picture.size, augmentation.min_crop, size[0] / size[1], rng)
        augmented = picture.resize(size, _RESAMPLING[preprocess.interpolation], box=box)
        if augmentation.kind is Augment.TRIVIAL:
            augmented = _trivial_augment(augmented, preprocess, rng)
        pixels = np.asarray(augmented)
    if augmentation.rotate or augmentation.zoom:
        pixels = _rotate_and_zoom(pixels, augmentation.rotate, augmentation.zoom, rng)
    is_mirrored = augmentation.mirror and rng.random() < 0.5
    return AugmentedImage(pixels[:, ::-1] if is_mirrored else pixels, is_mirrored)


def to_numpy_input(pixels: np.ndarray, preprocess: Preprocess) -> np.ndarray:
    """Convert (N, H, W, 3) uint8 -> (N, 3, H, W) float32, normalised, without torch."""
    scale, shift = scale_and_shift(preprocess)
    return np.ascontiguousarray((pixels * scale + shift).transpose(0, 3, 1, 2))


def to_torch_input(pixels: np.ndarray, preprocess: Preprocess, device: str) -> torch.Tensor:
    """Convert (N, H, W, 3) uint8 -> (N, 3, H, W) float32, normalised on `device`."""
    scale, shift = _scale_and_shift_on(preprocess, device)
    return (to_device(pixels, device) * scale + shift).permute(0, 3, 1, 2).contiguous()


def to_device(values: np.ndarray, device: str) -> torch.Tensor:
    """Return an array as a tensor on a device; copied asynchronously to a GPU."""
    import torch

    tensor = torch.from_numpy(values)
    if device.startswith("cuda"):
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@lru_cache(maxsize=8)
def _scale_and_shift_on(preprocess: Preprocess, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    scale, shift = scale_and_shift(preprocess)
    return to_device(scale, device), to_device(shift, device)


def scale_and_shift(preprocess: Preprocess) -> tuple[np.ndarray, np.ndarray]:
    """Return (pixel / 255 - mean) / std as one product and one sum, (3,) float32 each."""
    std = np.asarray(preprocess.std, dtype=np.float64)
    mean = np.asarray(preprocess.mean, dtype=np.float64)
    return (1 / (255 * std)).astype(np.float32), (-mean / std).astype(np.float32)


def fill_colour(preprocess: Preprocess) -> _Colour:
    """Return the mean colour, which fills what an image does not cover: red, green, blue."""
    return tuple(round(255 * value) for value in preprocess.mean)


def _cover(
    picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling
) -> Image.Image:
    """Scale an image, in proportion, to the smallest size that covers (height, width)."""
    height, width = size
    picture = _without_ends(picture)
    if height * picture.width >= width * picture.height:  # the height decides
        width = int(height * picture.width / picture.height)
    else:
        height = int(width * picture.height / picture.width)
    return picture.resize((width, height), resampling)


def _without_ends(picture: Image.Image) -> Image.Image:
    """Return the centre of a very long image, which could take any memory if scaled whole."""
    width, height = picture.size
    longest = LONGEST * min(width, height)
    return _centre_crop(picture, (min(width, longest), min(height, longest)))


def _padded(
    picture: Image.Image, size: tuple[int, int], resampling: Image.Resampling, fill: _Colour
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


def _random_box(
    size: tuple[int, int], min_area: float, proportion: float, rng: np.random.Generator
) -> tuple[float, float, float, float]:
    """Return a random crop of at least `min_area` and 3/4 to 4/3 of the aspect `proportion`.

    Source: Going Deeper with Convolutions (Szegedy et al. 2015), sec. 6.
    """
    width, height = size
    for _ in range(10):
        area = rng.uniform(min_area, 1.0) * width * height
        ratio = proportion * math.exp(rng.uniform(math.log(3 / 4), math.log(4 / 3)))
        box_width, box_height = math.sqrt(area * ratio), math.sqrt(area / ratio)
        if box_width <= width and box_height <= height:
            break
    else:  # a very long image: the largest centre crop of that aspect ratio
        box_width = min(width, height * proportion)
        box_height = box_width / proportion
    left, top = rng.uniform(0, width - box_width), rng.uniform(0, height - box_height)
    return left, top, left + box_width, top + box_height


def _trivial_augment(
    picture: Image.Image, preprocess: Preprocess, rng: np.random.Generator
) -> Image.Image:
    """Apply one random operation at a random strength, both uniform.

    Source: TrivialAugment (Mueller & Hutter 2021), sec. 3, the "wide" strengths of its table 5.
    """
    operation = _OPERATIONS[rng.integers(len(_OPERATIONS))]
    strength = float(rng.uniform(0, 1))
    sign = 1 if rng.random() < 0.5 else -1
    return operation(picture, strength, sign, fill_colour(preprocess))


def _rotate_and_zoom(
    pixels: np.ndarray, turns: float, zoom: float, rng: np.random.Generator
) -> np.ndarray:
    """Rotate by up to `turns` and scale by 1 - `zoom` to 1 + `zoom`; the border is reflected."""
    height, width = pixels.shape[:2]
    angle = 2 * math.pi * rng.uniform(-turns, turns)
    tall, wide = rng.uniform(1 - zoom, 1 + zoom, size=2)
    cos, sin = math.cos(angle), math.sin(angle)
    matrix = np.array([[wide * cos, -wide * sin], [tall * sin, tall * cos]])  # of (x, y)
    half = np.array([width / 2, height / 2])
    border = math.ceil(max(0.0, *(np.abs(matrix) @ half - half))) + 1
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), "symmetric")
    shift = half + border - matrix @ half
    coefficients = (*matrix[0], shift[0], *matrix[1], shift[1])
    turned = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)


def _affine(picture: Image.Image, matrix: tuple[float, ...], fill: _Colour) -> Image.Image:
    return picture.transform(
        picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR, fillcolor=fill
    )


def _shear(picture: Image.Image, x: float, y: float, fill: _Colour) -> Image.Image:
    return _affine(picture, (1, x, -x * picture.height / 2, y, 1, -y * picture.width / 2), fill)


def _enhance(enhancer: Callable[[Image.Image], ImageEnhance._Enhance]) -> _Operation:
    return lambda picture, strength, sign, _: enhancer(picture).enhance(1 + sign * 0.99 * strength)


_Colour = tuple[int, ...]
_Operation = Callable[[Image.Image, float, int, _Colour], Image.Image]
_OPERATIONS: tuple[
    _Operation, ...
] = (  # (picture, strength in [0, 1], sign, fill colour) -> picture
    lambda picture, *_: picture,
    lambda picture, strength, sign, fill: _shear(picture, sign * 0.99 * strength, 0, fill),
    lambda picture, strength, sign, fill: _shear(picture, 0, sign * 0.99 * strength, fill),
    lambda picture, strength, sign, fill: _affine(
        picture, (1, 0, sign * 32 * strength, 0, 1, 0), fill
    ),
    lambda picture, strength, sign, fill: _affine(
        picture, (1, 0, 0, 0, 1, sign * 32 * strength), fill
    ),
    lambda picture, strength, sign, fill: picture.rotate(
        sign * 135 * strength, Image.Resampling.BILINEAR, fillcolor=fill
    ),
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    _enhance(ImageEnhance.Sharpness),
    lambda picture, strength, *_: ImageOps.posterize(picture, 8 - round(6 * strength)),
    lambda picture, strength, *_: ImageOps.solarize(picture, round(255 * (1 - strength))),
    lambda picture, *_: ImageOps.autocontrast(picture),
    lambda picture, *_: ImageOps.equalize(picture),
)
