"""Fisher vectors: many local descriptors of a picture made one, by how they differ from the usual.

Source: Perronnin, Sanchez & Mensink 2010, "Improving the Fisher Kernel for Large-Scale Image
Classification" (slopes over the root of the Fisher information, square roots, unit length).

Letters: B pictures, P places in each, C numbers of a place, R of these kept, G Gaussians.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from swinclf.mixture import Mixture
from swinclf.runtime import on_one_thread

GAUSSIANS = 64
LEAST_VARIANCE = 0.01  # of a Gaussian, where that of all places is 1
ROUNDS = 100  # of fitting, at most; a few are enough
GAIN = 1.0  # in log likelihood of a place: less is not worth another round


@on_one_thread()
def fit_mixture(places: torch.Tensor, *, keep: int, seed: int) -> Mixture:
    """Finds what kinds of places there are.

    Args:
        places: (rows, C).
        keep: R, at most C.
        seed: Of the first guess.
    """
    from sklearn.mixture import GaussianMixture  # takes a second, which describing goes without

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
    return Mixture(axes.numpy(), offset.numpy(), *(one.astype(np.float32) for one in found))


def encode(mixture: Mixture, places: torch.Tensor) -> torch.Tensor:
    """How the places of a picture ask the Gaussians to move and to widen.

    Args:
        mixture: Of places like these.
        places: (B, P, C).

    Returns:
        (B, 2 G R).
    """
    axes, offset, weight, mean, variance = map(torch.from_numpy, mixture)
    reduced = places @ axes + offset
    both = torch.cat([reduced, reduced.square()], 2)  # (B, P, 2 R)
    precise = 1 / variance
    slopes = torch.cat([mean * precise, -precise / 2], 1)  # (G, 2 R)
    height = weight.log() - variance.log().sum(1) / 2
    height = height - (mean.square() * precise).sum(1) / 2
    share = (both @ slopes.T + height).softmax(2)  # of each Gaussian in a place, (B, P, G)
    counted = share.mean(1)[..., None]
    first, second = (share.transpose(1, 2) @ both / places.shape[1]).chunk(2, 2)
    scale = weight.sqrt()[:, None]
    move = (first - counted * mean) / (variance.sqrt() * scale)
    change = second - 2 * first * mean + counted * (mean.square() - variance)
    widen = change / (variance * scale * 2**0.5)
    return torch.cat([move, widen], 1).flatten(1)


def finished(encoded: torch.Tensor) -> torch.Tensor:
    """Signed square roots, so that what repeats counts less, of unit length: (B, D)."""
    return F.normalize(encoded.sign() * encoded.abs().sqrt(), dim=1)
