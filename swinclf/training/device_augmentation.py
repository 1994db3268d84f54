"""Augmentation of a whole batch on a device: what `augment_pixels` does to one image with Pillow.

The parameters are the same, so the results are those of Pillow but for rounding: a value may differ
by a step of 1/255, where both resize or rotate by a few. The number of the device's operations does
not depend on the number of images, and nothing waits for the device.

Sources of the formulas: Pillow's Resample.c, Geometry.c, Blend.c, ImageOps and ImageEnhance, of
which the tests compare the results.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from swinclf.data.augmentation import (
    Draw,
    Operation,
    enhancement_factor,
    operation_matrix,
    posterized_bits,
    solarize_threshold,
)
from swinclf.data.transforms import fill_colour, scale_and_shift_on, to_device
from swinclf.preprocess import Interpolation, Preprocess

CHUNK_NUMBERS = 32 * 1024**2  # of the images that are resized at the same time, and their weights
WEIGHT_STEPS = 2**15  # with weights of whole steps, sums of products with pixels are exact
_LEVELS = 256


class PackedImages(NamedTuple):
    """Images of any sizes in one tensor."""

    pixels: Tensor  # (P, 3) uint8 on the device: rows of the first image, the second, ...
    first: np.ndarray  # (B,) int64, the first pixel of each image
    sizes: np.ndarray  # (B, 2) int64, height and width of each


def pack(pixels: Tensor, sizes: np.ndarray) -> PackedImages:
    """Return images of sizes (B, 2), whose pixels, (P, 3), follow one another."""
    counts = sizes.prod(axis=1)
    return PackedImages(pixels, counts.cumsum() - counts, sizes)


def reduce_images(
    images: PackedImages, sizes: np.ndarray, interpolation: Interpolation
) -> PackedImages:
    """Resize images to other sizes, (B, 2), as Pillow does."""
    if np.array_equal(images.sizes, sizes):
        return images
    scales = images.sizes / sizes
    lines = _lines(images, np.zeros_like(scales), scales)
    parts = []
    for rows in _chunks(images.sizes, sizes):
        size = tuple(sizes[rows].max(axis=0).tolist())
        parts.append(_packed(_resized(images, rows, lines, size, interpolation), sizes[rows]))
    return pack(torch.cat(parts), sizes)


def _packed(canvas: Tensor, sizes: np.ndarray) -> Tensor:
    """Return the pixels, (P, 3) uint8, of images of sizes (B, 2) in a canvas, (B, 3, H, W)."""
    count, _, height, width = canvas.shape
    counts = sizes.prod(axis=1)
    numbers = np.stack([counts, counts.cumsum() - counts, sizes[:, 1]])
    counts_here, first, widths = to_device(numbers, str(canvas.device))
    image = torch.repeat_interleave(counts_here, output_size=int(counts.sum()))
    pixel = torch.arange(len(image), device=canvas.device) - first[image]
    row = image * height + pixel.div(widths[image], rounding_mode="floor")
    column = pixel.remainder(widths[image])
    pixels = canvas.to(torch.uint8).permute(0, 2, 3, 1).reshape(count * height * width, 3)
    return pixels[row * width + column]


def augment_batch(images: PackedImages, draws: Sequence[Draw], preprocess: Preprocess) -> Tensor:
    """Return augmented and normalised images, (B, 3, H, W) float32 on the device."""
    device = str(images.pixels.device)
    order = np.argsort([one.operation for one in draws], kind="stable")
    draws = [draws[row] for row in order]
    sorted_images = PackedImages(images.pixels, *(one[order] for one in images[1:]))
    colours = _cropped(sorted_images, draws, preprocess)
    colours = _changed(colours, draws, fill_colour(preprocess))
    if draws[0].matrix is not None:
        matrices = np.array([one.matrix for one in draws], np.float32)
        colours = _transformed(colours, to_device(matrices, device), fill=None)
    mirrored = to_device(np.array([one.is_mirrored for one in draws]), device)
    colours = torch.where(mirrored[:, None, None, None], colours.flip(-1), colours)
    scale, shift = scale_and_shift_on(preprocess, device)
    normalised = colours * scale[:, None, None] + shift[:, None, None]
    return normalised[to_device(np.argsort(order), device)]


def _cropped(images: PackedImages, draws: Sequence[Draw], preprocess: Preprocess) -> Tensor:
    """Return the boxes, resized to the network's size: (B, 3, H, W) float32 of whole numbers."""
    if draws[0].box is None:
        lines = _lines(images, np.zeros_like(images.sizes), np.ones_like(images.sizes))
        return _gathered(images, slice(None), lines)
    size = (preprocess.height, preprocess.width)
    boxes = np.array([one.box for one in draws], np.float32)  # left, top, right, bottom
    starts = boxes[:, 1::-1]
    scales = (boxes[:, :1:-1] - starts) / np.array(size, np.float32)
    lines = _lines(images, starts, scales)
    parts = []
    for rows in _chunks(images.sizes, np.broadcast_to(size, images.sizes.shape)):
        parts.append(_resized(images, rows, lines, size, preprocess.interpolation))
    return torch.cat(parts)


