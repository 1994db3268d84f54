"""Fisher vectors: many local descriptors of a picture made one, by how they differ from the usual.

Source: Perronnin, Sanchez & Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image
Classification" (slopes over the root of the Fisher information, square roots, unit length).

Letters: B pictures, P places in each, C numbers of a place, R of these kept, G Gaussians.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from sklearn.mixture import GaussianMixture
from torch.nn import functional as F

from swinclf.runtime import on_one_thread

GAUSSIANS = 64
LEAST_VARIANCE = 0.01  # of a Gaussian, where that of all places is 1
ROUNDS = 100  # of fitting, at most; a few are enough
GAIN = 1.0  # in log likelihood of a place: less is not worth another round


class FisherVectors(NamedTuple):
    """A mixture of Gaussians over places, and how places are reduced before they meet it.

    Attributes:
        axes: (C, R) main directions, scaled to a unit deviation.
        offset: (R,) added after them.
        weight: (G,) of the Gaussians.
        mean: (G, R).
        variance: (G, R).
    """

    axes: torch.Tensor
    offset: torch.Tensor
    weight: torch.Tensor
    mean: torch.Tensor
    variance: torch.Tensor

    @classmethod
    @on_one_thread()
    def fitted(cls, places: torch.Tensor, *, keep: int, seed: int) -> Self:
        """Finds what kinds of places there are.

        Args:
            places: (rows, C).
            keep: R, at most C.
            seed: Of the first guess.
        """
        spread, directions = torch.linalg.eigh(torch.cov(places.T))
        deviation = spread[-keep:].clamp(min=1e-4 * float(spread[-1]) + 1e-9).sqrt()
        axes = directions[:, -keep:] / deviation
        offset = -places.mean(0) @ axes
        mixture = GaussianMixture(
            min(GAUSSIANS, len(places)),
            covariance_type="diag",
            reg_covar=LEAST_VARIANCE,
            init_params="random_from_data",
            max_iter=ROUNDS,
            tol=GAIN,
            random_state=seed,
        ).fit((places @ axes + offset).numpy())
        found = (mixture.weights_, mixture.means_, mixture.covariances_)
        weight, mean, variance = (torch.from_numpy(one).float() for one in found)
        return cls(axes, offset, weight, mean, variance)

    def encode(self, places: torch.Tensor) -> torch.Tensor:
        """How the places of a picture ask the Gaussians to move and to widen.

        Args:
            places: (B, P, C).

        Returns:
            (B, 2 G R).
        """
        reduced = places @ self.axes + self.offset
        both = torch.cat([reduced, reduced.square()], 2)  # (B, P, 2 R)
        precise = 1 / self.variance
        slopes = torch.cat([self.mean * precise, -precise / 2], 1)  # (G, 2 R)
        height = self.weight.log() - self.variance.log().sum(1) / 2
        height = height - (self.mean.square() * precise).sum(1) / 2
        share = (both @ slopes.T + height).softmax(2)  # of each Gaussian in a place, (B, P, G)
        counted = share.mean(1)[..., None]
        first, second = (share.transpose(1, 2) @ both / places.shape[1]).chunk(2, 2)
        scale = self.weight.sqrt()[:, None]
        move = (first - counted * self.mean) / (self.variance.sqrt() * scale)
        change = second - 2 * first * self.mean + counted * (self.mean.square() - self.variance)
        widen = change / (self.variance * scale * 2**0.5)
        return torch.cat([move, widen], 1).flatten(1)

    @staticmethod
    def finished(encoded: torch.Tensor) -> torch.Tensor:
        """Signed square roots, so that what repeats counts less, of unit length: (B, D)."""
        return F.normalize(encoded.sign() * encoded.abs().sqrt(), dim=1)
