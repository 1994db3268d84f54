"""Shapes given by the user: `key=value` arguments parsed into a network's configuration.

All errors are reported at once.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import NoneType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from swinclf.errors import ConfigError
from swinclf.models.swin import SwinConfig
from swinclf.models.vit import ViTConfig

Config = TypeVar("Config", bound=ViTConfig | SwinConfig)

_ELSEWHERE = ("num_classes", "drop_path")  # fields that have an option of their own
_COUNTS = (1, 100_000)  # the range of the numbers that are not listed here
_RANGES: dict[str, tuple[float, float]] = {
    "mlp_ratio": (0.01, 100),
    "norm_eps": (0, 1),
    "layer_scale": (0, 100),
    "reg_tokens": (0, 1000),
    **dict.fromkeys(("head_dropout", "attn_dropout", "mlp_dropout"), (0, 0.999)),
}


def _parse(kind: Any, text: str, span: tuple[float, float]) -> Any:
    """Parse the text of a field by its type; `span` is the range of a number.

    Raises:
        ValueError: If it is no such value, with what is expected.
    """
    options = get_args(kind)
    if NoneType in options:
        if text.lower() == "none":
            return None
        try:
            return _parse(options[0], text, span)
        except ValueError as error:
            raise ValueError(f"{error}, or none") from None
    if get_origin(kind) is Literal:
        return _choice(options, text)
    if kind is bool:
        return _switch(text)
    if kind in (int, float):
        return _number(kind, text, span)
    if options == (int, int):
        return _size(text)
    numbers = _numbers(text)
    if get_origin(kind) is tuple:
        return numbers
    if not numbers:
        raise ValueError("a whole number, or one per stage with dashes between")
    return numbers if len(numbers) > 1 else numbers[0]


def _number(kind: type[int] | type[float], text: str, span: tuple[float, float]) -> int | float:
    """Parse a number in a range."""
    low, high = span
    what = f"{'a whole number' if kind is int else 'a number'} from {low:g} to {high:g}"
    try:
        value = kind(text)
    except ValueError:
        raise ValueError(what) from None
    if not low <= value <= high:
        raise ValueError(what)
    return value


def _numbers(text: str) -> tuple[int, ...]:
    """Parse positive integers separated by dashes or commas; () for an empty text."""
    parts = text.replace(",", "-").split("-") if text else []
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError("whole numbers above 0 with dashes between, e.g. 2-2-6-2")
    return tuple(int(part) for part in parts)


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


def _choice(words: Sequence[str], text: str) -> str:
    """Parse one of these words."""
    if text not in words:
        close = difflib.get_close_matches(text, words, n=1)
        raise ValueError(f"one of {', '.join(words)}" + (f" ({close[0]}?)" if close else ""))
    return text


def parse_arguments(config: Config, arguments: Mapping[str, str]) -> Config:
    """Apply arguments, text by field name, to a configuration; check that the network can be built.

    Raises:
        ConfigError: With all problems: unknown keys (and the closest one), invalid values, values
            that are incompatible with each other.
    """
    known = {
        key: kind for key, kind in get_type_hints(type(config)).items() if key not in _ELSEWHERE
    }
    values: dict[str, Any] = {}
    problems = []
    for key, text in arguments.items():
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            problems.append(f"{key}: unknown" + (f" (did you mean {close[0]}?)" if close else ""))
            continue
        try:
            values[key] = _parse(known[key], text, _RANGES.get(key, _COUNTS))
        except ValueError as error:
            problems.append(f"{key}={text}: {error}")
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
        "head=mlp: needs head_hidden, e.g. 2048-1024": config.head == "mlp" and not hidden,
        "head_hidden: needs head=mlp": config.head == "linear" and hidden,
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
