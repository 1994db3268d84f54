"""A linear head on features that were computed once.

Features are centred and divided by one number on the way in, because how fast a linear head
learns, and how strongly it is regularised, depends on their scale; when it is done, this is folded
into the weights, and what is left is a plain linear layer. Dividing each feature by its own
deviation would lift those that hardly vary to the weight of all others: that is less accurate.
"""

from __future__ import annotations

import torch
from torch import nn

from swinclf.errors import ModelError


class Probe(nn.Module):
    """Normalisation and a linear layer: (N, D) -> (N, K).

    Args:
        features: (N, D) float32, the training images': their mean, and the root of their mean
            variance, are kept.
        num_classes: Logits, K.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, features: torch.Tensor, num_classes: int) -> None:
        super().__init__()
        variance, mean = torch.var_mean(features, dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", variance.mean().sqrt().clamp_min(1e-6))
        self.linear = nn.Linear(features.shape[1], num_classes)
        nn.init.zeros_(self.linear.weight)  # a convex problem: nothing is won by starting elsewhere
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, K)."""
        return self.forward_head(self.forward_features(features))

    def forward_features(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, D), the input itself: so a probe is a small network like any other."""
        return features

    def forward_head(self, features: torch.Tensor) -> torch.Tensor:
        """(N, D) -> (N, K)."""
        logits: torch.Tensor = self.linear((features - self.mean) / self.std)
        return logits

    @torch.no_grad()
    def install(self, network: nn.Module) -> None:
        """Put the head into a network, the normalisation folded in.

        W ((x - mean) / std) + b  =  (W / std) x + (b - (W / std) mean)

        Raises:
            ModelError: If the network's classifier is no linear layer of this size.
        """
        weight = self.linear.weight / self.std
        bias = self.linear.bias - weight @ self.mean
        for classifier in linear_classifiers(network):
            classifier.weight.copy_(weight)
            classifier.bias.copy_(bias)


def linear_classifiers(network: nn.Module) -> list[nn.Linear]:
    """The network's classification head; two for a distilled network, which averages their answers.

    Raises:
        ModelError: If it is not linear, so that no head can be trained on kept features.
    """
    classifier = network.get_classifier()  # type: ignore[operator]
    modules = list(classifier) if isinstance(classifier, tuple) else [classifier]
    for module in modules:
        if not isinstance(module, nn.Linear):
            raise ModelError(
                "a linear layer as the network's classifier",
                found=type(module).__name__,
                hint="--no-freeze-layers, or another --model",
            )
    return modules
