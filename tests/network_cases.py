"""Pairs of the same small network, this package's and timm's, with the same random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import timm
import torch
from torch import Tensor, nn

from swinclf.config import Impl
from swinclf.models import swin, vit
from swinclf.models.names import Architecture, build_native, native_config, native_names
from swinclf.models.weights.adapt import AdaptedWeights, adapt_first

FLOAT32_TOLERANCE = 1e-5  # of the largest value
Network = vit.ViT | swin.Swin


def randomise(network: nn.Module, seed: int = 0) -> None:
    """Give every parameter, norms, biases and tables too, values that matter and do not explode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            matrix = value.dim() > 1 and name.endswith("weight")
            factor = value.dim() == 1 and name.endswith(("weight", "gamma"))
            value.normal_(generator=generator)
            value.mul_(value[0].numel() ** -0.5 if matrix else 0.3).add_(1.0 if factor else 0.0)


def distinct_names() -> list[str]:
    """Return one name of each group that differs in depth and image size only."""
    return list(
        {
            str(native_config(name).__class__) + str(small_config(name)): name
            for name in reversed(native_names())
        }.values()
    )


def small_config(name: str) -> Any:
    """Return a published shape with fewer blocks and a small image: what `small` leads to."""
    from dataclasses import replace

    config = native_config(name)
    changes = small(name)
    side = changes.pop("img_size")
    return replace(config, img_size=(side, side), **changes)


def small(name: str) -> dict[str, Any]:
    """Return what makes a published network small without changing how it works.

    Windows and everything else stay; widths and heads are cut, blocks to one (two where windows
    shift), and images to a few patches across, no multiple of a window.
    """
    config = native_config(name)
    if isinstance(config, swin.SwinConfig):
        narrow = {"embed_dim": 12, "num_heads": (1, 2, 3, 4)}
        return {"depths": (2, 2, 1, 1), "img_size": 96, **narrow}
    return {"depth": 1, "img_size": 2 * config.patch_size, "embed_dim": 24, "num_heads": 3}


def native_network(
    name: str,
    *,
    num_classes: int,
    img_size: int | tuple[int, int] | None = None,
    model_args: Mapping[str, str] | None = None,
    **more: Any,
) -> Network:
    """Build a network of this package; `img_size` may be a height and a width."""
    arguments = dict(model_args or {})
    if isinstance(img_size, tuple):
        arguments["img_size"] = "x".join(map(str, img_size))
        img_size = None
    return build_native(
        Architecture(name, Impl.NATIVE, num_classes, img_size, model_args=arguments, **more)
    )


def pair(name: str, *, num_classes: int = 5, **changes: Any) -> tuple[Network, nn.Module]:
    """Return a published network, ours and timm's, alike in every number and in eval mode.

    Args:
        name: A published name.
        num_classes: Classes of both heads.
        changes: Arguments that both know by the same name.
    """
    arguments = {
        key: "-".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for key, value in changes.items()
        if key != "img_size"
    }
    with mock.patch.object(vit, "init_linear"), mock.patch.object(swin, "init_linear"):
        ours = native_network(
            name,
            num_classes=num_classes,
            img_size=changes.get("img_size"),
            model_args=arguments,
        )
    extra = {"drop_path_rate": 0.0, "weight_init": "skip"}
    theirs = timm.create_model(name, num_classes=num_classes, **changes, **extra)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours.eval(), theirs.eval()


def adapt(state: Mapping[str, Tensor], network: nn.Module) -> AdaptedWeights:
    """Return the tensors of a file adapted to a network."""
    return adapt_first([state], network)[0]


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Return the largest difference as a fraction of the largest value."""
    scale = theirs.detach().float().abs().max().clamp_min(1e-12)
    return float((ours.detach().float() - theirs.detach().float()).abs().max() / scale)


def images(network: nn.Module, count: int = 2) -> Tensor:
    """Return random images of the size that a network takes."""
    embed: Any = network.get_submodule("patch_embed")
    return torch.randn(count, 3, *embed.img_size, generator=torch.Generator().manual_seed(1))


def assert_equal_answers(ours: nn.Module, theirs: nn.Module) -> None:
    """Check features, pooled features, logits and the gradient of every parameter."""
    x = images(theirs)
    with torch.no_grad():
        features, expected = ours.forward_features(x), theirs.forward_features(x)
        pooled = ours.forward_head(features, pre_logits=True)
        assert difference(features, expected) < FLOAT32_TOLERANCE
        assert difference(pooled, theirs.forward_head(expected, pre_logits=True)) < (
            FLOAT32_TOLERANCE
        )
        inference = ours(x)
    logits, expected = ours(x), theirs(x)
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    (logits * weights).sum().backward()
    (expected * weights).sum().backward()
    assert difference(inference, expected) < FLOAT32_TOLERANCE
    assert difference(logits, expected) < FLOAT32_TOLERANCE
    for (name, mine), (its_name, its) in zip(
        ours.named_parameters(), theirs.named_parameters(), strict=True
    ):
        assert name == its_name
        assert difference(mine.grad, its.grad) < FLOAT32_TOLERANCE, name
