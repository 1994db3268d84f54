"""Fisher vectors against what they are by definition: slopes of the mixture's log likelihood."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from swinclf.inference.fisher import GAUSSIANS, FisherVectors


@pytest.fixture
def places() -> torch.Tensor:
    """Two pictures of 30 places of 6 numbers, of three kinds."""
    random = np.random.default_rng(0)
    kinds = random.normal(0, 3, (3, 6))[random.integers(3, size=(2, 30))]
    return torch.from_numpy(kinds + random.normal(size=kinds.shape)).float()


def test_they_are_the_slopes_of_the_log_likelihood(places: torch.Tensor) -> None:
    vectors = FisherVectors.fitted(places.flatten(0, 1), keep=4, seed=0)
    mean, deviation = (
        one.double().requires_grad_() for one in (vectors.mean, vectors.variance.sqrt())
    )
    for picture, encoded in zip(places, vectors.encode(places), strict=True):
        reduced = (picture @ vectors.axes + vectors.offset).double()
        kinds = torch.distributions.Independent(torch.distributions.Normal(mean, deviation), 1)
        which = torch.distributions.Categorical(vectors.weight.double())
        likely = torch.distributions.MixtureSameFamily(which, kinds).log_prob(reduced).mean()
        slopes = torch.autograd.grad(likely, (mean, deviation))
        # Each over the square root of its Fisher information.
        root = vectors.weight.sqrt()[:, None]
        move = slopes[0] * deviation / root
        widen = slopes[1] * deviation / (root * 2**0.5)
        expected = torch.cat([move, widen]).flatten().detach().float()
        torch.testing.assert_close(encoded, expected, rtol=2e-3, atol=2e-3)


def test_the_mixture_is_of_reduced_places_of_unit_deviation(places: torch.Tensor) -> None:
    rows = places.flatten(0, 1)
    vectors = FisherVectors.fitted(rows, keep=4, seed=0)
    reduced = rows @ vectors.axes + vectors.offset
    torch.testing.assert_close(torch.cov(reduced.T), torch.eye(4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reduced.mean(0), torch.zeros(4), atol=1e-4, rtol=1e-4)
    assert vectors.mean.shape == vectors.variance.shape == (min(GAUSSIANS, len(rows)), 4)
    mixture = GaussianMixture(len(vectors.weight), covariance_type="diag")
    mixture.weights_, mixture.means_ = vectors.weight.numpy(), vectors.mean.numpy()
    mixture.covariances_ = vectors.variance.numpy()
    mixture.precisions_cholesky_ = mixture.covariances_**-0.5
    plain = GaussianMixture(1, covariance_type="diag").fit(reduced.numpy())
    assert mixture.score(reduced.numpy()) > plain.score(reduced.numpy()) + 0.5


def test_finished_ones_are_of_unit_length_and_what_repeats_counts_less() -> None:
    finished = FisherVectors.finished(torch.tensor([[9.0, -4.0, 0.0], [0.0, 0.0, 0.0]]))
    root = 13**0.5
    torch.testing.assert_close(finished, torch.tensor([[3 / root, -2 / root, 0], [0, 0, 0]]))
