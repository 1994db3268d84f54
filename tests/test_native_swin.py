"""The Swin Transformer of this package gives timm's answers."""

from __future__ import annotations

import pytest
import timm
import torch
from network_cases import (
    FLOAT32_TOLERANCE,
    assert_equal_answers,
    difference,
    distinct_names,
    images,
    pair,
    randomise,
    small,
)

from swinclf.models.complexity import count_torch_flops, network_parts
from swinclf.models.swin import (
    Swin,
    SwinConfig,
    from_windows,
    relative_position_index,
    shift_mask,
    to_windows,
)

NAME = "swin_tiny_patch4_window7_224"
NARROW = {"embed_dim": 24, "num_heads": (1, 2, 3, 4)}


def tiny(**changes: object) -> Swin:
    shape = {
        "img_size": (64, 48),
        "embed_dim": 16,
        "depths": (2, 2),
        "num_heads": (2, 4),
        "window_size": 5,
        "num_classes": 3,
    }
    network = Swin(SwinConfig(**{**shape, **changes}))
    randomise(network)
    return network.eval()


@pytest.mark.parametrize("name", [n for n in distinct_names() if n.startswith("swin")])
def test_same_answers_and_gradients_as_timm(name: str) -> None:
    assert_equal_answers(*pair(name, **small(name)))


@pytest.mark.parametrize(
    "changes",
    [
        {"img_size": 112},
        {"img_size": (100, 140)},
        {"img_size": 36, "window_size": 5},
        {"img_size": (64, 32), "window_size": 4, "embed_dim": 48, "mlp_ratio": 3.0},
    ],
)
def test_any_window_width_and_size(changes: dict[str, object]) -> None:
    ours, theirs = pair(NAME, **{**NARROW, "depths": (2, 1, 2, 1), **changes})
    assert_equal_answers(ours, theirs)


def test_whole_network_has_timms_answers_in_bfloat16() -> None:
    ours, theirs = pair(NAME, img_size=112, **NARROW)
    x = images(ours)
    with torch.no_grad():
        exact = theirs(x)
        mine, its = ours.bfloat16()(x.bfloat16()), theirs.bfloat16()(x.bfloat16())
    assert difference(mine, exact) < 1.5 * difference(its, exact) + 0.01


def test_bfloat16_gradients_differ_by_rounding() -> None:
    ours, theirs = pair(NAME, img_size=56, depths=(2, 1, 1, 1), **NARROW)
    x = images(ours)
    theirs(x).sum().backward()
    exact = {name: value.grad.clone() for name, value in theirs.named_parameters()}
    for network in (ours.bfloat16(), theirs.bfloat16()):
        network.zero_grad()
        network(x.bfloat16()).sum().backward()
    its = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        rounding = difference(its[name].grad, exact[name])
        assert difference(value.grad, exact[name]) < 2 * rounding + 0.02, name


def test_autocast_gives_bfloat16_answers_and_float32_gradients() -> None:
    ours, theirs = pair(NAME, img_size=56, depths=(2, 1, 1, 1), **NARROW)
    x = images(ours)
    expected = theirs(x)
    with torch.autocast("cpu", torch.bfloat16):
        logits = ours(x)
    logits.float().sum().backward()
    assert difference(logits, expected) < 0.05
    assert all(value.grad.dtype == torch.float32 for value in ours.parameters())


def test_frozen_stages_leave_the_others_gradients_alone() -> None:
    whole, part = tiny(), tiny()
    for value in (*part.patch_embed.parameters(), *part.layers[0].parameters()):
        value.requires_grad_(False)
    x = images(whole)
    whole(x).square().sum().backward()
    part(x).square().sum().backward()
    assert all(value.grad is None for value in part.layers[0].parameters())
    for a, b in zip(part.layers[1].parameters(), whole.layers[1].parameters(), strict=True):
        assert difference(a.grad, b.grad) < FLOAT32_TOLERANCE


def test_windows_are_cut_and_put_together_again() -> None:
    x = torch.arange(2 * 4 * 6 * 1.0).view(2, 4, 6, 1)
    windows = to_windows(x, (2, 3))
    assert windows[0, :, :, 0].tolist()[1] == [3, 4, 5, 9, 10, 11]
    assert torch.equal(from_windows(windows, (2, 3), (4, 6)), x)


def test_relative_position_index_of_two_by_two() -> None:
    expected = [
        [4, 3, 1, 0],
        [5, 4, 2, 1],
        [7, 6, 4, 3],
        [8, 7, 5, 4],
    ]  # the paper's fig. in numbers
    assert relative_position_index((2, 2)).tolist() == expected


def test_shift_mask_keeps_regions_apart() -> None:
    mask = shift_mask((4, 4), (2, 2), (1, 1))
    assert mask[0].eq(0).all()  # the first window holds one region
    assert mask[3].eq(0).sum() == 4  # in the last every token stands alone
    assert mask[1].eq(0).sum() == 8  # in the others two pairs
    assert mask.softmax(-1).unique().tolist() == [0, 0.25, 0.5, 1]  # no denormal numbers


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize("size", [(64, 48), (33, 70)])
def test_multiply_adds_are_what_torch_counts(size: tuple[int, int], count: int) -> None:
    network = tiny(img_size=size)
    x = images(network, count)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            flops = count_torch_flops(lambda: network(x))
        assert 2 * count * sum(part.macs for part in network_parts(network)) == flops


def test_protocol_is_timms() -> None:
    ours, theirs = pair(NAME, img_size=32, depths=(2, 2, 1, 1))
    groups = timm.models.group_parameters
    for coarse in (False, True):
        mine = groups(ours, ours.group_matcher(coarse), reverse=True)
        assert mine == groups(theirs, theirs.group_matcher(coarse), reverse=True)
    assert ours.no_weight_decay() == theirs.no_weight_decay()
    assert ours.num_features == theirs.num_features
    x = images(ours)
    for classes, width in ((7, 7), (0, 768)):
        ours.reset_classifier(classes)
        assert ours(x).shape == (2, width)
        assert ours.num_classes == classes


def test_drop_path_acts_in_training_only() -> None:
    network = tiny(drop_path=0.5, head_dropout=0.5)
    x = images(network, 4)
    assert torch.equal(network(x), network(x))
    network.train()
    assert not torch.equal(network(x), network(x))
