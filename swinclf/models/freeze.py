"""Frozen parts of a network, and the depth of each parameter.

Both use one numbering of the parameters: 0 is the stem, then the stages (or blocks), last the head.
Networks define the groups by regular expressions or a function (`group_matcher`, as in timm).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from swinclf.errors import ConfigError

WITH_PREVIOUS = 99999  # in a network's matcher: belongs to the previous group
_HEAD = (float("inf"),)


def layer_numbers(network: nn.Module, *, coarse: bool) -> dict[str, int]:
    """Return the layer number of each parameter by name, counted from the input.

    0 for the stem, 1 and so on for stages or blocks, the largest number for parameters that match
    no rule of the network's `group_matcher`: the head, and a norm before it that is its own group.
    Without a `group_matcher`, 1 for the head and 0 for all others. `coarse` is whether to count a
    Swin by stages rather than blocks.
    """
    key_of = _key_function(network, coarse=coarse)
    keys = {name: key_of(name) for name, _ in network.named_parameters()}
    numbers: dict[tuple[float, ...], int] = {}
    current = -1
    for key in sorted(set(keys.values())):
        current += current < 0 or key[-1] != WITH_PREVIOUS
        numbers[key] = current
    return {name: numbers[key] for name, key in keys.items()}


def freeze_stages(network: nn.Module, count: int) -> None:
    """Freeze the stem and the first `count` stages (Swin) or blocks (ViT).

    Raises:
        ConfigError: If the network has fewer.
    """
    numbers = layer_numbers(network, coarse=True)
    stages = max(numbers.values()) - 1
    if count > stages:
        raise ConfigError(
            f"--freeze-stages from 0 to {stages}, the stages or blocks of this network",
            found=str(count),
            hint="--freeze-layers to train the head only",
        )
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(numbers[name] > count)


def train_mode(network: nn.Module, *, frozen_statistics: bool = False) -> None:
    """Set trainable modules to training mode, frozen ones to evaluation mode (no drop path).

    With `frozen_statistics`, batch norm uses its running mean and variance, while its scale and
    shift are trained. Otherwise it uses the statistics of the images computed at once, so that
    results depend on how a batch is split.
    """
    network.train()
    for module in network.modules():
        parameters = list(module.parameters())
        is_frozen = parameters and not any(parameter.requires_grad for parameter in parameters)
        if is_frozen or (frozen_statistics and isinstance(module, _BatchNorm)):
            module.eval()


def classifiers(network: nn.Module) -> list[nn.Module]:
    """Return the classification head; two of a distilled network, which averages them."""
    classifier = network.get_classifier()  # type: ignore[operator]
    return list(classifier) if isinstance(classifier, tuple) else [classifier]


def auxiliary_heads(network: nn.Module) -> list[nn.Module]:
    """Return the heads whose logits a network adds to those of its classifier, as VOLO does.

    They are named in timm's configuration alone.
    """
    listed = (getattr(network, "pretrained_cfg", None) or {}).get("classifier") or ()
    names = [listed] if isinstance(listed, str) else listed
    own = {one for head in classifiers(network) for one in head.modules()}
    return [
        module
        for name, module in network.named_modules()
        if name in names and own.isdisjoint(module.modules())
    ]


def has_linear_logits(network: nn.Module) -> bool:
    """Return whether the logits are linear in the features: of one classifier, or a mean of two."""
    is_linear = all(isinstance(one, nn.Linear) for one in classifiers(network))
    return is_linear and not auxiliary_heads(network)


def classifier_parameters(network: nn.Module) -> Iterable[nn.Parameter]:
    """Return the parameters of all classification heads."""
    heads = [*classifiers(network), *auxiliary_heads(network)]
    return [one for head in heads for one in head.parameters()]


def classifier_names(network: nn.Module) -> set[str]:
    """Return the names of the parameters of all classification heads."""
    ids = {id(parameter) for parameter in classifier_parameters(network)}
    return {name for name, one in network.named_parameters() if id(one) in ids}


def _key_function(network: nn.Module, *, coarse: bool) -> Callable[[str], tuple[float, ...]]:
    """Return the function from a parameter's name to its sort key.

    Not timm's `group_parameters`: importing it takes seconds, which native networks do without.
    """
    if not hasattr(network, "group_matcher"):
        head = classifier_names(network)
        return lambda name: _HEAD if name in head else (0.0,)
    matcher: Any = network.group_matcher(coarse=coarse)  # type: ignore[operator]
    if callable(matcher):
        return lambda name: _as_tuple(matcher(name))
    rules = [
        (re.compile(pattern), (float(order),), suffix)
        for order, patterns in enumerate(matcher.values())
        for pattern, suffix in ([(patterns, None)] if isinstance(patterns, str) else patterns or ())
    ]
    return partial(_key, rules=rules)


def _as_tuple(number: Any) -> tuple[float, ...]:
    return tuple(number) if isinstance(number, Iterable) else (number,)


def _key(
    name: str, rules: Iterable[tuple[re.Pattern[str], tuple[float, ...], Any]]
) -> tuple[float, ...]:
    """Return the sort key of a parameter: its rule, then the numbers in its name."""
    for pattern, order, suffix in rules:
        if match := pattern.match(name):
            numbers = (float(part) for part in match.groups() if part is not None)
            return (*order, *numbers, *map(float, suffix or ()))
    return _HEAD
