"""Augmentation of training images: what is drawn for an image, and its application with Pillow.

The parameters come from a generator per (seed, epoch, image), so the result does not depend on
threads, batches or interruptions of a run. `training.device_augmentation` applies the same
parameters to a whole batch on a GPU.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from swinclf.config import Augment
from swinclf.data.transforms import (
    RESAMPLING,
    cover,
    covering_size,
    eval_pixels,
    fill_colour,
)
from swinclf.preprocess import Preprocess

DEVICE_REDUCES = 2  # JPEGs are less than twice as large, as they are decoded at half their size
DEVICE_ASPECT = 4  # of longer images the matrices that reduce them take much memory
Matrix = tuple[float, float, float, float, float, float]
_Colour = tuple[int, ...]


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of training images."""

    kind: Augment
    min_crop: float  # smallest area of a random crop, a fraction in (0, 1]
    mirror: bool  # whether to mirror half of the images
    rotate: float = 0.0  # largest rotation to either side, in turns
    zoom: float = 0.0  # largest change of width and of height, each drawn by itself, in [0, 1)

    @property
    def crops(self) -> bool:
        """Whether a part of the image is drawn."""
        return self.kind is not Augment.NONE


class Operation(IntEnum):
    """Operations of TrivialAugment, in the order in which they are drawn."""

    IDENTITY = 0
    SHEAR_X = 1
    SHEAR_Y = 2
    TRANSLATE_X = 3
    TRANSLATE_Y = 4
    ROTATE = 5
    BRIGHTNESS = 6
    COLOUR = 7
    CONTRAST = 8
    SHARPNESS = 9
    POSTERIZE = 10
    SOLARIZE = 11
    AUTOCONTRAST = 12
    EQUALIZE = 13


class Draw(NamedTuple):
    """The parameters of one image in one epoch."""

    # left, top, right and bottom of the part that is resized to the network's size, px; None for
    # an image that has that size
    box: tuple[float, float, float, float] | None
    operation: Operation
    strength: float  # of the operation, in [0, 1]
    sign: int  # of the strength, 1 or -1
    # from a pixel of the result (x, y) to one of the image, as of Pillow; None without rotation and
    # zoom
    matrix: Matrix | None
    is_mirrored: bool  # whether it is the mirror image


class AugmentedImage(NamedTuple):
    """An image after augmentation."""

    pixels: np.ndarray  # (H, W, 3) uint8
    is_mirrored: bool  # whether it is the mirror image


def common_pixels(
    picture: Image.Image, preprocess: Preprocess, augmentation: Augmentation
) -> np.ndarray:
    """Return the pixels that are common to all epochs, before augmentation: RGB -> (H, W, 3) uint8.

    They can be cached. A large image is scaled down until its smallest crop has the input size.
    """
    if not augmentation.crops:
        return eval_pixels(picture, preprocess)
    side = common_side(preprocess, augmentation)
    if min(picture.size) > side:
        picture = cover(picture, (side, side), RESAMPLING[preprocess.interpolation])
    return np.asarray(picture)


def device_pixels(
    picture: Image.Image, preprocess: Preprocess, augmentation: Augmentation
) -> np.ndarray:
    """Return `common_pixels`, or what a device reduces to these in no time: (H, W, 3) uint8.

    To scale an image down takes longer than to decode it.
    """
    side, (shorter, longer) = common_side(preprocess, augmentation), sorted(picture.size)
    if (
        augmentation.crops
        and shorter <= DEVICE_REDUCES * side
        and longer <= DEVICE_ASPECT * shorter
    ):
        return np.asarray(picture)
    return common_pixels(picture, preprocess, augmentation)


def common_size(
    size: tuple[int, int], preprocess: Preprocess, augmentation: Augmentation
) -> tuple[int, int]:
    """Return the (width, height) of `common_pixels` for an image that is cropped, of `size`."""
    side = common_side(preprocess, augmentation)
    return covering_size(size, (side, side)) if min(size) > side else size


def common_side(preprocess: Preprocess, augmentation: Augmentation) -> int:
    """Return the shorter side of large images after `common_pixels`, px."""
    longer = max(preprocess.height, preprocess.width)
    return math.ceil(longer / math.sqrt(augmentation.min_crop))


