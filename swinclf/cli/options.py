"""Options generated from the table of settings, with its defaults and help texts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import Field
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin

import typer

from swinclf.config import SETTING_TYPES, SETTINGS, Impl, OptionGroup
from swinclf.device import Precision
from swinclf.errors import ExitCode
from swinclf.settings import shipped_configs

RunOption = Annotated[
    Optional[Path],  # noqa: UP045 - typer reads it at run time
    typer.Option(
        "--run",
        metavar="RUN",
        help="A run folder, a weights file in one, or an exported file.",
        show_default="the newest finished run",
    ),
]
ImplOption = Annotated[
    Optional[Impl],  # noqa: UP045
    typer.Option(
        "--impl",
        help="Implementation of the network.",
        show_default="as in the run",
        rich_help_panel=OptionGroup.MACHINE,
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="auto, cpu, cuda, cuda:N or mps.",
        rich_help_panel=OptionGroup.MACHINE,
    ),
]
PrecisionOption = Annotated[
    Optional[Precision],  # noqa: UP045
    typer.Option(
        "--precision",
        help="Number format.",
        show_default="as in the run",
        rich_help_panel=OptionGroup.MACHINE,
    ),
]
RejectOption = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option(
        "--reject",
        min=0.01,
        max=0.9999,
        help="Target accuracy of accepted predictions; others are `unknown`. "
        "Without a value: 0.95.",
        show_default="accept all",
    ),
]

WorkersOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--workers",
        min=0,
        max=256,
        help="Reader threads.",
        show_default="one per core",
        rich_help_panel=OptionGroup.MACHINE,
    ),
]

StrictOption = Annotated[
    bool,
    typer.Option("--strict/--no-strict", help="Exit code 1 if any file cannot be read."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def add_setting_options(command: Callable[..., ExitCode]) -> Callable[..., ExitCode]:
    """Add an option for every setting to a command.

    The options replace the command's parameter `flags`. It is called with the settings by name in
    `flags`, None for those that were not given.
    """

    def wrapped(**values: Any) -> ExitCode:
        flags = {name: values.pop(name) for name in SETTINGS}
        return command(flags=flags, **values)

    own = [
        one
        for one in inspect.signature(command, eval_str=True).parameters.values()
        if one.name != "flags"
    ]
    positional = [one for one in own if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    keyword = [one for one in own if one.kind is inspect.Parameter.KEYWORD_ONLY]
    settings = [_parameter(field) for field in SETTINGS.values()]
    parameters = [
        one.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for one in (*positional, *settings, *keyword)
    ]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


def _parameter(setting: Field[Any]) -> inspect.Parameter:
    """Return a setting as a parameter for typer: an argument for the folder, else an option."""
    type_hint = SETTING_TYPES[setting.name]
    is_list = get_origin(type_hint) is tuple
    kind = list[str] if is_list else _plain_type(type_hint)
    about = setting.metadata
    is_argument = setting.name == "data"
    annotation: Any = Annotated[
        Optional[kind],  # noqa: UP045
        typer.Argument(metavar="DATA", help=about["text"], rich_help_panel=about["group"])
        if is_argument
        else _option(setting, kind),
    ]
    return inspect.Parameter(
        setting.name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
    )


def _plain_type(type_hint: Any) -> Any:
    """Return the type of a setting without None."""
    return next(one for one in get_args(type_hint) or (type_hint,) if one is not type(None))


def _option(setting: Field[Any], kind: Any) -> Any:
    flag = setting.name.replace("_", "-")
    about = setting.metadata
    is_number = kind in (int, float)
    return typer.Option(
        f"--{flag}/--no-{flag}" if kind is bool else f"--{flag}",
        help=about["text"],
        show_default=about["auto"] if setting.default is None else _shown(setting.default),
        min=about["low"] if is_number else None,
        max=about["high"] if is_number else None,
        metavar=about["metavar"],
        rich_help_panel=about["group"],
        autocompletion=complete_model if setting.name == "model" else None,
    )


def complete_model(incomplete: str) -> list[str]:
    """Return the names of networks that begin so, for the shell."""
    file = resources.files("swinclf") / "models" / "registry.json"
    # Not `models.names`, which imports torch: a shell that completes must not wait for it.
    names = ["embedded", "swin", "vit", *json.loads(file.read_text(encoding="utf-8"))]
    return [name for name in names if name.startswith(incomplete)]


def complete_config(incomplete: str) -> list[str]:
    """Return the package's settings files that begin so; without any the shell completes files."""
    return [name for name in shipped_configs() if name.startswith(incomplete)]


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default == () else str(default)
