"""The names that this package's own networks answer to, and how to build one: without timm.

Knows nothing of weight files. What a name stands for is in `names_table`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from swinclf.errors import ModelError
from swinclf.models import names_table as table
from swinclf.models.arguments import parse_arguments
from swinclf.models.swin import Swin, SwinConfig
from swinclf.models.vit import ViT, ViTConfig

DEFAULT = "swin_tiny_patch4_window7_224"
_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}
_PATTERN = re.compile(
    r"(?P<family>vit|deit3|deit)_(?P<size>[a-z0-9]+?)(?P<distilled>_distilled)?"
    r"_patch(?P<patch>\d+)_?(?P<kind>.*?)_?(?P<pixels>\d{3})?(?P<miil>_miil)?"
)


@dataclass(frozen=True)
class DataConfig:
    """How images must look for published weights."""

    tag: str
    """Name of the weights, the part after the dot."""
    img_size: int
    """Height and width of the images, pixels."""
    mean: tuple[float, ...]
    """Subtracted from each colour, values in [0, 1]."""
    std: tuple[float, ...]
    """What each colour is then divided by."""
    interpolation: str
    """Filter of the resize: bicubic or bilinear."""
    crop_pct: float
    """Fraction of the resized image that the crop keeps, in (0, 1]."""
    crop_mode: str
    """center, or squash: resized without regard to its shape."""
    num_classes: int
    """Classes of the published head; 0: it has none."""
    hub_id: str | None
    """Repository of the weights on the Hugging Face hub, or None where there is none."""


def native_names() -> list[str]:
    """Return the architectures that can be built here, in alphabetical order."""
    return sorted(_tags())


def is_native(name: str) -> bool:
    """Whether a published name, `arch` or `arch.tag`, is one of `native_names()`."""
    return name.partition(".")[0] in _tags()


def native_config(name: str) -> ViTConfig | SwinConfig:
    """Return the shape that a published name stands for.

    Args:
        name: `arch` or `arch.tag`; or `vit` or `swin` for the defaults of `--model-arg`.

    Raises:
        ModelError: If the name is none of `native_names()`, or the tag none of its tags.
    """
    if name in ("vit", "swin"):
        return ViTConfig() if name == "vit" else SwinConfig()
    pixels = native_data_config(name).img_size
    arch = name.partition(".")[0]
    if arch in table.SWINS:
        return SwinConfig(img_size=(pixels, pixels), **table.SWINS[arch])
    return ViTConfig(img_size=(pixels, pixels), **_vit_fields(arch))


def native_data_config(name: str) -> DataConfig:
    """Return what images must look like for the weights `name`, `arch.tag` or `arch` (its first).

    Raises:
        ModelError: If the name is none of `native_names()`, or the tag none of its tags.
    """
    arch, _, tag = name.partition(".")
    tags = _tags().get(arch)
    if tags is None:
        raise ModelError(
            "the name of a network that this package builds itself",
            found=repr(name),
            hint=_instead(arch),
        )
    if tag and tag not in tags:
        raise ModelError(
            f"weights of {arch}: {', '.join(f'{arch}.{known}' for known in tags)}",
            found=repr(tag),
            hint=f"--model {arch}.{_closest(tag, tags) or next(iter(tags))}",
        )
    return tags[tag] if tag else next(iter(tags.values()))


def build_native(
    name: str,
    *,
    num_classes: int,
    img_size: int | tuple[int, int] | None = None,
    drop_path: float = 0.0,
    model_args: Mapping[str, str] | None = None,
) -> ViT | Swin:
    """Build a network of this package with random weights.

    Args:
        name: A published name, `arch` or `arch.tag`, or `vit` or `swin`.
        num_classes: Classes of the head; 0 builds none.
        img_size: Height and width of the images, pixels; None: as published, or as model_args say.
        drop_path: Drop rate of the last block's branches in training, in [0, 1).
        model_args: Fields to change, each as text, e.g. {"patch_size": "6", "depth": "8"}.

    Raises:
        ModelError: If the name is unknown here.
        ConfigError: If an argument is unknown, is no such value, or they do not fit together.
    """
    config = native_config(name)
    changes: dict[str, Any] = {"num_classes": num_classes, "drop_path": drop_path}
    if img_size is not None:
        changes["img_size"] = (img_size, img_size) if isinstance(img_size, int) else img_size
    config = replace(config, **changes)
    if isinstance(config, ViTConfig):
        return ViT(parse_arguments(config, model_args or {}))
    return Swin(parse_arguments(config, model_args or {}))


@cache
def _tags() -> dict[str, dict[str, DataConfig]]:
    """Return the tags of every architecture, the default first."""
    architectures = re.findall(r"^(\w+): ((?:.|\n(?= ))*)", table.TAGS, re.MULTILINE)
    return {
        arch: {(c := _data_config(arch, word)).tag: c for word in words.split()}
        for arch, words in architectures
    }


def _data_config(arch: str, word: str) -> DataConfig:
    """Read one tag of the table."""
    word, _, pixels = word.partition("@")
    tag, normalisation, crop, *rest = word.split("/")
    published, tag = not tag.startswith("-"), tag.removeprefix("-")
    mean, std = table.NORMALISATIONS[normalisation]
    return DataConfig(
        tag=tag,
        img_size=int(pixels or re.findall(r"\d{3}", arch)[-1]),
        mean=mean,
        std=std,
        interpolation="bilinear" if "bilinear" in rest else "bicubic",
        crop_pct=float(crop),
        crop_mode="squash" if "squash" in rest else "center",
        num_classes=next((int(part) for part in rest if part.isdecimal()), 1000),
        # CLIP's weights are stored once for both of its activations.
        hub_id=f"timm/{arch.replace('quickgelu_', '')}.{tag}" if published else None,
    )


def _vit_fields(arch: str) -> dict[str, Any]:
    """Return the fields of ViTConfig that a name stands for."""
    match = _PATTERN.fullmatch(arch)
    assert match is not None, arch
    size, kind = match["size"], match["kind"]
    width, depth, heads = table.SIZES[size]
    kind = "miil" if match["miil"] else "distilled" if match["distilled"] else kind
    kind = "deit3" if match["family"] == "deit3" else kind
    return {
        "patch_size": int(match["patch"]),
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": table.MLP_RATIOS.get(size, 4.0),
        **table.KINDS[kind],
        **table.EXCEPTIONS.get(arch, {}),
    }


def _closest(word: str, words: Mapping[str, Any]) -> str | None:
    """Return the word most like `word`, or None if none is."""
    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=0.75)), None)


def _instead(arch: str) -> str:
    """Return what to type instead of a name that is not known here."""
    close = next(iter(suggest_names(arch, _tags(), limit=1)), None)
    return "--impl timm" + (f", or did you mean {close}?" if close else "")


def suggest_names(word: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Names that a word may stand for: those that begin with it, those of its parts, similar ones.

    Args:
        word: What was typed.
        known: All names.
        limit: How many to return at most, the default network first, then shorter ones.

    >>> suggest_names("Swin-T", ["swin_s3_tiny_224", "swin_tiny_patch4_window7_224"], limit=1)
    ['swin_tiny_patch4_window7_224']
    """
    plain = re.sub(r"[^a-z0-9]+", "_", word.lower()).strip("_")
    names = sorted(known, key=lambda name: (name != DEFAULT, len(name), name))
    found = [name for name in names if plain and name.startswith(plain)]
    if not found and plain:
        parts = [_SIZES.get(part, part) for part in plain.split("_")]
        begun = [name for name in names if name.startswith(parts[0])]
        found = [name for name in begun if all(part in name for part in parts[1:])]
        together = "_".join(parts)
        found.sort(key=lambda name: not name.startswith(together))
    return (found or difflib.get_close_matches(plain, names, n=limit, cutoff=0.75))[:limit]