def _chunks(sizes: np.ndarray, targets: np.ndarray) -> Iterator[slice]:
    """Yield rows whose images, each padded to the largest, are resized at the same time."""
    start, largest, target = 0, sizes[0], targets[0]
    for row in range(1, len(sizes)):
        largest, target = np.maximum(largest, sizes[row]), np.maximum(target, targets[row])
        numbers = (row + 1 - start) * (3 * largest.prod() + (largest * target).sum())
        if numbers > CHUNK_NUMBERS:
            yield slice(start, row)
            start, largest, target = row, sizes[row], targets[row]
    yield slice(start, len(sizes))


def _gathered(images: PackedImages, rows: slice, lines: _Lines) -> Tensor:
    """Return images on a canvas each, (B, 3, H, W) float32; the last pixels are repeated."""
    device = images.pixels.device
    height, width = map(int, images.sizes[rows].max(axis=0))
    first, sizes = lines.first[rows], lines.lengths[rows]
    down = torch.arange(height, device=device)[None, :, None]
    across = torch.arange(width, device=device)[None, None, :]
    down = torch.minimum(down, sizes[:, :1, None] - 1)
    across = torch.minimum(across, sizes[:, 1:, None] - 1)
    indices = first[:, None, None] + down * sizes[:, 1:, None] + across
    canvas = images.pixels[indices.flatten()].view(*indices.shape, 3)
    return canvas.permute(0, 3, 1, 2).float()


class _Lines(NamedTuple):
    """Columns and rows of images, and where the pixels of the result are in them, on the device."""

    first: Tensor  # (B,) the first pixel of each image
    lengths: Tensor  # (B, 2) height and width
    starts: Tensor  # (B, 2) of the first pixel's upper left corner, px
    scales: Tensor  # (B, 2) from one to the next, px


def _lines(images: PackedImages, starts: np.ndarray, scales: np.ndarray) -> _Lines:
    """Copy what is needed of all images to the device, at once for all chunks."""
    numbers = (np.ascontiguousarray(one, np.float32) for one in (starts, scales))
    device = str(images.pixels.device)
    return _Lines(*(to_device(one, device) for one in (*images[1:], *numbers)))


def _resized(
    images: PackedImages,
    rows: slice,
    lines: _Lines,
    size: tuple[int, int],
    interpolation: Interpolation,
) -> Tensor:
    """Resize images to (height, width), along rows and then along columns.

    Pillow rounds after each. The results, (B, 3, H, W) float32 of whole numbers, do not depend on
    what else is resized.
    """
    canvas = _gathered(images, rows, lines)
    count, _, height, width = canvas.shape
    down, across = (
        _weights(
            lines.starts[rows, axis],
            lines.scales[rows, axis, None],
            lines.lengths[rows, axis],
            (canvas.shape[2 + axis], size[axis]),
            interpolation,
        )
        for axis in (0, 1)
    )
    narrow = _whole(torch.bmm(canvas.reshape(count, 3 * height, width), across))
    narrow = narrow.view(count, 3, height, -1).transpose(2, 3)  # (B, 3, W, H)
    small = _whole(torch.bmm(narrow.reshape(count, -1, height), down))
    return small.view(count, 3, size[1], size[0]).transpose(2, 3)


