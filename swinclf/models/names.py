"""Names of networks: the list of backbones, and the package's own networks, without timm.

The names are defined in registry.json, which `tests/make_registry.py` writes.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from swinclf.config import Impl
from swinclf.errors import ModelError
from swinclf.models.arguments import parse_arguments
from swinclf.models.embedded import ARCHITECTURE, EMBEDDED, PARAMETERS, PREPROCESS
from swinclf.models.swin import Swin, SwinConfig
from swinclf.models.vit import ViT, ViTConfig
from swinclf.preprocess import Colours

REGISTRY_FILE = Path(__file__).with_name("registry.json")
DEFAULT = "swin_tiny_patch4_window7_224"
OWN_SHAPES = ("vit", "swin")  # own networks of any shape, given by --model-arg
MIN_LIKENESS = 0.75  # of a misspelt name, in [0, 1]
_RECOMMENDED = {  # billions of multiply-adds of an image, as `inspect` counts them, and the reason
    EMBEDDED: (0.4, "in the package, offline"),
    DEFAULT: (4.5, "the default"),
    "vit_small_patch16_224": (4.6, "a ViT of this size"),
    "swin_base_patch4_window7_224": (15.4, "more accurate, slower"),
}
_SIZES = {"t": "tiny", "s": "small", "b": "base", "l": "large", "h": "huge", "g": "giant"}


@dataclass(frozen=True)
class Architecture:
    """A network's name and shape, without its weights."""

    name: str  # ARCH or ARCH.TAG, `vit` or `swin` for custom shapes, or `embedded`
    impl: Impl  # backend that builds it
    num_classes: int  # logits, K; 0 builds no head
    img_size: int | None = None  # side of the input, px; None for the network's own
    drop_path: float = 0.0  # drop rate of the deepest block in training, in [0, 1)
    # changes to the shape of the name, or other arguments of timm's constructor, as text
    model_args: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """Preprocessing and origin of published weights."""

    tag: str  # name of the weights, the part after the dot
    img_size: int  # height and width of the images, pixels
    mean: Colours  # subtracted from each colour, values in [0, 1]
    std: Colours  # divisor of each colour after that
    interpolation: str  # filter of the resize: bicubic or bilinear
    crop_pct: float  # fraction of the resized image that the crop keeps, in (0, 1]
    crop_mode: str  # center, or squash: resized to a square regardless of the aspect ratio
    num_classes: int  # classes of the published head; 0: it has none
    hub_id: str | None  # repository of the weights on the Hugging Face Hub, if there is one
    is_published: bool  # whether there are such weights at all


@dataclass(frozen=True)
class RegistryEntry:
    """An architecture in the registry."""

    parameters: int  # of the network without its head
    network: str | None  # network of this package that builds it, vit or swin; None: only timm does
    fields: Mapping[str, Any]  # fields of its configuration here that differ from the defaults
    weights: Mapping[str, DataConfig]  # data config by tag, the default first


@cache
def registry() -> dict[str, RegistryEntry]:
    """Return every named architecture, in alphabetical order."""
    return {
        arch: RegistryEntry(
            parameters=entry["parameters"],
            network=entry.get("network"),
            fields={key: _tuple(value) for key, value in entry.get("fields", {}).items()},
            weights={
                tag: DataConfig(tag=tag, **{key: _tuple(value) for key, value in config.items()})
                for tag, config in entry["weights"].items()
            },
        )
        for arch, entry in json.loads(REGISTRY_FILE.read_text(encoding="utf-8")).items()
    }


def _tuple(value: Any) -> Any:
    """Convert a JSON list back to a tuple; return anything else unchanged."""
    return tuple(value) if isinstance(value, list) else value


def native_names() -> list[str]:
    """Return the architectures that can be built here, in alphabetical order."""
    return [arch for arch, entry in registry().items() if entry.network]


def is_native(name: str) -> bool:
    """Return whether a published name, `arch` or `arch.tag`, is one of `native_names()`."""
    entry = registry().get(name.partition(".")[0])
    return entry is not None and entry.network is not None


def default_impl(name: str) -> Impl:
    """Return the backend of a network: native where this package knows the name."""
    return Impl.NATIVE if name in OWN_SHAPES or is_native(name) else Impl.TIMM


def native_config(name: str) -> ViTConfig | SwinConfig:
    """Return the configuration of a published name, `arch` or `arch.tag`.

    `vit` or `swin` have the defaults of `--model-arg`.

    Raises:
        ModelError: If the name is none of `native_names()`, or the tag none of its tags.
    """
    if name in OWN_SHAPES:
        return ViTConfig() if name == "vit" else SwinConfig()
    pixels = native_data_config(name).img_size
    entry = registry()[name.partition(".")[0]]
    config = SwinConfig if entry.network == "swin" else ViTConfig
    return config(img_size=(pixels, pixels), **entry.fields)


