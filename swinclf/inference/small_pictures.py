"""What small pictures look like, told without trained weights: by their edges and their colours.

It tells photographs apart better than a network that was trained from random weights on few of
them.

Sources: Lowe 2004, "Distinctive Image Features from Scale-Invariant Keypoints", sec. 6 (a place
described by the directions of the edges in its 4 x 4 cells); Arandjelovic & Zisserman 2012, "Three
Things Everyone Should Know to Improve Object Retrieval", sec. 3 (square roots of what is counted);
Perronnin, Sanchez & Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image
Classification" (the same by the colours in the cells, and a description of its own for each).

Letters: N pictures, B of them at a time, S their side, C channels, S' = S / 2 - 2 cells in a row,
P places, D numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch.nn import functional as F

from swinclf.inference.fisher import encode, finished, fit_mixture
from swinclf.mixture import Mixture
from swinclf.second_opinion import SIDE as SIDE

DIRECTIONS = 8  # that edges are counted by
FAINT = 0.1  # added to the edges counted in a place: without contrast there is nothing to tell
LEVELS = 6  # of each of red, green and blue in a count of colours
DRAWN_FROM, DRAWN_EACH = 200, 25  # pictures, and places of each, that kinds are found by
BATCH = 32


def kinds_of_places(pictures: np.ndarray, *, seed: int) -> tuple[Mixture, Mixture]:
    """What kinds of places pictures have, by their edges and by their colours.

    Args:
        pictures: (N, SIDE, SIDE, 3) uint8, at least one.
        seed: Of what is drawn; another gives other kinds of the same worth.
    """
    values = _channels_first(pictures)
    return _kinds(values, _Edges, seed), _kinds(values, _Hues, seed)


def describe(pictures: np.ndarray, kinds: tuple[Mixture, Mixture]) -> Iterator[np.ndarray]:
    """Describes pictures by their places: by the edges in them, and by the colours.

    Args:
        pictures: (N, SIDE, SIDE, 3) uint8.
        kinds: Of `kinds_of_places`.

    Yields:
        (N, D) float32, twice. A picture and its mirror image have the same.
    """
    values = _channels_first(pictures)
    edges, hues = kinds
    yield _by_places(values, _Edges, edges)
    yield _by_places(values, _Hues, hues)


def count_colours(pictures: np.ndarray) -> np.ndarray:
    """Square roots of the part of a picture, and of its middle, that has each colour.

    Args:
        pictures: (N, SIDE, SIDE, 3) uint8.

    Returns:
        (N, 2 LEVELS^3) float32.
    """
    values = _channels_first(pictures)
    halved = (F.avg_pool2d(batch.float(), 2).round_() for batch in values.split(BATCH))
    parts = [_colours(batch.permute(0, 2, 3, 1).numpy()) for batch in halved]
    described: np.ndarray = np.concatenate(parts)
    np.sqrt(described, out=described)
    return described


class _Edges:
    """How much edge of each direction a place has."""

    keep = 64

    @staticmethod
    def cells(values: torch.Tensor) -> torch.Tensor:
        """By cell, of the colour whose edge is strongest: (B, 3, S, S) -> (B, C, S', S')."""
        roots = values.sqrt()
        across = F.pad(roots[..., 2:] - roots[..., :-2], (1, 1))
        down = F.pad(roots[..., 2:, :] - roots[..., :-2, :], (0, 0, 1, 1))
        square, colour = (across.square() + down.square()).max(1, keepdim=True)
        angle = torch.arange(DIRECTIONS).view(-1, 1, 1) * (2 * math.pi / DIRECTIONS)
        along = across.gather(1, colour) * angle.cos() + down.gather(1, colour) * angle.sin()
        # An edge between two directions counts for both, the more the nearer, and for no other.
        nothing = math.cos(2 * math.pi / DIRECTIONS)
        return _means(along.sub_(square.sqrt_(), alpha=nothing).clamp_(min=0).div_(1 - nothing))

    @staticmethod
    def mirrored(cells: torch.Tensor) -> torch.Tensor:
        """The cells of the mirror images."""
        opposite = [(DIRECTIONS // 2 - direction) % DIRECTIONS for direction in range(DIRECTIONS)]
        return cells.flip(3)[:, opposite]

    @staticmethod
    def places(cells: torch.Tensor) -> torch.Tensor:
        """Square roots of what part of a place's edges is in which cell and direction."""
        places = _places(cells)
        return (places / (places.sum(2, keepdim=True) + FAINT)).sqrt_()