def _weights(
    start: Tensor,
    scale: Tensor,
    length: Tensor,
    shape: tuple[int, int],
    interpolation: Interpolation,
) -> Tensor:
    """Return what each pixel contributes to each of a line that is resized: (B, longest, target).

    The results are `scale`, (B, 1), pixels apart, from `start`, (B,), on. The line of each image
    has `length`, (B,), pixels; `shape` is (longest, target), both perhaps with padding.
    """
    longest, target = shape
    centre = start[:, None] + (torch.arange(target, device=start.device) + 0.5) * scale
    pixel = torch.arange(longest, device=start.device)[None, :, None]
    if interpolation is Interpolation.NEAREST:
        return (pixel == centre.floor()[:, None]).float()
    radius, kernel = _KERNELS[interpolation]
    stretch = scale.clamp(min=1)
    first = (centre - radius * stretch + 0.5).floor()[:, None]
    last = torch.minimum((centre + radius * stretch + 0.5).floor(), length[:, None])[:, None]
    values = kernel((pixel + 0.5 - centre[:, None]) / stretch[:, None])
    values = values * ((pixel >= first) & (pixel < last))
    values = values / values.sum(1, keepdim=True).clamp(min=1e-6)  # 0 in the padding
    return (values * WEIGHT_STEPS).round() / WEIGHT_STEPS