def native_data_config(name: str) -> DataConfig:
    """Return the data config of the weights `name`, `arch.tag` or `arch` (its first).

    Raises:
        ModelError: If the name is none of `native_names()`, or the tag none of its tags.
    """
    arch, _, tag = name.partition(".")
    if not is_native(arch):
        raise ModelError(
            "the name of a network that this package builds itself",
            found=repr(name),
            hint=_instead(arch),
        )
    tags = registry()[arch].weights
    if tag and tag not in tags:
        near = difflib.get_close_matches(tag, tags, n=1, cutoff=0.75)
        raise ModelError(
            f"weights of {arch}: {', '.join(f'{arch}.{known}' for known in tags)}",
            found=repr(tag),
            hint=f"--model {arch}.{(near or list(tags))[0]}",
        )
    return tags[tag] if tag else next(iter(tags.values()))


def native_shape(architecture: Architecture) -> ViTConfig | SwinConfig:
    """Return the whole configuration of a network of this package.

    Raises:
        ModelError: If the name is unknown here.
        ConfigError: If an argument is unknown, is no such value, or they do not fit together.
    """
    size = architecture.img_size
    changes: dict[str, Any] = {} if size is None else {"img_size": (size, size)}
    changes |= {"num_classes": architecture.num_classes, "drop_path": architecture.drop_path}
    config = replace(native_config(architecture.name), **changes)
    return parse_arguments(config, architecture.model_args)


def build_native(architecture: Architecture) -> ViT | Swin:
    """Build a network of this package with random weights; errors as of `native_shape`."""
    config = native_shape(architecture)
    return ViT(config) if isinstance(config, ViTConfig) else Swin(config)


def _instead(arch: str) -> str:
    """Return a hint for a name that is not known here."""
    near = suggest_names(arch, native_names(), limit=1)
    if arch not in registry() and near:
        return f"did you mean {name_alternatives(near)}? All names: swinclf models --impl native"
    return "--impl timm" + (f", or did you mean {near[0]}?" if near else "")


def name_alternatives(names: Sequence[str]) -> str:
    """Return names as alternatives, with the default marked.

    >>> name_alternatives(["swin_tiny_patch4_window7_224", "swin_s3_tiny_224"])
    'swin_tiny_patch4_window7_224 (the default) or swin_s3_tiny_224'
    """
    return " or ".join(f"{name} (the default)" if name == DEFAULT else name for name in names)


def suggest_names(word: str, known: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the names that a word may mean: by prefix, by its parts, or by similarity.

    The default network comes first, then shorter names.

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
    return (found or _similar_names(plain, names))[:limit]


def _similar_names(word: str, names: Sequence[str]) -> list[str]:
    """Return the names that resemble a word, or begin with something that does."""

    def likeness(name: str) -> float:
        words = (name, name[: len(word)])
        return max(difflib.SequenceMatcher(None, word, one).ratio() for one in words)

    scores = {name: likeness(name) for name in names}
    close = [name for name in names if word and scores[name] >= MIN_LIKENESS]
    return sorted(close, key=lambda name: -scores[name])


@dataclass(frozen=True)
class Backbone:
    """A line of `swinclf models`."""

    name: str  # ARCH, or ARCH.TAG for each set of published weights
    parameters: int  # of the network without a head
    image_px: int  # default side of the input


def list_backbones(pattern: str = "", *, impl: Impl = Impl.TIMM) -> list[Backbone]:
    """Return the available backbones: the embedded one first, then sorted by name.

    `pattern` is a part of the name, or has *, ? or ranges such as [0-9]; empty for every Swin and
    ViT, and the embedded network, which is also found by its timm name. timm, which is not
    imported, has all that have published weights; this package those of them that its own networks
    express, and some without.
    """
    # dashes for underscores, but for those of a range such as [0-9]
    pattern = re.sub(r"-(?![^\[]*\])", "_", pattern)
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    backbones = []
    for arch, entry in registry().items():
        if impl is Impl.NATIVE and not entry.network:
            continue
        published = [tag for tag, config in entry.weights.items() if config.is_published]
        names = {f"{arch}.{tag}": entry.weights[tag] for tag in published}
        if impl is Impl.NATIVE and not published:
            names = {arch: next(iter(entry.weights.values()))}
        for name, config in names.items():
            if fnmatch(name, wanted):
                backbones.append(Backbone(name, entry.parameters, config.img_size))
    backbones.sort(key=lambda one: one.name)
    if impl is Impl.TIMM and any(fnmatch(one, wanted) for one in (EMBEDDED, ARCHITECTURE)):
        backbones.insert(0, Backbone(EMBEDDED, PARAMETERS, PREPROCESS.width))
    return backbones


def recommended_backbones() -> dict[Backbone, tuple[float, str]]:
    """Return the backbones to begin with: the 10^9 multiply-adds of an image, and the reason."""
    sizes, found = registry(), {}
    for name, about in _RECOMMENDED.items():
        backbone = Backbone(EMBEDDED, PARAMETERS, PREPROCESS.width)
        if name != EMBEDDED:
            pixels = next(iter(sizes[name].weights.values())).img_size
            backbone = Backbone(name, sizes[name].parameters, pixels)
        found[backbone] = about
    return found
