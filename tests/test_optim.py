"""The learning rate over time, the optimizer's groups, and which parameters are frozen."""

from __future__ import annotations

import copy
import math

import pytest
import timm
import torch
from conftest import SMALL_MODEL
from timm.models import group_parameters
from timm.optim import param_groups_layer_decay
from torch import nn

from swinclf.config import OptimizerName
from swinclf.errors import ConfigError
from swinclf.models.freeze import (
    classifier_parameters,
    freeze_stages,
    layer_numbers,
    train_mode,
)
from swinclf.settings import gather_settings
from swinclf.training.defaults import Regime, TrainingFacts, choose_schedule
from swinclf.training.optim import LBFGS, AdamW, build_optimizer, set_lr
from swinclf.training.schedule import Schedule

SIZES = {SMALL_MODEL: {"img_size": 32}, "test_swin": {}, "test_vit3": {"img_size": 32}}


@pytest.fixture(params=sorted(SIZES))
def network(request: pytest.FixtureRequest, tiny_swin: str) -> nn.Module:  # noqa: ARG001 - made known
    return timm.create_model(request.param, num_classes=3, **SIZES[request.param])


def lr_scale(step, *, total_steps, warmup, final):
    """The factor of the rate in a training of one epoch."""
    return Schedule(epochs=1, lrf=final, warmup=warmup).lr_scale_at(step, total_steps)


@pytest.mark.parametrize("warmup", [0, 1, 7])
@pytest.mark.parametrize("final", [0.0, 0.01, 1.0])
def test_lr_scale_rises_to_the_peak_and_ends_at_the_final_factor(warmup, final):
    scales = [lr_scale(step, total_steps=50, warmup=warmup / 50, final=final) for step in range(50)]
    assert scales[warmup] == 1.0
    assert max(scales) == 1.0
    assert scales[-1] == pytest.approx(final, abs=1e-12)
    assert scales[: warmup + 1] == sorted(scales[: warmup + 1])
    assert scales[warmup:] == sorted(scales[warmup:], reverse=True)
    assert all(scale > 0 for scale in scales[:-1])


def test_lr_scale_is_half_a_cosine():
    middle = lr_scale(10, total_steps=21, warmup=0, final=0.2)
    assert middle == pytest.approx(0.6)
    quarter = lr_scale(5, total_steps=21, warmup=0, final=0.0)
    assert quarter == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_lr_scale_of_a_single_step_is_the_peak():
    assert lr_scale(0, total_steps=1, warmup=0, final=0.01) == 1.0


def test_the_longest_warmup_ends_at_the_peak():
    assert lr_scale(4, total_steps=5, warmup=1.0, final=0.1) == 1.0


def test_set_lr_scales_every_group_from_its_own_peak():
    linear = nn.Linear(2, 2)
    optimizer = build_optimizer(
        linear.named_parameters(),
        lr=0.5,
        weight_decay=0.1,
        layers={"weight": 0, "bias": 1},
        layer_decay=0.5,
    )
    for scale in (1.0, 0.25, 0.5):
        set_lr(optimizer, scale)
        assert sorted(group["lr"] for group in optimizer.param_groups) == [
            0.25 * scale,
            0.5 * scale,
        ]


