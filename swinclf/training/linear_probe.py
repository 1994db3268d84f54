"""A linear head on cached features.

Features are centred and divided by one number, because learning speed and regularisation of a
linear head depend on their scale; after training this is folded into the weights, which leaves a
plain linear layer. Dividing each feature by its own deviation is less accurate: it scales up
features that hardly vary.
"""

from __future__ import annotations

import torch
from torch import nn

from swinclf.errors import ModelError
from swinclf.models.freeze import classifiers, has_linear_logits


class Probe(nn.Module):
    """Normalisation and a linear layer: (N, D) -> (N, K).

    Mean, and root of the mean variance, are those of `features`, (N, D) float32, of the training
    images.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, features: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        variance, mean = torch.var_mean(features, dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", variance.mean().sqrt().clamp_min(1e-6))
        self.linear = nn.Linear(features.shape[1], num_classes)
        nn.init.zeros_(self.linear.weight)  # convex, so the start does not matter
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, D) features to (N, K) logits."""
        return self.forward_head(self.forward_features(features))

    def forward_features(self, features: torch.Tensor) -> torch.Tensor:
        """Return the (N, D) input, for the interface of a network."""
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """Map (N, D) features to (N, K) logits."""
        logits: torch.Tensor = self.linear((features - self.mean) / self.std)
        return logits

    @torch.no_grad()
    def install(self, network: nn.Module) -> None:
        """Copy the head into a network, with the normalisation folded in.

        Raises:
            ModelError: If the network's classifier is not a linear layer.
        """
        for classifier in linear_classifiers(network):
            self.copy_to(classifier)

    @torch.no_grad()
    def copy_to(self, classifier: nn.Linear) -> None:
        """Copy the head into a linear layer, with the normalisation folded in.

        W ((x - mean) / std) + b  =  (W / std) x + (b - (W / std) mean)
        """
        weight = self.linear.weight / self.std
        classifier.weight.copy_(weight)
        classifier.bias.copy_(self.linear.bias - weight @ self.mean)


def linear_classifiers(network: nn.Module) -> list[nn.Linear]:
    """Return `classifiers` of a network.

    Raises:
        ModelError: If the logits are not linear in the features, so that no head can be trained on
            cached features.
    """
    heads = classifiers(network)
    linear = [one for one in heads if isinstance(one, nn.Linear)]
    if not has_linear_logits(network):
        other = next((type(one).__name__ for one in heads if one not in linear), "an auxiliary one")
        raise ModelError(
            "a linear layer as the network's only classifier",
            found=other,
            hint="--no-freeze-layers, or another --model",
        )
    return linear
