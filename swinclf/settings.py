"""Settings with where each came from: gathered from defaults, a file and flags, then chosen."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from swinclf.config import PATHS, SETTING_TYPES, SETTINGS, ResolvedConfig, TrainConfig
from swinclf.device import command_line
from swinclf.errors import ConfigError
from swinclf.files import expand_home
from swinclf.setting_rules import contradictions, read_settings_file
from swinclf.setting_values import OutOfRange, check_value

_Value = TypeVar("_Value")


class Source(StrEnum):
    """Where a setting came from."""

    DEFAULT = "default"
    AUTO = "auto"
    FILE = "file"
    FLAG = "flag"


@dataclass(frozen=True)
class Settings:
    """A configuration with, for each setting, where it came from and why it is what it is.

    Attributes:
        config: The values.
        sources: Where each came from.
        reasons: Why a value was chosen, for those that were.
    """

    config: TrainConfig
    sources: Mapping[str, Source]
    reasons: Mapping[str, str]

    def choose(self, name: str, value: object, reason: str) -> Settings:
        """The same with one open setting filled in; a settled one is left exactly as it is."""
        if self.sources[name] is not Source.DEFAULT:
            return self
        return self.replaced(name, value, reason)

    def choose_value(self, name: str, value: _Value, reason: str) -> tuple[Settings, _Value]:
        """The same as `choose`, with the value that the setting then has, given or chosen."""
        settings = self.choose(name, value, reason)
        settled: _Value = getattr(settings.config, name)
        return settings, settled

    def resolved(self) -> ResolvedConfig:
        """Return the values as a configuration in which nothing is open.

        Raises:
            TypeError: If something is.
        """
        return ResolvedConfig(**self._values())

    def replaced(self, name: str, value: object, reason: str) -> Settings:
        """The same with another value, which the user did not ask for."""
        changes: dict[str, Any] = {name: value}
        return Settings(
            replace(self.config, **changes),
            {**self.sources, name: Source.AUTO},
            {**self.reasons, name: reason},
        )

    def is_given(self, name: str) -> bool:
        """Whether the user said it, by flag or file."""
        return self.sources[name] in (Source.FLAG, Source.FILE)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds: every value by name, then `sources` and `reasons`."""
        return {**self._values(), "sources": dict(self.sources), "reasons": dict(self.reasons)}

    def _values(self) -> dict[str, Any]:
        return {name: getattr(self.config, name) for name in SETTINGS}


def gather_settings(flags: Mapping[str, object], file: Path | None = None) -> Settings:
    """Settings from defaults, overridden by a file, overridden by flags.

    Args:
        flags: Values by name; those that are None were not given.
        file: A .json or .toml file of settings; a run's config.json is one.

    Raises:
        ConfigError: Naming everything that is wrong at once.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    from_file = read_settings_file(file) if file else {}
    problems: list[str | OutOfRange] = [*_unknown_names([*given, *from_file])]
    values: dict[str, Any] = {}
    for name, value in {**from_file, **given}.items():
        if name in SETTINGS:
            try:
                values[name] = checked = _checked(name, value)
                if name in PATHS and isinstance(checked, str):
                    values[name] = expand_home(checked)
            except OutOfRange as error:
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
        raise _refusal(problems)
    sources = {
        name: Source.FLAG if name in given else Source.FILE if name in from_file else Source.DEFAULT
        for name in SETTINGS
    }
    return Settings(TrainConfig(**values), sources, {})


def _refusal(problems: Sequence[str | OutOfRange]) -> ConfigError:
    """The error for everything that is wrong with settings."""
    only = problems[0]
    if len(problems) == 1 and isinstance(only, OutOfRange):
        return ConfigError(
            f"{only.wanted} for {only.name}", found=repr(only.value), hint="swinclf train --help"
        )
    found = "; ".join(map(str, problems))
    return ConfigError("settings to train with", found=found, hint="swinclf train --help")


def command_of(settings: Settings) -> str:
    """The command that asks for the same again: what was given, and nothing that was chosen."""
    words = ["swinclf", "train", settings.config.data]
    for name in SETTINGS:
        if name == "data" or not settings.is_given(name):
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
    """KEY=VALUE words by key."""
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
