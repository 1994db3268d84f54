"""Settings with their sources: defaults, a file, flags, or chosen by the data.

Every value is checked against its type and bounds, and all against each other.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

from swinclf.config import PATHS, SETTING_TYPES, SETTINGS, ResolvedConfig, TrainConfig
from swinclf.durations import parse_duration
from swinclf.errors import ConfigError
from swinclf.files import decode_text
from swinclf.path_patterns import expand_home
from swinclf.preprocess import MEASURED, format_colours, parse_colours
from swinclf.shell_quoting import command_line

AUTO = "auto"
OF_MACHINE = ("device", "precision", "compile")  # chosen by the machine where they are `AUTO`
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
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
# in a list such as the mean of each channel, not within a name or a path
_LONG_NUMBER = re.compile(r"(?<![^,\s])\d\.\d{5,}(?![^,\s])")
_Value = TypeVar("_Value")


class Source(StrEnum):
    """Source of a setting."""

    DEFAULT = "default"
    AUTO = "auto"
    FILE = "file"
    FLAG = "flag"


class _SettingValueError(ValueError):
    """An invalid value of a setting, with the allowed values."""

    def __init__(self, name: str, allowed: str, value: object) -> None:
        super().__init__(f"{name} is {allowed}, not {value!r}")
        self.name, self.allowed, self.value = name, allowed, value


@dataclass(frozen=True)
class Settings:
    """A configuration with the source of each setting and the reasons of chosen ones."""

    config: TrainConfig
    sources: Mapping[str, Source]
    reasons: Mapping[str, str]  # of each chosen value

    def choose(self, name: str, value: object, reason: str) -> Settings:
        """Return a copy with a default for one setting; no change if it was given or chosen."""
        if self.sources[name] is not Source.DEFAULT:
            return self
        return self.replaced(name, value, reason)

    def choose_value(self, name: str, value: _Value, reason: str) -> tuple[Settings, _Value]:
        """Return the same as `choose`, and the resulting value of the setting."""
        settings = self.choose(name, value, reason)
        chosen: _Value = getattr(settings.config, name)
        return settings, chosen

    def resolved(self) -> ResolvedConfig:
        """Return the values as a configuration without open settings.

        Raises:
            TypeError: If one is open.
        """
        return ResolvedConfig(**self._values())

    def replaced(self, name: str, value: object, reason: str) -> Settings:
        """Return a copy with a value that the user did not give."""
        changes: dict[str, Any] = {name: value}
        return Settings(
            replace(self.config, **changes),
            {**self.sources, name: Source.AUTO},
            {**self.reasons, name: reason},
        )

    def is_given(self, name: str) -> bool:
        """Return whether the user gave it, by flag or file."""
        return self.sources[name] in (Source.FLAG, Source.FILE)

    def to_dict(self) -> dict[str, Any]:
        """Return the content of config.json: every value by name, then `sources` and `reasons`."""
        return {**self._values(), "sources": dict(self.sources), "reasons": dict(self.reasons)}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in SETTINGS}


def gather_settings(flags: Mapping[str, object], file: Path | None = None) -> Settings:
    """Return settings from defaults, overridden by a file, overridden by flags.

    `flags` are values by name, None for not given. `file` is .json or .toml; a run's config.json is
    one.

    Raises:
        ConfigError: If any are invalid; lists all problems.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    from_file = read_settings_file(file) if file else {}
    problems: list[str | _SettingValueError] = []
    values: dict[str, Any] = {}
    for name, value in {**from_file, **given}.items():
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            problems.append(
                f"no setting '{name}'" + (f" (did you mean '{near[0]}'?)" if near else "")
            )
            continue
        try:
            values[name] = checked = _check_value(name, value)
            if name in PATHS and isinstance(checked, str):
                values[name] = expand_home(checked)
        except _SettingValueError as error:
            problems.append(error)
    if values.get("weights") == "":  # as in the old scripts: random weights
        del values["weights"]
        values.setdefault("pretrained", False)
        from_file.pop("weights", None)
        given.pop("weights", None)
        if "pretrained" not in from_file:
            given.setdefault("pretrained", False)
    problems += _contradictions(values)
    if problems:
        raise _settings_error(problems)
    for name in [name for name in OF_MACHINE if values.get(name) == AUTO]:  # as if not given
        del values[name]
        from_file.pop(name, None)
        given.pop(name, None)
    sources = {
        name: Source.FLAG if name in given else Source.FILE if name in from_file else Source.DEFAULT
        for name in SETTINGS
    }
    return Settings(TrainConfig(**values), sources, {})


