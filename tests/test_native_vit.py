"""The ViT of this package gives timm's answers, and does what timm's cannot."""

from __future__ import annotations

import pytest
import timm
import torch
from network_cases import (
    assert_equal_answers,
    difference,
    distinct_names,
    images,
    native_network,
    pair,
    randomise,
    small,
)

from swinclf.errors import ModelError
from swinclf.models.complexity import count_torch_flops, network_parts
from swinclf.models.vit import ViT, ViTConfig

TINY = ViTConfig(img_size=(48, 32), patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3)


def tiny(**changes: object) -> ViT:
    network = ViT(TINY.__class__(**{**TINY.__dict__, **changes}))
    randomise(network)
    return network.eval()


@pytest.mark.parametrize("name", [n for n in distinct_names() if not n.startswith("swin")])
def test_same_answers_and_gradients_as_timm(name: str) -> None:
    assert_equal_answers(*pair(name, **small(name)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_whole_network_has_timms_answers_in_bfloat16(name: str) -> None:
    ours, theirs = pair(name, img_size=64)
    x = images(ours)
    with torch.no_grad():
        exact = theirs(x)
        mine, its = ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16())
    assert difference(mine, exact) < 1.5 * difference(its, exact) + 0.01


def test_free_shape_of_72_pixels_and_an_mlp_head() -> None:
    network = native_network(
        "vit",
        num_classes=100,
        model_args={
            "img_size": "72",
            "patch_size": "6",
            "embed_dim": "64",
            "depth": "8",
            "num_heads": "4",
            "pool": "flatten",
            "class_token": "false",
            "head": "mlp",
            "head_hidden": "2048-1024",
            "head_dropout": "0.5",
        },
    )
    assert network.patch_embed.num_patches == 144
    assert network.patch_embed.proj.weight[0].numel() == 108
    features = network.forward_features(torch.randn(2, 3, 72, 72))
    assert network.forward_head(features, pre_logits=True).shape == (2, 1024)
    assert network(torch.randn(2, 3, 72, 72)).shape == (2, 100)


@pytest.mark.parametrize(
    "changes",
    [
        {"head": "mlp", "head_hidden": (7,)},
        {"pool": "flatten"},
        {"distilled": True},
        {"no_embed_class": True, "reg_tokens": 2},
        {"activation": "swiglu"},
    ],
)
def test_every_form_runs_counts_and_loads_into_itself(changes: dict[str, object]) -> None:
    network = tiny(**changes)
    other = tiny(**changes)
    randomise(other, seed=5)
    other.load_state_dict(network.state_dict(), strict=True)
    x = images(network, 1)
    with torch.no_grad():
        flops = count_torch_flops(lambda: network(x))
    assert torch.equal(other(x), network(x))
    assert 2 * sum(part.macs for part in network_parts(network)) == flops
    assert sum(part.parameters for part in network_parts(network)) == sum(
        value.numel() for value in network.parameters()
    )


def test_dropout_and_drop_path_act_in_training_only() -> None:
    network = tiny(mlp_dropout=0.2, drop_path=0.5, head="mlp", head_hidden=(8,), head_dropout=0.5)
    x = images(network)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_protocol_is_timms(name: str) -> None:
    ours, theirs = pair(name, img_size=32, depth=2)
    groups = timm.models.group_parameters
    for coarse in (False, True):
        mine = groups(ours, ours.group_matcher(coarse), reverse=True)
        assert mine == groups(theirs, theirs.group_matcher(coarse), reverse=True)
    assert theirs.no_weight_decay() <= ours.no_weight_decay()
    assert ours.num_features == theirs.num_features
    assert ours.num_classes == theirs.num_classes == 5
    x = images(ours)
    for classes, width in ((7, 7), (0, 192)):
        ours.reset_classifier(classes)
        assert ours(x).shape == (2, width)
        assert ours.num_classes == classes
    assert isinstance(ours.get_classifier(), tuple) == ("distilled" in name)


def test_other_sizes_are_refused_in_words() -> None:
    with pytest.raises(ModelError, match="48 x 32") as error:
        tiny()(torch.randn(1, 3, 48, 48))
    assert error.value.found == "48 x 48"
