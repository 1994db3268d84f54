"""Shapes given by the user: `key=value` arguments parsed into a network's configuration.

All errors are reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, get_args

from swinclf.errors import ConfigError
from swinclf.models.layers import ACTIVATIONS
from swinclf.models.swin import SwinConfig
from swinclf.models.vit import HeadKind, PoolKind, PositionKind, ViTConfig

Config = TypeVar("Config", ViTConfig, SwinConfig)


@dataclass(frozen=True)
class Argument:
    """A configurable field: its meaning and its parser."""

    meaning: str  # what it is, with its unit
    read: Callable[[str], Any]  # parses the text; raises ValueError with what it expects


def _number(kind: type[int] | type[float], low: float, high: float) -> Callable[[str], Any]:
    """Return a parser of numbers in [low, high]."""
    what = "a whole number" if kind is int else "a number"
    span = f"{what} from {low:g}" + (f" to {high:g}" if high < float("inf") else "")

    def read(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(span) from None
        if not low <= value <= high:
            raise ValueError(span)
        return value

    return read


def _numbers(text: str) -> tuple[int, ...]:
    """Parse positive integers separated by dashes or commas; () for an empty text."""
    parts = text.replace(",", "-").split("-") if text else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("whole numbers above 0 with dashes between, e.g. 2-2-6-2")
    return tuple(int(part) for part in parts)


def _one_or_more(text: str) -> int | tuple[int, ...]:
    """Parse one positive integer, or several separated by dashes."""
    numbers = _numbers(text)
    if not numbers:
        raise ValueError("a whole number, or one per stage with dashes between")
    return numbers if len(numbers) > 1 else numbers[0]


def _size(text: str) -> tuple[int, int]:
    """Parse a side, or height x width."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("pixels, e.g. 72, or height x width, e.g. 72x96")
    return int(parts[0]), int(parts[-1])


def _switch(text: str) -> bool:
    """Parse a boolean."""
    words = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if text.lower() not in words:
        raise ValueError("true or false")
    return words[text.lower()]


def _choice(*words: str) -> Callable[[str], str]:
    """Return a parser of one of these words."""

    def read(text: str) -> str:
        if text not in words:
            close = difflib.get_close_matches(text, words, n=1)
            raise ValueError(f"one of {', '.join(words)}" + (f" ({close[0]}?)" if close else ""))
        return text

    return read