def draw_augmentation(
    size: tuple[int, int],
    preprocess: Preprocess,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> Draw:
    """Draw the augmentation of an image of (width, height) for one epoch.

    `rng` is that of this image and epoch.
    """
    box, operation, strength, sign, matrix = None, Operation.IDENTITY, 0.0, 1, None
    if augmentation.crops:
        proportion = preprocess.width / preprocess.height
        box = _random_box(size, augmentation.min_crop, proportion, rng)
        if augmentation.kind is Augment.TRIVIAL:
            # TrivialAugment (Mueller & Hutter 2021), sec. 3: one operation, uniform, at a uniform
            # strength of the "wide" range in table 5.
            operation = Operation(int(rng.integers(len(Operation))))
            strength = float(rng.uniform(0, 1))
            sign = 1 if rng.random() < 0.5 else -1
        size = (preprocess.width, preprocess.height)
    if augmentation.rotate or augmentation.zoom:
        matrix = _rotation_and_zoom(size, augmentation.rotate, augmentation.zoom, rng)
    is_mirrored = bool(augmentation.mirror and rng.random() < 0.5)
    return Draw(box, operation, strength, sign, matrix, is_mirrored)


def augment_pixels(
    common: np.ndarray,
    preprocess: Preprocess,
    augmentation: Augmentation,
    rng: np.random.Generator,
) -> AugmentedImage:
    """Return the pixels for one epoch of training: cropped, changed, rotated, mirrored.

    `common` is from `common_pixels` and not changed; `rng` is that of this image and epoch.
    """
    height, width = common.shape[:2]
    drawn, pixels = draw_augmentation((width, height), preprocess, augmentation, rng), common
    if drawn.box is not None:
        size = (preprocess.width, preprocess.height)
        resampling = RESAMPLING[preprocess.interpolation]
        augmented = Image.fromarray(common).resize(size, resampling, box=drawn.box)
        if drawn.operation is not Operation.IDENTITY:
            augmented = _changed(augmented, drawn, fill_colour(preprocess))
        pixels = np.asarray(augmented)
    if drawn.matrix is not None:
        pixels = _transformed(pixels, drawn.matrix)
    return AugmentedImage(pixels[:, ::-1] if drawn.is_mirrored else pixels, drawn.is_mirrored)


def operation_matrix(operation: Operation, amount: float, size: tuple[int, int]) -> Matrix | None:
    """Return the affine matrix of a geometric operation, as `Draw.matrix`; None for others.

    `amount` is the strength with its sign, `size` the (width, height) of the image.
    """
    width, height = size
    if operation is Operation.SHEAR_X:
        return (1, 0.99 * amount, -0.99 * amount * height / 2, 0, 1, 0)
    if operation is Operation.SHEAR_Y:
        return (1, 0, 0, 0.99 * amount, 1, -0.99 * amount * width / 2)
    if operation is Operation.TRANSLATE_X:
        return (1, 0, 32 * amount, 0, 1, 0)
    if operation is Operation.TRANSLATE_Y:
        return (1, 0, 0, 0, 1, 32 * amount)
    if operation is Operation.ROTATE:  # counter-clockwise, about the centre
        cos, sin = math.cos(math.radians(135 * amount)), math.sin(math.radians(135 * amount))
        x, y = width / 2, height / 2
        return (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
    return None


def enhancement_factor(amount: float) -> float:
    """Return the factor of an enhancement of signed strength `amount`; 1 changes nothing."""
    return 1 + 0.99 * amount


def posterized_bits(strength: float) -> int:
    """Return how many bits of a colour `Operation.POSTERIZE` leaves."""
    return 8 - round(6 * strength)


def solarize_threshold(strength: float) -> int:
    """Return the value from which `Operation.SOLARIZE` inverts."""
    return round(255 * (1 - strength))


_ENHANCERS: dict[Operation, Callable[[Image.Image], ImageEnhance._Enhance]] = {
    Operation.BRIGHTNESS: ImageEnhance.Brightness,
    Operation.COLOUR: ImageEnhance.Color,
    Operation.CONTRAST: ImageEnhance.Contrast,
    Operation.SHARPNESS: ImageEnhance.Sharpness,
}


def _changed(picture: Image.Image, drawn: Draw, fill: _Colour) -> Image.Image:
    """Apply the operation that was drawn."""
    operation, strength = drawn.operation, drawn.strength
    amount = drawn.sign * strength
    if operation is Operation.ROTATE:
        return picture.rotate(135 * amount, Image.Resampling.BILINEAR, fillcolor=fill)
    matrix = operation_matrix(operation, amount, picture.size)
    if matrix is not None:
        affine, bilinear = Image.Transform.AFFINE, Image.Resampling.BILINEAR
        return picture.transform(picture.size, affine, matrix, bilinear, fillcolor=fill)
    if operation in _ENHANCERS:
        return _ENHANCERS[operation](picture).enhance(enhancement_factor(amount))
    if operation is Operation.POSTERIZE:
        return ImageOps.posterize(picture, posterized_bits(strength))
    if operation is Operation.SOLARIZE:
        return ImageOps.solarize(picture, solarize_threshold(strength))
    if operation is Operation.AUTOCONTRAST:
        return ImageOps.autocontrast(picture)
    return ImageOps.equalize(picture)


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


def _rotation_and_zoom(
    size: tuple[int, int], turns: float, zoom: float, rng: np.random.Generator
) -> Matrix:
    """Draw a rotation by up to `turns` and a scale of 1 - `zoom` to 1 + `zoom`, centred.

    The factors of width and height are drawn separately.
    """
    angle = 2 * math.pi * rng.uniform(-turns, turns)
    tall, wide = map(float, rng.uniform(1 - zoom, 1 + zoom, size=2))
    cos, sin = math.cos(angle), math.sin(angle)
    x, y = size[0] / 2, size[1] / 2
    first, second = (wide * cos, -wide * sin), (tall * sin, tall * cos)
    return (
        *(*first, x - first[0] * x - first[1] * y),
        *(*second, y - second[0] * x - second[1] * y),
    )


def _transformed(pixels: np.ndarray, matrix: Matrix) -> np.ndarray:
    """Apply an affine matrix to (H, W, 3) pixels; the border is reflected."""
    height, width = pixels.shape[:2]
    linear, half = np.array(matrix).reshape(2, 3)[:, :2], np.array([width / 2, height / 2])
    border = math.ceil(max(0.0, *(np.abs(linear) @ half - half))) + 1
    padded = np.pad(pixels, ((border, border), (border, border), (0, 0)), "symmetric")
    shift = half + border - linear @ half  # about the centre
    coefficients = (*linear[0], shift[0], *linear[1], shift[1])
    turned = Image.fromarray(padded).transform(
        (width, height), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR
    )
    return np.asarray(turned)
