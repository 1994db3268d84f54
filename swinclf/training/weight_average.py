"""The exponential moving average of the weights (EMA), which is validated and saved.

Source: as in timm and TensorFlow, the first steps are averaged over fewer weights: the decay at
step n is at most (1 + n) / (10 + n).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def build_average(model: nn.Module, decay: float) -> AveragedModel:
    """Return the average of a model's weights and buffers, so far these themselves.

    The model is copied. `decay` is the weight of the old average at each step, in (0, 1).
    """

    @torch.no_grad()
    def average(
        averages: Sequence[torch.Tensor], weights: Sequence[torch.Tensor], count: torch.Tensor | int
    ) -> None:
        step = int(count)
        share = 1 - min(decay, (1 + step) / (10 + step))
        if averages[0].is_floating_point():
            torch._foreach_lerp_(list(averages), list(weights), share)
        else:  # the counter of batch norm
            for old, new in zip(averages, weights, strict=True):
                old.copy_(new)

    averaged = AveragedModel(model, multi_avg_fn=average, use_buffers=True)
    return averaged.requires_grad_(False)