def _rates(optimizer, network, scale=1.0):
    """(rate, decay) of each parameter, by name."""
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    return {
        names[id(parameter)]: (
            group["lr"] * group.get("lr_scale", 1.0) * scale,
            group["weight_decay"],
        )
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


@pytest.mark.parametrize("layer_decay", [0.75, 0.9, 1.0])
def test_layer_decay_is_timms_own(network, layer_decay):
    ours = build_optimizer(
        network.named_parameters(),
        lr=1e-3,
        weight_decay=0.05,
        layers=layer_numbers(network, coarse=False),
        layer_decay=layer_decay,
        no_decay=network.no_weight_decay(),
    )
    groups = param_groups_layer_decay(
        network,
        weight_decay=0.05,
        no_weight_decay_list=network.no_weight_decay(),
        layer_decay=layer_decay,
    )
    theirs = _rates(torch.optim.AdamW(groups, lr=1e-3), network)
    found = _rates(ours, network)
    assert found.keys() == theirs.keys() == dict(network.named_parameters()).keys()
    for name, (rate, decay) in theirs.items():
        assert found[name] == (pytest.approx(rate), decay), name


def test_norms_biases_and_position_tables_are_not_decayed(network):
    optimizer = build_optimizer(
        network.named_parameters(),
        lr=1e-3,
        weight_decay=0.05,
        no_decay=network.no_weight_decay(),
    )
    decayed = {name for name, (_, decay) in _rates(optimizer, network).items() if decay}
    assert decayed
    for name, parameter in network.named_parameters():
        is_table = "pos_embed" in name or "relative_position_bias_table" in name
        is_token = name in ("cls_token", "reg_token")
        if parameter.ndim == 1 or "norm" in name or name.endswith("bias") or is_table or is_token:
            assert name not in decayed
        else:
            assert name in decayed


def test_frozen_parameters_are_in_no_group(network):
    freeze_stages(network, 1)
    optimizer = build_optimizer(network.named_parameters(), lr=1e-3, weight_decay=0.05)
    listed = {id(one) for group in optimizer.param_groups for one in group["params"]}
    assert listed == {id(one) for one in network.parameters() if one.requires_grad}


@pytest.mark.parametrize(
    ("regime", "facts", "given", "chosen"),
    [
        (Regime.FULL, {}, {}, ("muon", 9.9e-4)),
        (Regime.FULL, {}, {"optimizer": "adamw"}, ("adamw", 3.5e-4)),
        (Regime.FULL, {"is_convolutional": True}, {}, ("muon", 9.9e-4)),
        (Regime.FULL, {"trained_weights": True}, {}, ("adamw", 7.1e-5)),
        (Regime.FULL, {"trained_weights": True}, {"optimizer": "muon"}, ("muon", 7.1e-5)),
        (Regime.HEAD, {}, {}, ("adamw", 1e-3)),
    ],
)
def test_muon_is_chosen_from_random_weights(regime, facts, given, chosen):
    usual = {"trained_weights": False, "is_vit": True, "is_convolutional": False}
    counts = {"train_count": 40, "class_counts": {"a": 20, "b": 20}, "img_size": 224}
    settings = gather_settings({"device": "cpu", **given})
    settings = choose_schedule(settings, TrainingFacts(regime, **{**usual, **counts, **facts}))
    assert (settings.config.optimizer, settings.config.lr) == chosen


def test_muon_takes_the_matrices_between_the_embedding_and_the_head(network):
    optimizer = build_optimizer(
        network.named_parameters(),
        lr=1e-3,
        weight_decay=0.05,
        layers=layer_numbers(network, coarse=False),
        no_decay=network.no_weight_decay(),
        name=OptimizerName.MUON,
    )
    by_muon = {
        id(one) for group in optimizer.param_groups for one in group["params"] if group["use_muon"]
    }
    names = {name for name, one in network.named_parameters() if id(one) in by_muon}
    kinds = {name.partition("blocks.")[2].partition(".")[2] for name in names if "blocks." in name}
    assert kinds == {f"{one}.weight" for one in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    assert {name for name in names if "blocks." not in name} == {
        name for name, _ in network.named_parameters() if name.endswith("reduction.weight")
    }


def test_muon_orthogonalises_the_gradient_and_leaves_the_rest_to_adamw():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 24), nn.Linear(24, 16))
    before = copy.deepcopy(network)
    network(torch.randn(200, 8)).square().mean().backward()
    parameters = dict(network.named_parameters())
    gradients = {name: one.grad.clone() for name, one in parameters.items()}
    build_optimizer(
        parameters.items(),
        lr=1e-2,
        weight_decay=0.1,
        layers={name: int(name[0]) for name in parameters},
        name=OptimizerName.MUON,
    ).step()
    steps = {
        name: one.detach() * (1 - 1e-2 * (0.1 if one.ndim > 1 else 0)) - parameters[name].detach()
        for name, one in before.named_parameters()
    }
    left, _, right = torch.linalg.svd(gradients["1.weight"], full_matrices=False)
    orthogonal = steps.pop("1.weight") / (1e-2 * 0.2 * 24**0.5)
    assert (orthogonal - left @ right).norm() < 0.15 * orthogonal.norm()
    assert len(steps) == 5
    for name, step in steps.items():  # AdamW's first step is the sign of the gradient
        torch.testing.assert_close(step, 1e-2 * gradients[name].sign(), rtol=1e-2, atol=0, msg=name)


def _three_steps(optimizer: type[torch.optim.Optimizer], **settings: object) -> torch.Tensor:
    """What a small fit comes to; taken up from a saved state after the first step."""
    generator = torch.Generator().manual_seed(0)
    inputs, wanted = torch.randn(2, 20, 4, generator=generator).unbind()
    weight = nn.Parameter(torch.eye(4))
    state = None

    def loss() -> torch.Tensor:
        stepper.zero_grad()
        error = (inputs @ weight - wanted).square().mean()
        error.backward()
        return error

    for _ in range(3):
        stepper = optimizer([weight], **settings)
        if state is not None:
            stepper.load_state_dict(state)
        stepper.step(torch.enable_grad()(loss))
        state = stepper.state_dict()
    return weight.detach()