def _triangle(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _cubic(x: Tensor) -> Tensor:
    x, a = x.abs(), -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return torch.where(x < 1, near, far * (x < 2))


def _lanczos(x: Tensor) -> Tensor:
    return torch.sinc(x) * torch.sinc(x / 3) * (x.abs() < 3)


_KERNELS: dict[Interpolation, tuple[int, Callable[[Tensor], Tensor]]] = {
    Interpolation.BILINEAR: (1, _triangle),
    Interpolation.BICUBIC: (2, _cubic),
    Interpolation.LANCZOS: (3, _lanczos),
}


def _whole(values: Tensor) -> Tensor:
    """Round to the nearest of 0 to 255."""
    return (values + 0.5).floor().clamp(0, 255)


def _transformed(colours: Tensor, matrices: Tensor, fill: tuple[int, ...] | None) -> Tensor:
    """Apply affine matrices, (B, 6), to images, bilinearly, rounding down.

    What is outside an image gets the colour `fill`; with None the image is reflected there.
    """
    count, _, height, width = colours.shape
    across = torch.arange(width, device=colours.device) + 0.5
    down = (torch.arange(height, device=colours.device) + 0.5)[:, None]
    a, b, c, d, e, f = matrices[:, :, None, None].unbind(1)
    x, y = a * across + b * down + c, d * across + e * down + f  # (B, H, W)
    left, top = (x - 0.5).floor(), (y - 0.5).floor()
    right_part, lower_part = ((x - 0.5) - left)[:, None], ((y - 0.5) - top)[:, None]
    flat, fits = colours.flatten(2), _reflected if fill is None else _clamped

    def pixels(column: Tensor, row: Tensor) -> Tensor:
        indices = (fits(row, height) * width + fits(column, width)).long().flatten(1)
        return flat.gather(2, indices[:, None].expand(-1, 3, -1)).view(count, 3, height, width)

    upper = torch.lerp(pixels(left, top), pixels(left + 1, top), right_part)
    lower = torch.lerp(pixels(left, top + 1), pixels(left + 1, top + 1), right_part)
    values = torch.lerp(upper, lower, lower_part).floor()
    if fill is None:
        return values
    is_inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    colour = to_device(np.array(fill, np.float32), str(colours.device))
    return torch.where(is_inside[:, None], values, colour[:, None, None])


def _clamped(index: Tensor, length: int) -> Tensor:
    return index.clamp(0, length - 1)


def _reflected(index: Tensor, length: int) -> Tensor:
    around = index.remainder(2 * length)
    return torch.minimum(around, 2 * length - 1 - around)


def _changed(colours: Tensor, draws: Sequence[Draw], fill: tuple[int, ...]) -> Tensor:
    """Apply the operations of TrivialAugment; the images are sorted by operation."""
    parts, start = [], 0
    for operation, count in Counter(one.operation for one in draws).items():
        rows = slice(start, start + count)
        parts.append(_operated(colours[rows], operation, draws[rows], fill))
        start += count
    return torch.cat(parts)


def _operated(
    colours: Tensor, operation: Operation, draws: Sequence[Draw], fill: tuple[int, ...]
) -> Tensor:
    """Apply one operation to images, (B, 3, H, W), each with its own strength."""
    height, width = colours.shape[2:]
    amounts = [one.sign * one.strength for one in draws]
    matrices = [operation_matrix(operation, amount, (width, height)) for amount in amounts]
    if matrices[0] is not None:
        values = np.array(matrices, np.float32)
        return _transformed(colours, to_device(values, str(colours.device)), fill)
    if operation in _PLAIN:
        factors = _column([enhancement_factor(one) for one in amounts], colours)
        plain = _PLAIN[operation](colours)
        return (plain + factors * (colours - plain)).clamp(0, 255).floor()
    if operation is Operation.POSTERIZE:
        step = _column([2.0 ** (8 - posterized_bits(one.strength)) for one in draws], colours)
        return (colours / step).floor() * step
    if operation is Operation.SOLARIZE:
        threshold = _column([solarize_threshold(one.strength) for one in draws], colours)
        return torch.where(colours < threshold, colours, 255 - colours)
    if operation is Operation.AUTOCONTRAST:
        return _autocontrast(colours)
    return _equalized(colours) if operation is Operation.EQUALIZE else colours


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    """Return a value for each image, (B, 1, 1, 1)."""
    return to_device(np.array(values, np.float32), str(like.device))[:, None, None, None]


def _grey(colours: Tensor) -> Tensor:
    """Return the luma of ITU-R 601, (B, 1, H, W)."""
    red, green, blue = colours.unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor()[:, None]


def _mean_grey(colours: Tensor) -> Tensor:
    return (_grey(colours).mean((1, 2, 3), keepdim=True) + 0.5).floor()


def _smooth(colours: Tensor) -> Tensor:
    """Blur by a kernel of 3 x 3 with a heavy centre; the border stays as it is."""
    kernel = np.ones((3, 1, 3, 3), np.float32)
    kernel[:, :, 1, 1] = 5
    inner = F.conv2d(colours, to_device(kernel / 13, str(colours.device)), groups=3)
    smooth = colours.clone()
    smooth[:, :, 1:-1, 1:-1] = _whole(inner)
    return smooth


_PLAIN: dict[Operation, Callable[[Tensor], Tensor]] = {  # what an enhancement starts from
    Operation.BRIGHTNESS: torch.zeros_like,
    Operation.COLOUR: _grey,
    Operation.CONTRAST: _mean_grey,
    Operation.SHARPNESS: _smooth,
}


def _autocontrast(colours: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255."""
    low, high = colours.amin((2, 3), keepdim=True), colours.amax((2, 3), keepdim=True)
    scale = 255 / (high - low).clamp(min=1)
    stretched = (colours * scale - low * scale + 1e-3).floor().clamp(0, 255)
    return torch.where(high > low, stretched, colours)


def _equalized(colours: Tensor) -> Tensor:
    """Make the values of each channel about equally frequent."""
    count, _, height, width = colours.shape
    values = colours.long().view(3 * count, height * width)
    frequency = torch.zeros(3 * count, _LEVELS, dtype=torch.int64, device=colours.device)
    frequency.scatter_add_(1, values, torch.ones_like(values))
    at_most = frequency.cumsum(1)
    highest = frequency.gather(1, values.amax(1, keepdim=True))
    step = (height * width - highest).div(_LEVELS - 1, rounding_mode="floor")
    before = at_most - frequency + step.div(2, rounding_mode="floor")
    table = before.div(step.clamp(min=1), rounding_mode="floor").clamp(max=_LEVELS - 1)
    equalized = table.gather(1, values).where(step > 0, values)
    return equalized.view_as(colours).float()
