"""Files of settings, and which settings contradict each other."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swinclf.errors import ConfigError
from swinclf.files import decode_text

_NOT_GIVEN = ("default", "auto")  # sources of what nobody asked for
# What a run's config.json holds besides settings.
_FACTS = (
    *("reasons", "versions", "command", "facts", "weights_loaded", "data_from_run"),
    "teacher_digest",
)
_OF_A_TEACHER = (
    *("unlabelled", "teacher_temperature", "teacher_weight", "teacher_features"),
    "teacher_views",
)


def read_settings_file(path: Path) -> dict[str, Any]:
    """The settings in a .json or .toml file; of a run's config.json only those that were given.

    Raises:
        ConfigError: If it cannot be read or holds no settings.
    """
    try:
        text = decode_text(path.read_bytes())
        is_toml = path.suffix.lower() == ".toml"
        values = tomllib.loads(text) if is_toml else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"a JSON or TOML file of settings at '{path}'",
            found=str(getattr(error, "strerror", None) or error),
            hint='a file such as {"epochs": 20, "lr": 0.001}',
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"settings by name in '{path}'",
            found=f"a {type(values).__name__}",
            hint='a file such as {"epochs": 20, "lr": 0.001}',
        )
    sources = values.pop("sources", {})
    for extra in _FACTS:
        values.pop(extra, None)
    return {
        name.replace("-", "_"): value
        for name, value in values.items()
        if value is not None and sources.get(name) not in _NOT_GIVEN
    }


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return what of the given settings cannot be meant together, a sentence each."""
    problems = []
    if values.get("freeze_layers") is not None and values.get("freeze_stages") is not None:
        problems.append(
            "--freeze-layers says head only or everything, --freeze-stages says something between"
        )
    name = values.get("name")
    if name is not None and (
        name in ("", ".", "..", "latest") or "/" in name or "\\" in name or "\0" in name
    ):
        problems.append(f"name is the name of one folder, not {name!r}")
    if values.get("teacher") is None:
        idle = [name for name in _OF_A_TEACHER if values.get(name) is not None]
        problems += [f"--{name.replace('_', '-')} says nothing without --teacher" for name in idle]
    return problems
