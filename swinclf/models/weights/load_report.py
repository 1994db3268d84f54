"""Report of loading a weights file, as one line and as values for config.json."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from swinclf.models.weights.adapt import AdaptedWeights
from swinclf.models.weights.match import Match, rank_name
from swinclf.models.weights.select import WeightsCheckpoint

_SHOWN = 4  # groups of tensors that are listed


@dataclass(frozen=True)
class WeightsReport:
    """Result of loading a weights file into a network."""

    checkpoint: WeightsCheckpoint  # the selected state dict, with its file
    layout: str | None  # the tool of its layout, None for timm's own
    selected: tuple[str, ...]  # which of several networks in the file: EMA, teacher
    loaded: int  # tensors of the network that are from the file
    tensors: int  # tensors of the network, its classifier included
    head_classes: int | None  # classes of the file's classifier; None without one
    num_classes: int  # classes of the network's classifier
    head_loaded: bool  # whether the network's classifier is from the file; otherwise it is new
    # groups of tensors in the file that the network does not need, with their numbers
    left_out: tuple[str, ...]
    resized: tuple[str, ...]  # resized tables, grouped by size: "12 tables resized 12x12 -> 7x7"
    fresh: int  # tensors in hidden layers of the head that the file lacks
    sha256: str  # of the file, or of all shards concatenated; hexadecimal

    def line(self, name: str) -> str:
        """Return the report in one line, with the file or folder as the user gave it."""
        what = ", ".join(one for one in (self.layout, *self.selected) if one)
        parts = [f"weights {name}: {self.loaded:,} of {self.tensors:,} tensors"]
        parts[0] += f" ({what})" if what else ""
        new = f"new head for {self.num_classes:,}" if self.num_classes else "no new head"
        new += " with new hidden layers" if self.fresh else ""
        if self.head_loaded:
            parts.append(f"head of {self.num_classes:,} classes loaded")
        elif self.head_classes is None:
            parts.append(f"no head in the file, {new}")
        else:
            parts.append(f"head of {self.head_classes:,} classes left out, {new}")
        parts.extend(self.resized)
        if self.left_out:
            more = len(self.left_out) - _SHOWN
            names = ", ".join(self.left_out[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
            parts.append(f"not needed: {names}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the values for config.json."""
        return {
            "file": str(self.checkpoint.source),
            "sha256": self.sha256,
            "layout": self.layout or "timm",
            "selected": list(self.selected),
            "loaded": self.loaded,
            "tensors": self.tensors,
            "head_classes": self.head_classes,
            "left_out": list(self.left_out),
            "resized": list(self.resized),
        }


def make_report(
    checkpoint: WeightsCheckpoint,
    adapted: AdaptedWeights,
    wanted: Mapping[str, Tensor],
    *,
    num_classes: int,
    head_loaded: bool,
) -> WeightsReport:
    """Return the report of a load into a network of `num_classes` with the state dict `wanted`.

    `head_loaded` is whether the network uses the head of the file.
    """
    match = adapted.match
    assert match is not None
    prefix_name = rank_name(match.prefix)
    weights = [value for value in adapted.file_head.values() if value.dim() == 2]
    is_dropped = adapted.head_loaded and not head_loaded  # same classes, but a new head
    head_count = len(adapted.file_head) if is_dropped else 0
    return WeightsReport(
        checkpoint=checkpoint,
        layout=match.layout.name if match.layout else None,
        selected=tuple(dict.fromkeys([*checkpoint.notes, *([prefix_name] if prefix_name else [])])),
        loaded=adapted.loaded - head_count,
        tensors=len(wanted),
        head_classes=weights[-1].shape[0] if weights else None,
        num_classes=num_classes,
        head_loaded=head_loaded,
        left_out=(*_groups(adapted.left_out, match), *_counted(adapted.unused)),
        resized=_resizes(adapted, wanted),
        fresh=len(adapted.fresh),
        sha256=hash_files(checkpoint.files or (checkpoint.source,)),
    )


def hash_files(files: tuple[Path, ...]) -> str:
    """Return the hexadecimal SHA-256 of concatenated files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            hashlib.file_digest(file, lambda: digest)
    return digest.hexdigest()


def _groups(names: tuple[str, ...], match: Match) -> tuple[str, ...]:
    """Group tensors by the start of their names, as deep as the prefix, and count them."""
    depth = {name: max(match.prefix.count("."), 1) for name in match.outside}
    begins = {name: ".".join(name.split(".")[: depth.get(name, 1)]) for name in names}
    counts = Counter(begins.values())
    alone = {begin: name for name, begin in begins.items()}
    return _counted({alone[g] if count == 1 else g: count for g, count in counts.items()})


def _counted(groups: Mapping[str, int]) -> tuple[str, ...]:
    """Format groups of tensors with their numbers."""
    return tuple(
        group if count == 1 else f"{group} ({count} tensors)" for group, count in groups.items()
    )


def _resizes(adapted: AdaptedWeights, wanted: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Return how many tables were resized, by old and new size."""
    steps = Counter(
        f"{_size(name, adapted.old_shapes[name])} -> {_size(name, wanted[name].shape)}"
        for name in adapted.resized
    )
    return tuple(
        f"{count} table{'s' if count > 1 else ''} resized {step}" for step, count in steps.items()
    )


def _size(name: str, shape: tuple[int, ...]) -> str:
    """Format the grid or window of a table as 7x7, or its number of entries if it is not square."""
    if name == "pos_embed":
        side = math.isqrt(shape[1])  # tokens before the patches are few
        return f"{side}x{side}" if shape[1] - side * side < 6 else f"{shape[1]} positions"
    side = math.isqrt(shape[0])
    if shape[0] - side * side > 3:  # BEiT has three entries of its class token
        return f"{shape[0]} offsets"
    return f"{(side + 1) // 2}x{(side + 1) // 2}"
