"""Fisher vectors against what they are by definition: slopes of the mixture's log likelihood."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from swinclf.inference.fisher import GAUSSIANS, encode, finished, fit_mixture
from swinclf.mixture import Mixture


@pytest.fixture
def places() -> torch.Tensor:
    """Two pictures of 30 places of 6 numbers, of three kinds."""
    random = np.random.default_rng(0)
    kinds = random.normal(0, 3, (3, 6))[random.integers(3, size=(2, 30))]
    return torch.from_numpy(kinds + random.normal(size=kinds.shape)).float()


def test_they_are_the_slopes_of_the_log_likelihood(places: torch.Tensor) -> None:
    mixture = fit_mixture(places.flatten(0, 1), keep=4, seed=0)
    axes, offset, weight, mean, variance = map(torch.from_numpy, mixture)
    mean, deviation = (one.double().requires_grad_() for one in (mean, variance.sqrt()))
    for picture, encoded in zip(places, encode(mixture, places), strict=True):
        reduced = (picture @ axes + offset).double()
        kinds = torch.distributions.Independent(torch.distributions.Normal(mean, deviation), 1)
        which = torch.distributions.Categorical(weight.double())
        likely = torch.distributions.MixtureSameFamily(which, kinds).log_prob(reduced).mean()
        slopes = torch.autograd.grad(likely, (mean, deviation))
        # Each over the square root of its Fisher information.
        root = weight.sqrt()[:, None]
        move = slopes[0] * deviation / root
        widen = slopes[1] * deviation / (root * 2**0.5)
        expected = torch.cat([move, widen]).flatten().detach().float()
        torch.testing.assert_close(encoded, expected, rtol=2e-3, atol=2e-3)


def test_the_mixture_is_of_reduced_places_of_unit_deviation(places: torch.Tensor) -> None:
    rows = places.flatten(0, 1)
    kinds = fit_mixture(rows, keep=4, seed=0)
    reduced = rows @ torch.from_numpy(kinds.axes) + torch.from_numpy(kinds.offset)
    torch.testing.assert_close(torch.cov(reduced.T), torch.eye(4), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(reduced.mean(0), torch.zeros(4), atol=1e-4, rtol=1e-4)
    assert kinds.mean.shape == kinds.variance.shape == (min(GAUSSIANS, len(rows)), 4)
    mixture = GaussianMixture(len(kinds.weight), covariance_type="diag")
    mixture.weights_, mixture.means_, mixture.covariances_ = kinds[2:]
    mixture.precisions_cholesky_ = mixture.covariances_**-0.5
    plain = GaussianMixture(1, covariance_type="diag").fit(reduced.numpy())
    assert mixture.score(reduced.numpy()) > plain.score(reduced.numpy()) + 0.5


def test_finished_ones_are_of_unit_length_and_what_repeats_counts_less() -> None:
    vectors = finished(torch.tensor([[9.0, -4.0, 0.0], [0.0, 0.0, 0.0]]))
    root = 13**0.5
    torch.testing.assert_close(vectors, torch.tensor([[3 / root, -2 / root, 0], [0, 0, 0]]))


def test_a_mixture_comes_back_as_it_was(places: torch.Tensor) -> None:
    mixture = fit_mixture(places.flatten(0, 1), keep=4, seed=0)
    values = json.loads(json.dumps(mixture.to_dict()))
    for before, after in zip(mixture, Mixture.from_dict(values), strict=True):
        np.testing.assert_array_equal(before, after)
    with pytest.raises(ValueError, match="fit each other"):
        Mixture.from_dict({**values, "offset": values["weight"]})
    with pytest.raises(KeyError):
        Mixture.from_dict({"axes": values["axes"]})
