"""A synthetic sample image: a flower on a lawn, drawn by formula."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def synthetic_picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return a fixed (height, width, 3) uint8 image with a large shape, edges and a texture."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    y, x = (y + 0.5) / height * 2 - 1, (x + 0.5) / width * 2 - 1
    sky, grass = np.array([150, 190, 225.0]), np.array([70, 130, 60.0])
    blades = 30 * np.sin(60 * x + 12 * y) * np.sin(9 * y)
    rise = np.clip((y + 0.2) * 4, 0, 1)[..., None]
    picture = sky * (1 - rise) + (grass + blades[..., None]) * rise
    cx, cy = x + 0.1, y + 0.12
    radius, angle = np.hypot(cx, cy), np.arctan2(cy, cx)
    stem = (np.abs(cx - 0.08 * np.sin(3 * y)) < 0.035) & (cy > 0)
    picture[stem] = (40, 95, 45)
    petals = radius < 0.42 + 0.16 * np.cos(7 * angle)
    shade = (1 - 0.35 * radius)[..., None] * np.array([225, 70, 120.0])
    picture = np.where(petals[..., None], shade, picture)
    heart = np.array([245, 200, 60.0]) + 20 * np.sin(90 * x)[..., None] * np.sin(90 * y)[..., None]
    picture = np.where((radius < 0.19)[..., None], heart, picture)
    pixels: npt.NDArray[np.uint8] = picture.clip(0, 255).astype(np.uint8)
    return pixels
