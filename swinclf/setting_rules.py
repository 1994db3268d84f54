"""Settings files, and settings that contradict each other."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from swinclf.errors import ConfigError
from swinclf.files import decode_text

_CONFIGS = Path(__file__).with_name("configs")
_NOT_GIVEN = ("default", "auto")  # sources of values that the user did not give
BUDGET_REASON = "to fit --budget"  # of a value that depends on the speed of the machine
# The other keys of a run's config.json.
_NO_SETTINGS = (
    *("versions", "command", "facts", "weights_loaded", "data_from_run"),
    "teacher_digest",
)
_TEACHER_SETTINGS = (
    *("unlabelled", "teacher_temperature", "teacher_weight", "teacher_features"),
    "teacher_views",
)


def shipped_configs() -> dict[str, Path]:
    """Return the settings files of the package by their names."""
    return {path.stem: path for path in sorted(_CONFIGS.glob("*.toml"))}


def read_settings_file(path: Path) -> dict[str, Any]:
    """Read the settings in a .json or .toml file; from a run's config.json only the given ones.

    Those that `--budget` chose count as given: another time, the machine may be slower.

    The path may be the name of one of the package's.

    Raises:
        ConfigError: If it cannot be read or has no settings.
    """
    if not path.exists():
        path = shipped_configs().get(str(path), path)
    try:
        text = decode_text(path.read_bytes())
        is_toml = path.suffix.lower() == ".toml"
        values = tomllib.loads(text) if is_toml else json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"a JSON or TOML file of settings at '{path}'",
            found=str(getattr(error, "strerror", None) or error),
            hint='a file such as {"epochs": 20, "lr": 0.001}, or one of the package: '
            + ", ".join(f"--config {name}" for name in shipped_configs()),
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"settings by name in '{path}'",
            found=f"a {type(values).__name__}",
            hint='a file such as {"epochs": 20, "lr": 0.001}',
        )
    sources, reasons = values.pop("sources", {}), values.pop("reasons", {})
    for extra in _NO_SETTINGS:
        values.pop(extra, None)
    return {
        name.replace("-", "_"): value
        for name, value in values.items()
        if value is not None
        and (sources.get(name) not in _NOT_GIVEN or is_by_budget(reasons.get(name)))
    }


def is_by_budget(reason: object) -> bool:
    """Return whether the reason of a setting is `--budget`."""
    return str(reason).startswith(BUDGET_REASON)


def contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return the contradictions between given settings, a sentence each."""
    problems = []
    if values.get("freeze_layers") is not None and values.get("freeze_stages") is not None:
        problems.append("--freeze-layers and --freeze-stages cannot be combined")
    name = values.get("name")
    if name is not None and (
        name in ("", ".", "..", "latest") or "/" in name or "\\" in name or "\0" in name
    ):
        problems.append(f"name is the name of one folder, not {name!r}")
    if values.get("folds") == 1:
        problems.append("--folds is 0 or at least 2, not 1")
    if values.get("folds") and values.get("val_split"):
        problems.append("--folds and --val-split cannot be combined")
    if values.get("folds") and values.get("test_split"):
        problems.append("--folds and --test-split cannot be combined: each is the score of the run")
    if values.get("val_split", 0.2) + values.get("test_split", 0) > 0.9:
        problems.append("--val-split and --test-split leave less than a tenth for training")
    if values.get("teacher") is None:
        idle = [name for name in _TEACHER_SETTINGS if values.get(name) is not None]
        problems += [f"--{name.replace('_', '-')} has no effect without --teacher" for name in idle]
    return problems
