"""Parameters of the classifier: those that `reset_classifier` replaces."""

from __future__ import annotations

import copy
import re
from typing import Any

import torch
from torch import nn

# Names of classifiers in files of other tools; a norm among them belongs to the body.
_CLASSIFIER = re.compile(
    r"(head|heads|head_dist|fc|classifier|cls_head|cls_classifier|distillation_classifier|"
    r"linear_head|last_layer|logits|pre_logits)(\.(?!.*norm).*)?"
)


def classifier_names(network: nn.Module) -> set[str]:
    """Return the names of the parameters that a new classifier replaces.

    A pooling with weights, or a norm within the head, is not among them: it stays when the classes
    change. The network, of this package or of timm, is not changed.
    """
    memo: dict[int, Any] = {
        id(value): nn.Parameter(value.detach().to("meta"), requires_grad=False)
        for value in network.parameters()
    }
    memo |= {id(value): value.detach().to("meta") for value in network.buffers()}
    blank: Any = copy.deepcopy(network, memo)
    before: dict[str, nn.Parameter] = {}
    # The random numbers of the new classifier must not affect those of the training.
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        for classes in (3, 5):  # one of them differs from the network's own
            before = dict(blank.named_parameters())
            blank.reset_classifier(classes)
    after = dict(blank.named_parameters())
    return {name for name, value in after.items() if before.get(name) is not value}


def is_classifier_name(name: str) -> bool:
    """Return whether a tensor of a file is named like part of a classifier."""
    return _CLASSIFIER.fullmatch(name) is not None
