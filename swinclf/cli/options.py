"""Options generated from the table of settings, with its defaults and help texts."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from dataclasses import Field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from swinclf.config import SETTING_TYPES, SETTINGS, Impl, OptionGroup
from swinclf.device import Precision
from swinclf.errors import ExitCode
from swinclf.settings import shipped_configs

output_option = partial(typer.Option, rich_help_panel=OptionGroup.OUTPUT)
machine_option = partial(typer.Option, rich_help_panel=OptionGroup.MACHINE)

RunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="A run folder, a weights file in one, or an exported file.",
        show_default="the newest finished run",
    ),
]
ImplOption = Annotated[
    Impl | None,
    machine_option("--impl", help="Implementation of the network.", show_default="as in the run"),
]
DeviceOption = Annotated[
    str, machine_option("--device", metavar="NAME", help="auto, cpu, cuda, cuda:N or mps.")
]
PrecisionOption = Annotated[
    Precision | None,
    machine_option("--precision", help="Number format.", show_default="as in the run"),
]
RejectOption = Annotated[
    float | None,
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
    int | None,
    machine_option(
        "--workers", min=0, max=256, help="Reader threads.", show_default="one per core"
    ),
]

StrictOption = Annotated[
    bool, typer.Option("--strict/--no-strict", help="Exit code 1 if any file cannot be read.")
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

    own = dict(inspect.signature(command, eval_str=True).parameters)
    del own["flags"]
    parameters = [*map(_parameter, SETTINGS.values()), *own.values()]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapped.__annotations__ = {one.name: one.annotation for one in parameters}
    return wrapped


def _parameter(setting: Field[Any]) -> inspect.Parameter:
    """Return a setting as a parameter for typer: an argument for the folder, else an option."""
    type_hint, about = SETTING_TYPES[setting.name], setting.metadata
    kind: Any = next(one for one in get_args(type_hint) or (type_hint,) if one is not type(None))
    if get_origin(type_hint) is tuple:
        kind = list[str]
    flag = f"--{setting.name.replace('_', '-')}"
    is_number = kind in (int, float)
    declared: Any
    if setting.name == "data":
        declared = typer.Argument(
            metavar="DATA", help=about["text"], rich_help_panel=about["group"]
        )
    else:
        declared = typer.Option(
            f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
            help=about["text"],
            show_default=about["auto"] if setting.default is None else _shown(setting.default),
            min=about["low"] if is_number else None,
            max=about["high"] if is_number else None,
            metavar=about["metavar"],
            rich_help_panel=about["group"],
            autocompletion=complete_model if setting.name == "model" else None,
        )
    return inspect.Parameter(
        setting.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "on" if default else "off"
    return "none" if default == () else str(default)


def complete_model(incomplete: str) -> list[str]:
    """Return the names of networks that begin so, for the shell."""
    file = resources.files("swinclf") / "models" / "registry.json"
    # Not `models.names`, which imports torch: a shell that completes must not wait for it.
    names = ["embedded", "swin", "vit", *json.loads(file.read_text(encoding="utf-8"))]
    return [name for name in names if name.startswith(incomplete)]


def complete_config(incomplete: str) -> list[str]:
    """Return the package's settings files that begin so; without any the shell completes files."""
    return [name for name in shipped_configs() if name.startswith(incomplete)]