class _Hues:
    """Which colours a place has."""

    keep = 48

    @staticmethod
    def cells(values: torch.Tensor) -> torch.Tensor:
        """Means and deviations of red, green and blue: (B, 3, S, S) -> (B, C, S', S')."""
        mean = _means(values)
        spread = (_means(values.square()) - mean.square()).clamp_(min=0).sqrt_()
        return torch.cat([mean, spread], 1)

    @staticmethod
    def mirrored(cells: torch.Tensor) -> torch.Tensor:
        """The cells of the mirror images."""
        return cells.flip(3)

    @staticmethod
    def places(cells: torch.Tensor) -> torch.Tensor:
        """The cells of each place, as they are."""
        return _places(cells)


Local = type[_Edges | _Hues]  # what a place is described by, and how many numbers of it are kept


def _kinds(values: torch.Tensor, local: Local, seed: int) -> Mixture:
    """(N, 3, S, S) uint8 -> the kinds of their places."""
    return fit_mixture(_drawn_places(values, local, seed), keep=local.keep, seed=seed)


def _by_places(values: torch.Tensor, local: Local, kinds: Mixture) -> np.ndarray:
    """What kinds of places pictures have: (N, 3, S, S) uint8 -> (N, D) float32."""
    rows = []
    for batch in values.split(BATCH):
        cells = local.cells(_shares_of_white(batch))
        both = [encode(kinds, local.places(one)) for one in (cells, local.mirrored(cells))]
        rows.append(finished(both[0] + both[1]))
    described: np.ndarray = torch.cat(rows).numpy()
    return described


def _drawn_places(values: torch.Tensor, local: Local, seed: int) -> torch.Tensor:
    """Some places of some pictures, (rows, 16 C)."""
    draw = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(values), generator=draw)[:DRAWN_FROM]
    drawn = []
    for batch in values[chosen].split(BATCH):
        places = local.places(local.cells(_shares_of_white(batch)))
        at = torch.randint(places.shape[1], (len(places), DRAWN_EACH), generator=draw)
        drawn.append(places.gather(1, at[..., None].expand(-1, -1, places.shape[2])).flatten(0, 1))
    return torch.cat(drawn)


def _channels_first(pictures: np.ndarray) -> torch.Tensor:
    """(N, S, S, 3) -> (N, 3, S, S)."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


def _shares_of_white(values: torch.Tensor) -> torch.Tensor:
    """uint8 -> [0, 1]."""
    return values.float().div_(255)


def _places(cells: torch.Tensor) -> torch.Tensor:
    """Places of 4 x 4 cells, 24 px wide, every 4 px: (B, C, 30, 30) -> (B, P, 16 C)."""
    count = (cells.shape[-1] - 9 + 1) // 2  # of places in a row: the last cell begins 9 steps on
    starts = [slice(3 * cell, 3 * cell + 2 * count, 2) for cell in range(4)]
    parts = [cells[:, :, down, right] for down in starts for right in starts]
    return torch.cat(parts, 1).flatten(2).transpose(1, 2)


def _means(values: torch.Tensor) -> torch.Tensor:
    """Means over cells of 6 x 6 px, every 2 px: (B, C, S, S) -> (B, C, S', S')."""
    return F.avg_pool2d(F.avg_pool2d(values, 2), 3, 1)


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