def _or_none(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser that also accepts `none`."""
    return lambda text: None if text.lower() == "none" else read(text)


_COUNT, _FRACTION = _number(int, 1, 100_000), _number(float, 0, 0.999)
_RATIO, _EPS = _number(float, 0.01, 100), _number(float, 0, 1)
_BOTH: dict[str, Argument] = {
    "img_size": Argument("height and width of the images, pixels", _size),
    "patch_size": Argument("side of a patch, pixels", _COUNT),
    "in_chans": Argument("colours of an image", _COUNT),
    "embed_dim": Argument("channels of a token (in Swin's first stage)", _COUNT),
    "mlp_ratio": Argument("hidden channels of the MLP over its input's", _RATIO),
    "qkv_bias": Argument("bias of queries, keys and values", _switch),
    "head_dropout": Argument("dropped before the head in training, fraction", _FRACTION),
    "norm_eps": Argument("added to the variance in layer norms", _EPS),
}
VIT_ARGUMENTS: dict[str, Argument] = {
    **_BOTH,
    "patch_stride": Argument("from patch to patch, pixels; none: no overlap", _or_none(_COUNT)),
    "depth": Argument("encoder blocks", _COUNT),
    "num_heads": Argument("heads of the attention", _COUNT),
    "head_dim": Argument("channels of a head; none: embed_dim over num_heads", _or_none(_COUNT)),
    "activation": Argument("of the MLP", _choice(*ACTIVATIONS)),
    "mlp_final_activation": Argument("after the MLP's second layer, too", _switch),
    "qk_norm": Argument("layer norm of queries and keys", _switch),
    "layer_scale": Argument(
        "first value of the branches' factors; none: no factors", _or_none(_number(float, 0, 100))
    ),
    "class_token": Argument("a class token before the patches", _switch),
    "distilled": Argument("a distillation token with its own head", _switch),
    "reg_tokens": Argument("register tokens", _number(int, 0, 1000)),
    "position": Argument("where position comes from", _choice(*get_args(PositionKind))),
    "no_embed_class": Argument("positions for the patches only", _switch),
    "pre_norm": Argument("layer norm before the blocks", _switch),
    "final_norm": Argument("layer norm after the blocks", _switch),
    "fc_norm": Argument("that norm after the pooling; none: for the mean", _or_none(_switch)),
    "pool": Argument("what the head sees", _choice(*get_args(PoolKind))),
    "head": Argument("form of the head", _choice(*get_args(HeadKind))),
    "head_hidden": Argument("channels of the head's hidden layers, e.g. 2048-1024", _numbers),
    "dropout": Argument("dropped inside the blocks in training, fraction", _FRACTION),
    "attn_dropout": Argument("attention weights dropped in training, fraction", _FRACTION),
    "mlp_dropout": Argument("dropped in the MLPs only in training, fraction", _FRACTION),
}
SWIN_ARGUMENTS: dict[str, Argument] = {
    **_BOTH,
    "depths": Argument("blocks of each stage, e.g. 2-2-6-2", _numbers),
    "num_heads": Argument("heads of each stage, e.g. 3-6-12-24", _numbers),
    "window_size": Argument("side of a window, tokens: one, or one per stage", _one_or_more),
}


def parse_arguments(config: Config, arguments: Mapping[str, str]) -> Config:
    """Apply arguments, text by field name, to a configuration; check that the network can be built.

    Raises:
        ConfigError: With all problems: unknown keys (and the closest one), invalid values, values
            that are incompatible with each other.
    """
    known = VIT_ARGUMENTS if isinstance(config, ViTConfig) else SWIN_ARGUMENTS
    values: dict[str, Any] = {}
    problems = []
    for key, text in arguments.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            problems.append(f"{key}: unknown" + (f" (did you mean {close[0]}?)" if close else ""))
            continue
        try:
            values[key] = known[key].read(text)
        except ValueError as error:
            problems.append(f"{key}={text}: {known[key].meaning}, {error}")
    config = replace(config, **values)
    if not problems and "patch_size" not in values and min(config.img_size) < config.patch_size:
        patch = config.patch_size
        raise ConfigError(
            f"images of at least {patch} px, the side of one patch",
            found=f"{min(config.img_size)} px",
            hint=f"--img-size {14 * patch}, or any other from {patch} on",
        )
    problems = problems or check_shape(config)
    if problems:
        raise ConfigError(
            "a network that can be built from its --model-arg",
            found="; ".join(problems),
            hint="keys: " + ", ".join(known),
        )
    return config


def check_shape(config: ViTConfig | SwinConfig) -> list[str]:
    """Return why a network of this shape cannot be built; empty if it can."""
    problems = []
    if min(config.img_size) < config.patch_size:
        problems.append(f"patch_size={config.patch_size} px: larger than the image")
    specific = _check_vit(config) if isinstance(config, ViTConfig) else _check_swin(config)
    return problems + specific


def _check_vit(config: ViTConfig) -> list[str]:
    hidden, heads = config.head_hidden, config.num_heads
    unfit = {
        f"num_heads={heads}: embed_dim={config.embed_dim} is no multiple": not config.head_dim
        and config.embed_dim % heads,
        "pool=token: needs class_token=true": config.pool == "token" and not config.class_token,
        "distilled: needs class_token, pool=token and head=linear": config.distilled
        and not (config.class_token and config.pool == "token" and config.head == "linear"),
        "position=sincos: embed_dim must be a multiple of 4": config.position == "sincos"
        and config.embed_dim % 4,
        "head=mlp: needs head_hidden, e.g. 2048-1024": config.head == "mlp" and not hidden,
        "head_hidden: needs head=mlp": config.head == "linear" and hidden,
        "head=tanh: takes one number in head_hidden": config.head == "tanh" and len(hidden) > 1,
        "activation=swiglu: embed_dim * mlp_ratio must be even": config.activation == "swiglu"
        and int(config.embed_dim * config.mlp_ratio) % 2,
        "mlp_final_activation: not with activation=swiglu": config.mlp_final_activation
        and config.activation == "swiglu",
    }
    return [problem for problem, wrong in unfit.items() if wrong]


def _check_swin(config: SwinConfig) -> list[str]:
    stages, heads = len(config.depths), config.num_heads
    if not stages:
        return ["depths: at least one stage"]
    if len(heads) != stages or len(config.windows) != stages:
        return [
            f"depths has {stages} stages, num_heads {len(heads)}, window_size "
            f"{len(config.windows)}: give each of them one number per stage"
        ]
    widths = [config.embed_dim * 2**stage for stage in range(stages)]
    return [
        f"num_heads: {count} heads do not divide the {width} channels of stage {stage + 1}"
        for stage, (width, count) in enumerate(zip(widths, heads, strict=True))
        if width % count
    ]
