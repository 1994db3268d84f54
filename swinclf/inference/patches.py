"""What small pictures look like, told without trained weights: by their patches and their colours.

The filters are patches of the pictures themselves, drawn at random and whitened: one layer that
nobody trains and no label takes part in. It tells photographs apart better than a network that was
trained from random weights on few of them.

Sources: Coates, Ng & Lee 2011, "An Analysis of Single-Layer Networks in Unsupervised Feature
Learning" (contrast, whitening, sums over quarters); Coates & Ng 2011, "The Importance of Encoding
Versus Training" (drawn patches as filters, both signs over a threshold); Arandjelovic & Zisserman
2012, sec. 3 (square roots of what is counted).

Letters: N pictures, F filters, D numbers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

SIDE = 64  # of a small picture, px
LEVELS = 6  # of each of red, green and blue in a count of colours
THRESHOLD = 1.0  # of an answer, whose variance is about 1
FAINT = 0.005  # of the mean variance of a patch: below it contrast is not made much of
WHITENED = 0.1  # of the mean variance: directions far below it stay faint
DRAWN = 20_000  # patches to whiten by
BATCH = 32


class _Patches(NamedTuple):
    """Which patches of a picture are looked at.

    Attributes:
        side: Of a patch, px.
        stride: From one patch to the next, px.
        filters: How many a patch is compared with.
    """

    side: int
    stride: int
    filters: int


DETAILS = _Patches(side=6, stride=4, filters=200)
SHAPES = _Patches(side=12, stride=2, filters=100)  # of the picture at half its size


def describe(pictures: np.ndarray, *, seed: int) -> list[np.ndarray]:
    """Describes pictures beside each other.

    Args:
        pictures: (N, SIDE, SIDE, 3) uint8.
        seed: Of the patches that are drawn; another gives other numbers of the same worth.

    Returns:
        By details, by shapes and by colours, each (N, D) float32: square roots of how much there is
        of what. A picture and its mirror image have the same.
    """
    values = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    halved = [F.avg_pool2d(batch.float(), 2).round_().byte() for batch in values.split(BATCH)]
    smaller = torch.cat(halved)
    rng = np.random.default_rng(seed)
    return [
        _by_patches(values, DETAILS, rng),
        _by_patches(smaller, SHAPES, rng),
        _by_colours(smaller.permute(0, 2, 3, 1).numpy()),
    ]


def _by_patches(values: torch.Tensor, patches: _Patches, rng: np.random.Generator) -> np.ndarray:
    """Square roots of the mean answers to pictures and their mirror images, (N, 8 F) float32."""
    filters = _Filters.drawn(values, patches, rng)
    rows = []
    for batch in values.split(BATCH):
        picture = batch.float()
        rows.append(filters.answers(picture) + filters.answers(picture.flip(3)))
    described: np.ndarray = torch.cat(rows).div_(2).sqrt_().numpy()
    return described


class _Filters(NamedTuple):
    """Filters, and how patches are made comparable before they meet them.

    Attributes:
        weight: (F, 3, side, side).
        bias: (F, 1, 1).
        floor: Added to a patch's variance, so that faint ones stay faint.
        stride: From one patch to the next, px.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    floor: float
    stride: int

    @classmethod
    def drawn(cls, values: torch.Tensor, patches: _Patches, rng: np.random.Generator) -> _Filters:
        """Filters from patches of (N, 3, S, S) pictures."""
        side = patches.side
        picture = torch.from_numpy(rng.integers(len(values), size=DRAWN))
        down, right = torch.from_numpy(rng.integers(values.shape[-1] - side + 1, size=(2, DRAWN)))
        windows = values.unfold(2, side, 1).unfold(3, side, 1)
        seen = windows[picture, :, down, right].flatten(1).float()
        floor = FAINT * float(seen.var(1).mean()) + 1e-3
        seen -= seen.mean(1, keepdim=True)
        seen /= (seen.square().mean(1, keepdim=True) + floor).sqrt()
        mean = seen.mean(0)
        spread, axes = torch.linalg.eigh(torch.cov(seen.T))
        scale = (spread.clamp(min=0) + WHITENED * spread.mean() + 1e-6).rsqrt()
        whitening = axes * scale
        few = torch.from_numpy(rng.permutation(DRAWN)[: patches.filters])
        chosen = (seen[few] - mean) @ whitening
        weight = F.normalize(chosen, dim=1) @ whitening.T
        bias = -weight @ mean
        weight -= weight.mean(1, keepdim=True)  # takes a patch's own mean away
        return cls(weight.view(-1, 3, side, side), bias[:, None, None], floor, patches.stride)

    def answers(self, values: torch.Tensor) -> torch.Tensor:
        """Over the quarters, the mean of what is beyond the threshold on either side.

        (N, 3, S, S) -> (N, 8 F).
        """
        side, stride = self.weight.shape[-1], self.stride
        mean = F.avg_pool2d(values.mean(1, keepdim=True), side, stride)
        square = F.avg_pool2d(values.square().mean(1, keepdim=True), side, stride)
        contrast = (square - mean.square()).clamp_(min=0).add_(self.floor).sqrt_()
        answers = F.conv2d(values, self.weight, stride=stride).div_(contrast).add_(self.bias)
        beyond = (F.relu(answers - THRESHOLD), F.relu(-answers - THRESHOLD))
        return torch.cat([F.adaptive_avg_pool2d(one, 2).flatten(1) for one in beyond], 1)


def _by_colours(pictures: np.ndarray) -> np.ndarray:
    """Square roots of the part of a picture, and of its middle, that has each colour.

    (N, S, S, 3) uint8 -> (N, 2 LEVELS^3) float32.
    """
    batches = (pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH))
    parts: np.ndarray = np.concatenate([_colours(batch) for batch in batches])
    np.sqrt(parts, out=parts)
    return parts


def _colours(pictures: np.ndarray) -> np.ndarray:
    """What part of a picture, and of its middle, has which colour: (N, 2 LEVELS^3) float32."""
    level = pictures.astype(np.int64) * LEVELS // 256
    colour = (level[..., 0] * LEVELS + level[..., 1]) * LEVELS + level[..., 2]
    kinds, edge = LEVELS**3, pictures.shape[1] // 4
    parts = []
    for seen in (colour, colour[:, edge:-edge, edge:-edge]):
        flat = seen.reshape(len(seen), -1)
        offset = kinds * np.arange(len(flat))[:, None]
        count = np.bincount((flat + offset).ravel(), minlength=kinds * len(flat))
        parts.append(count.reshape(len(flat), kinds) / flat.shape[1])
    return np.concatenate(parts, axis=1).astype(np.float32)
