"""Sharded weights: the files that belong together, by their index or by their names."""

from __future__ import annotations

import json
import re
from pathlib import Path

from swinclf.errors import WeightsError

_SHARD = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<suffix>\.[^.]+)")


def read_shard_index(path: Path) -> list[Path]:
    """Return the files listed in an index (`model.safetensors.index.json`)."""
    names = sorted(set(map(str, json.loads(path.read_bytes())["weight_map"].values())))
    if any(Path(name).name != name for name in names):
        raise WeightsError(
            f"the shards that '{path.name}' names in its own folder",
            found="a path that leads elsewhere",
            hint="an index as transformers writes it",
        )
    return _all_there([path.with_name(name) for name in names], path.name)


def find_sibling_shards(path: Path) -> list[Path]:
    """Return all shards of a file such as `model-00001-of-00003.safetensors`, else it alone."""
    match = _SHARD.fullmatch(path.name)
    if not match:
        return [path]
    count = int(match["count"])
    names = (
        f"{match['stem']}-{number:05d}-of-{count:05d}{match['suffix']}"
        for number in range(1, count + 1)
    )
    return _all_there([path.with_name(name) for name in names], path.name)


def _all_there(shards: list[Path], name: str) -> list[Path]:
    """Return the shards after checking that they exist."""
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        raise WeightsError(
            f"the {len(shards)} shards that '{name}' belongs to, in one folder",
            found=f"no {missing[0]}" if missing else "none",
            hint="the missing files, copied next to the others",
        )
    return shards
