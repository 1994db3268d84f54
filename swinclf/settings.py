"""Settings with their sources: defaults, a file, flags, or chosen by the data."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from swinclf.config import PATHS, SETTING_TYPES, SETTINGS, ResolvedConfig, TrainConfig
from swinclf.device import command_line
from swinclf.durations import parse_duration
from swinclf.errors import ConfigError
from swinclf.files import expand_home
from swinclf.setting_rules import contradictions, is_by_budget, read_settings_file
from swinclf.setting_values import SettingValueError, check_value

AUTO = "auto"
OF_MACHINE = ("device", "precision", "compile")  # chosen by the machine where they are `AUTO`
_Value = TypeVar("_Value")


class Source(StrEnum):
    """Source of a setting."""

    DEFAULT = "default"
    AUTO = "auto"
    FILE = "file"
    FLAG = "flag"


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
    problems: list[str | SettingValueError] = [*_unknown_names([*given, *from_file])]
    values: dict[str, Any] = {}
    for name, value in {**from_file, **given}.items():
        if name in SETTINGS:
            try:
                values[name] = checked = _checked(name, value)
                if name in PATHS and isinstance(checked, str):
                    values[name] = expand_home(checked)
            except SettingValueError as error:
                problems.append(error)
    if values.get("weights") == "":  # as in the old scripts: random weights
        del values["weights"]
        values.setdefault("pretrained", False)
        from_file.pop("weights", None)
        given.pop("weights", None)
        if "pretrained" not in from_file:
            given.setdefault("pretrained", False)
    problems += contradictions(values)
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


def _settings_error(problems: Sequence[str | SettingValueError]) -> ConfigError:
    """Return the error for all problems of settings."""
    only = problems[0]
    if len(problems) == 1 and isinstance(only, SettingValueError):
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
    """Return the command with the given settings and those that fit a budget."""
    words = ["swinclf", "train", settings.config.data]
    for name in SETTINGS:
        is_fixed = settings.is_given(name) or is_by_budget(settings.reasons.get(name))
        if name == "data" or not is_fixed:
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


def _unknown_names(names: list[str]) -> list[str]:
    problems = []
    for name in names:
        if name not in SETTINGS:
            near = difflib.get_close_matches(name, SETTINGS, n=1)
            problems.append(
                f"no setting '{name}'" + (f" (did you mean '{near[0]}'?)" if near else "")
            )
    return problems


def _checked(name: str, value: object) -> object:
    return check_value(name, value, SETTING_TYPES[name], SETTINGS[name].metadata)
