"""Weights fit whole or not at all: heads, pooling, prefixes, EMA, and why others are refused."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from torch import Tensor, nn

from swinclf.models.catalogue import FAMILIES
from swinclf.models.names import build_native, native_names
from swinclf.models.weights.adapt import adapt
from swinclf.models.weights.head import classifier_names

State = dict[str, Tensor]
PUBLISHED = {name.partition(".")[0] for name in timm.list_models(list(FAMILIES), pretrained=True)}
SHALLOW = ({"depth": 1}, {"depths": (1, 1, 1, 1)}, {})


def shallow(name: str) -> nn.Module:
    """Build one of timm's networks without weights, with one block where its depth can be set."""
    for changes in SHALLOW:
        try:
            with torch.device("meta"):
                return timm.create_model(name, num_classes=3, **changes)
        except (TypeError, ValueError, AssertionError, IndexError):
            continue
    raise AssertionError(name)


def check_own_weights(network: nn.Module) -> None:
    """Check that a network's own file, with a head of other classes, is loaded whole."""
    state = dict(network.state_dict())
    head = classifier_names(network)
    assert head
    assert all(re.fullmatch(r"(head|head_dist|head\.fc)\.(weight|bias)", name) for name in head)
    file = {
        name: torch.empty((11, *value.shape[1:]), device="meta") if name in head else value
        for name, value in state.items()
    }
    adapted = adapt(file, network, allow_other_head=True)
    assert not adapted.head_loaded
    assert adapted.resized == []
    assert adapted.left_out == ()
    assert adapted.loaded == len(state) - len(head)
    assert all(adapted.state[name] is file[name] for name in state if name not in head)


@pytest.mark.filterwarnings("ignore::UserWarning")  # timm's own, of names that it has replaced
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_listed_architecture_loads_its_own_weights(name: str) -> None:
    check_own_weights(shallow(name))


@pytest.mark.parametrize("name", native_names())
def test_every_native_architecture_loads_its_own_weights(name: str) -> None:
    few = {"depths": "1-1-1-1"} if name.startswith("swin") else {"depth": "1"}
    with torch.device("meta"):
        check_own_weights(build_native(name, num_classes=3, model_args=few))
