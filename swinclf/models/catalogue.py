"""Catalogue of backbones: timm's names with sizes, and suggestions for misspelt names."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import TYPE_CHECKING

from swinclf.config import Impl
from swinclf.errors import ModelError
from swinclf.models.embedded import ARCHITECTURE, EMBEDDED, PARAMETERS, PREPROCESS
from swinclf.models.names import DEFAULT, name_alternatives, registry, suggest_names

if TYPE_CHECKING:
    from torch import nn


_RECOMMENDED = {
    DEFAULT: "the default",
    "vit_small_patch16_224": "a ViT of the same size",
    "swin_base_patch4_window7_224": "larger: more accurate, slower",
}


@dataclass(frozen=True)
class Backbone:
    """A line of `swinclf models`."""

    name: str  # ARCH, or ARCH.TAG for each set of published weights
    parameters: int  # of the network without a head
    image_px: int  # default side of the input


def list_backbones(pattern: str = "", *, impl: Impl = Impl.TIMM) -> list[Backbone]:
    """Return the available backbones: the embedded one first, then sorted by name.

    `pattern` is a part of the name, or has * and ?; empty for every Swin and ViT, and the embedded
    network, which is also found by its timm name. timm, which is not imported, has all that have
    published weights; this package those of them that its own networks express, and some without.
    """
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


def recommended_backbones() -> dict[Backbone, str]:
    """Return the backbones to begin with, and the reason for each."""
    sizes = registry()
    found = {Backbone(EMBEDDED, PARAMETERS, PREPROCESS.width): "in the package; fast on a CPU"}
    for name, reason in _RECOMMENDED.items():
        entry = sizes[name]
        pixels = next(iter(entry.weights.values())).img_size
        found[Backbone(name, entry.parameters, pixels)] = reason
    return found


def meta_network(arch: str, *, num_classes: int) -> nn.Module:
    """Build one of timm's networks on the meta device."""
    import timm
    import torch

    with torch.device("meta"):
        network: nn.Module = timm.create_model(arch, pretrained=False, num_classes=num_classes)
    return network


def check_name(name: str) -> str:
    """Return the name, ARCH or ARCH.TAG, if timm knows it; uses no network connection.

    Raises:
        ModelError: If timm has no such architecture or weights; suggests similar names.
    """
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        known = timm.list_models()
        near = suggest_names(arch, known)
        raise ModelError(
            f"the name of a backbone, such as {known_example()}",
            found=f"'{name}', which timm does not know",
            hint=(f"did you mean {name_alternatives(near)}? " if near else "")
            + "All names: swinclf models",
        )
    if tag and name not in timm.list_pretrained(f"{arch}.*"):
        tags = timm.list_pretrained(f"{arch}.*")
        raise ModelError(
            f"published weights of {arch}: {', '.join(tags) or 'there are none'}",
            found=f"the tag '{tag}'",
            hint=f"--model {(difflib.get_close_matches(name, tags, n=1, cutoff=0) or [arch])[0]}",
        )
    return name


def known_example() -> str:
    """Return an example of a valid name."""
    return "swin_tiny_patch4_window7_224"