def _settings_error(problems: Sequence[str | _SettingValueError]) -> ConfigError:
    """Return the error for all problems of settings."""
    only = problems[0]
    if len(problems) == 1 and isinstance(only, _SettingValueError):
        return ConfigError(
            f"{only.allowed} for --{only.name.replace('_', '-')}",
            found=repr(only.value),
            hint="swinclf train --help",
        )
    found = "; ".join(map(str, problems))
    return ConfigError("valid settings", found=found, hint="swinclf train --help")


def read_budget(text: str) -> float:
    """Return the seconds of a time budget.

    Raises:
        ConfigError: If the text is no duration.
    """
    try:
        return parse_duration(text)
    except ValueError:
        raise ConfigError(
            "a time such as 90s, 10m or 1h for --budget",
            found=repr(text),
            hint="swinclf train DATA --budget 10m",
        ) from None


def command_of(settings: Settings) -> str:
    """Return the command with the given settings, but the name, and those that fit a budget."""
    words = ["swinclf", "train", settings.config.data]
    for name in SETTINGS:
        is_fixed = settings.is_given(name) or is_by_budget(settings.reasons.get(name))
        if name in ("data", "name") or not is_fixed:
            continue
        value, flag = getattr(settings.config, name), name.replace("_", "-")
        if isinstance(value, tuple):
            words += [word for one in value for word in (f"--{flag}", one)]
        elif isinstance(value, bool):
            words.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            words += [f"--{flag}", str(value)]
    return command_line(words)


def key_values(words: Iterable[str]) -> dict[str, str]:
    """Parse KEY=VALUE words."""
    pairs = (word.partition("=") for word in words)
    return {key.strip().replace("-", "_"): value.strip() for key, _, value in pairs}


def setting_text(value: object) -> str:
    """Return the value of a setting in words, with short numbers."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(setting_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:g}"
    if value is None:
        return "not set"
    return _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.4g}", str(value))


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
    if not (isinstance(sources, dict) and isinstance(reasons, dict)):
        raise ConfigError(
            f"sources and reasons in '{path}' as a training writes them",
            found=f"a {type(sources).__name__} and a {type(reasons).__name__}",
            hint="remove them from it",
        )
    if sources:  # of a run, whose name is taken
        values.pop("name", None)
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


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Return the contradictions between given settings, a sentence each."""
    problems = []
    if values.get("freeze_layers") is not None and values.get("freeze_stages") is not None:
        problems.append("--freeze-layers and --freeze-stages cannot be combined")
    name = values.get("name")
    if name is not None and (
        name in ("", ".", "..", "latest") or "/" in name or "\\" in name or "\0" in name
    ):
        problems.append(f"--name is the name of one folder, not {name!r}")
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


def _check_value(name: str, value: object) -> object:
    """Return a value converted to its setting's type, within its bounds."""
    type_hint, about = SETTING_TYPES[name], SETTINGS[name].metadata
    if about["colours"]:
        return _colours(name, value, *about["colours"])
    if get_origin(type_hint) is tuple:
        return _words(name, value)
    kind = next(kind for kind in get_args(type_hint) or (type_hint,) if kind is not type(None))
    if issubclass(kind, StrEnum):
        if str(value) not in [str(member) for member in kind]:
            raise _SettingValueError(name, f"one of {', '.join(kind)}", value)
        return kind(str(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise _SettingValueError(name, "a number within float range", "a larger one") from None
    if kind is str and isinstance(value, Path):
        value = str(value)
    if type(value) is not kind:
        raise _SettingValueError(name, _KINDS[kind], value)
    _check_bounds(name, value, about)
    return value


def _check_bounds(name: str, value: Any, about: Mapping[str, Any]) -> None:
    low, high, above = about["low"], about["high"], about["above"]
    bounds = ""
    # Written so that NaN, which compares as false, is rejected as well.
    if above is not None and not above < value < math.inf:
        bounds = f"more than {above:g}, and finite"
    elif (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = f"at least {low:g}" if high is None else f"from {low:g} to {high:g}"
    elif value == math.inf:
        bounds = "a finite number"
    if bounds:
        raise _SettingValueError(name, bounds, value)


def _colours(name: str, value: object, low: float, high: float) -> str:
    """Return three numbers as text, from a text, a list, or one number for all; or `data`."""
    if value == MEASURED:
        return MEASURED
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    try:
        colours = parse_colours(text)
    except ValueError:
        example = "data, or three numbers separated by commas, such as 0.485,0.456,0.406"
        raise _SettingValueError(name, example, value) from None
    if not all(low <= colour <= high for colour in colours):
        scale = " (for pixel values from 0 to 1, not to 255)" if max(colours) > high else ""
        raise _SettingValueError(name, f"three numbers from {low:g} to {high:g}{scale}", value)
    return format_colours(colours)


def _words(name: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
        raise _SettingValueError(name, "a list of words", value)
    without = [word for word in value if "=" not in word]
    if without:
        raise _SettingValueError(name, "KEY=VALUE", without[0])
    return tuple(value)