@pytest.mark.parametrize(
    ("ours", "theirs", "settings"),
    [
        (AdamW, torch.optim.AdamW, {"lr": 0.1, "fused": True}),
        (LBFGS, torch.optim.LBFGS, {"max_iter": 3, "line_search_fn": "strong_wolfe"}),
    ],
)
def test_steps_are_those_of_torch(ours, theirs, settings):
    found = _three_steps(ours, **settings)
    assert not torch.equal(found, torch.eye(4))
    assert torch.equal(found, _three_steps(theirs, **settings))


@pytest.mark.parametrize("coarse", [False, True])
def test_layer_numbers_are_timms_own(network, coarse):
    numbers = layer_numbers(network, coarse=coarse)
    theirs = group_parameters(network, network.group_matcher(coarse=coarse))
    assert numbers == {name: number for number, names in theirs.items() for name in names}


def test_layer_numbers_run_from_stem_to_head(network):
    numbers = layer_numbers(network, coarse=True)
    assert sorted(set(numbers.values())) == list(range(max(numbers.values()) + 1))
    assert {numbers[name] for name in numbers if name.startswith("patch_embed")} == {0}
    heads = {id(one) for one in classifier_parameters(network)}
    for name, parameter in network.named_parameters():
        assert (numbers[name] == max(numbers.values())) >= (id(parameter) in heads)


def _stage(name: str) -> int:
    """The stage or block that a parameter of these networks is in; 0 the stem, 99 what is above."""
    part, _, rest = name.partition(".")
    if part in ("blocks", "layers"):
        return int(rest.partition(".")[0]) + 1
    return 99 if part in ("norm", "fc_norm", "head", "attn_pool") else 0


def test_freeze_stages_freezes_the_stem_and_the_first_stages(network):
    stages = max(_stage(name) for name, _ in network.named_parameters() if _stage(name) < 99)
    for count in range(stages):
        freeze_stages(network, count)
        for name, parameter in network.named_parameters():
            assert parameter.requires_grad == (_stage(name) > count), (count, name)


def test_freezing_more_stages_than_there_are_is_refused(network):
    stages = max(_stage(name) for name, _ in network.named_parameters() if _stage(name) < 99)
    with pytest.raises(ConfigError) as error:
        freeze_stages(network, stages + 1)
    assert f"0 to {stages}" in error.value.expected


def test_frozen_modules_are_in_evaluation_mode_and_the_others_in_training_mode(network):
    freeze_stages(network, 1)
    train_mode(network)
    for name, module in network.named_modules():
        own = list(module.parameters())
        if own:
            assert module.training == any(one.requires_grad for one in own), name
    network.requires_grad_(True)
    train_mode(network)
    assert all(module.training for module in network.modules())


def test_frozen_statistics_of_batch_norm_stay_while_its_weights_train():
    network = timm.create_model("resnet18", num_classes=3)
    images = torch.randn(4, 3, 32, 32)
    norm = network.bn1
    train_mode(network, frozen_statistics=True)
    before = norm.running_mean.clone()
    network(images).square().sum().backward()
    assert torch.equal(norm.running_mean, before)
    assert norm.weight.grad.abs().sum() > 0
    whole = network(images)
    parts = torch.cat([network(part) for part in images.split(1)])
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)
    assert network.training
    train_mode(network)
    network(images)
    assert not torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("coarse", [False, True])
def test_a_convolutional_networks_layers_are_timms_own(coarse):
    network = timm.create_model("tf_efficientnet_lite0", num_classes=3)
    found = layer_numbers(network, coarse=coarse)
    groups = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    assert found == groups
    assert sorted(set(found.values())) == list(range(9 if coarse else 18))
    freeze_stages(network, 2)
    trained = {name for name, one in network.named_parameters() if one.requires_grad}
    assert trained == {
        name for name in found if not name.startswith(("conv_stem", "bn1", "blocks.0", "blocks.1"))
    }


@pytest.mark.parametrize("coarse", [False, True])
@pytest.mark.parametrize("name", ["cait_xxs24_224", "inception_v3"])
def test_layers_that_a_function_numbers_are_timms_own(name, coarse):
    with torch.device("meta"):
        network = timm.create_model(name, num_classes=3)
    groups = group_parameters(network, network.group_matcher(coarse=coarse), reverse=True)
    assert layer_numbers(network, coarse=coarse) == groups


def test_a_network_without_groups_has_a_backbone_and_a_head():
    with torch.device("meta"):
        network = timm.create_model("poolformer_s12", num_classes=3)
    numbers = layer_numbers(network, coarse=False)
    assert {name for name, number in numbers.items() if number} == {
        "head.fc.weight",
        "head.fc.bias",
    }
