"""The backbones that can be named: timm's list, with sizes, and the way from a typo to a name."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from swinclf.config import Impl
from swinclf.errors import ModelError
from swinclf.models.embedded import ARCHITECTURE, EMBEDDED, PREPROCESS
from swinclf.models.names import is_native, native_names, suggest_names

if TYPE_CHECKING:
    from torch import nn

SIZES_FILE = Path(__file__).with_name("sizes.json")  # arch -> parameters, by write_sizes
FAMILIES = ("swin_*", "swinv2_*", "vit_*", "deit_*", "deit3_*", "beit*", "eva02_*")


@dataclass(frozen=True)
class Backbone:
    """A line of `swinclf models`.

    Attributes:
        name: ARCH, or ARCH.TAG for each published set of weights.
        parameters: Of the network without a head.
        image_px: Side of the picture it sees by default.
    """

    name: str
    parameters: int
    image_px: int


def list_backbones(pattern: str = "", *, impl: Impl = Impl.TIMM) -> Iterator[Backbone]:
    """Backbones that can be named: the embedded one first, then in order of name.

    Args:
        pattern: A part of the name, or a pattern with * and ?; empty for every Swin and ViT, and
            the embedded network, which is also found by its timm name.
        impl: Who builds them. timm builds all that have published weights; this package those of
            them that its own networks express, and some more that nobody published weights for.
    """
    import timm

    names = timm.list_models(list(FAMILIES), pretrained=True)
    if impl is Impl.NATIVE:
        published = [name for name in names if is_native(name)]
        unpublished = set(native_names()) - {name.partition(".")[0] for name in published}
        names = sorted([*published, *unpublished])
    wanted = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    if impl is Impl.TIMM and any(fnmatch(one, wanted) for one in (EMBEDDED, ARCHITECTURE)):
        yield Backbone(EMBEDDED, count_parameters(ARCHITECTURE), PREPROCESS.width)
    known = json.loads(SIZES_FILE.read_text(encoding="utf-8"))
    for name in names:
        arch = name.partition(".")[0]
        config = timm.get_pretrained_cfg(name)
        if fnmatch(name, wanted) and config.input_size[0] == 3:
            parameters = known.get(arch) or count_parameters(arch)
            yield Backbone(name, parameters, config.input_size[-1])


def count_parameters(arch: str) -> int:
    """Parameters of a network without a head, from its shapes alone: no weight is made."""
    network = blank_network(arch, num_classes=0)
    return sum(parameter.numel() for parameter in network.parameters())


def blank_network(arch: str, *, num_classes: int) -> nn.Module:
    """Build one of timm's networks whose tensors have shapes and no content."""
    import timm
    import torch

    with torch.device("meta"):
        network: nn.Module = timm.create_model(arch, pretrained=False, num_classes=num_classes)
    return network


def write_sizes() -> None:
    """Writes `SIZES_FILE` anew: building every network takes a minute, reading a file none."""
    import timm

    published = timm.list_models(list(FAMILIES), pretrained=True)
    names = {*native_names(), *(name.partition(".")[0] for name in published)}
    sizes = {arch: count_parameters(arch) for arch in sorted(names)}
    SIZES_FILE.write_text(json.dumps(sizes, indent=0) + "\n", encoding="utf-8")


def check_name(name: str) -> str:
    """The name, if timm knows it. Never asks the network.

    Args:
        name: ARCH or ARCH.TAG.

    Raises:
        ModelError: If timm has no such architecture, or no such weights for it; offers near names.
    """
    import timm

    arch, _, tag = name.partition(".")
    if not timm.is_model(arch):
        known = timm.list_models()
        near = suggest_names(arch, known)
        raise ModelError(
            f"the name of a backbone, such as {known_example()}",
            found=f"'{name}', which timm does not know",
            hint=(f"did you mean {' or '.join(near)}? " if near else "")
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
    """A name that is certainly right."""
    return "swin_tiny_patch4_window7_224"
