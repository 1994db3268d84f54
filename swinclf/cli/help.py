"""--help: examples first, options in groups, one form of defaults, colours on a terminal only."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from enum import Enum
from typing import Any

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from swinclf.cli.examples import EXAMPLES
from swinclf.config import OptionGroup

FLAG_COLUMNS = 28  # of the flags; a longer one moves its text to the right
_GROUPS = ("Arguments", "Options", *OptionGroup)


class Command(TyperCommand):
    """A command with the help of this module."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the help."""
        formatter.write(_page(self, ctx, _sections(self, ctx, _width(formatter))))


class Program(TyperGroup):
    """The program with the help of this module."""

    def format_help(self, ctx: typer.Context, formatter: Any) -> None:  # type: ignore[override]
        """Write the help."""
        names = self.list_commands(ctx)
        rows = [(name, self.commands[name].get_short_help_str(60)) for name in names]
        column = max(len(name) for name in names) + 4
        width = _width(formatter)
        sections = _sections(self, ctx, width)
        sections["Commands"] = [line for row in rows for line in _entry(*row, column, width)]
        formatter.write(_page(self, ctx, sections) + f"\n{self.epilog}\n")


def _usage(command: Any, ctx: typer.Context) -> str:
    """Return the usage line; the parser writes a required argument as {INPUT...}..."""
    text = command.get_usage(ctx).removeprefix("Usage:")
    return re.sub(r"\{([^}.]+)(\.\.\.)?\}(\.\.\.)?", r"\1\2", text)


def _width(formatter: Any) -> int:
    """Return the columns of a line; the parser leaves two of the terminal's 80 or fewer empty."""
    return int(formatter.width) + 2


def _page(command: Any, ctx: typer.Context, sections: dict[str, list[str]]) -> str:
    """Return usage, description and examples, then the sections under their headings."""
    lines = [
        _bold("Usage:") + _usage(command, ctx),
        "",
        f"  {command.help}",
    ]
    examples = EXAMPLES[command.name]
    start = max(len(example) for example, _ in examples) + 4
    shown = [f"  {example}".ljust(start) + f"  # {comment}" for example, comment in examples]
    for heading, entries in {"Examples": shown, **sections}.items():
        lines += ["", _bold(f"{heading}:"), *map(_coloured, entries)]
    return "\n".join(lines) + "\n"


def _sections(command: Any, ctx: typer.Context, width: int) -> dict[str, list[str]]:
    """Return the lines of the options by their group, in the order of the groups."""
    rows: dict[str, list[tuple[str, str]]] = {name: [] for name in _GROUPS}
    for one in command.get_params(ctx):
        if not getattr(one, "hidden", False):
            rows[_group(one)].append((_flag(one, ctx), _text(one)))
    longest = max(len(flag) for entries in rows.values() for flag, _ in entries)
    column = min(longest + 4, FLAG_COLUMNS)
    return {
        group: [line for row in entries for line in _entry(*row, column, width)]
        for group, entries in rows.items()
        if entries
    }


def _group(parameter: Any) -> str:
    is_argument = isinstance(parameter, TyperArgument)
    return parameter.rich_help_panel or ("Arguments" if is_argument else "Options")


def _flag(parameter: Any, ctx: typer.Context) -> str:
    """Return a parameter as it is typed, with a placeholder of its value."""
    if isinstance(parameter, TyperArgument):
        return parameter.metavar or str(parameter.name).upper()
    flag = ", ".join(sorted(parameter.opts, key=len))
    if parameter.secondary_opts:
        return f"--[no-]{flag.removeprefix('--')}"
    return flag if parameter.is_flag else f"{flag} {_placeholder(parameter, ctx)}"


def _placeholder(parameter: TyperOption, ctx: typer.Context) -> str:
    choices = parameter.display_type(ctx).strip("<>")
    if "|" in choices:
        return choices
    kind = choices.removesuffix(" range")
    return parameter.metavar or {"int": "INT", "float": "FLOAT"}.get(kind, "FILE")


def _text(parameter: Any) -> str:
    """Return a parameter's description, with its default in brackets."""
    default = parameter.show_default
    if not isinstance(default, str):
        value = parameter.default
        if isinstance(parameter, TyperArgument) or parameter.is_eager:  # such as --version
            value = value or ""
        elif isinstance(value, bool):
            value = "on" if value else "off"
        elif value is None:
            value = "" if parameter.is_flag else "none"  # --install-completion is a flag
        default = str(value.value if isinstance(value, Enum) else value)
    return f"{parameter.help} [default: {default}]" if default else str(parameter.help)


def _entry(flag: str, text: str, column: int, width: int) -> list[str]:
    """Return a flag and its text as lines, the text from a column on."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=f"  {flag}  ".ljust(column),
        subsequent_indent=" " * column,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _has_colours() -> bool:
    return (
        sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    )


def _bold(text: str) -> str:
    return typer.style(text, bold=True) if _has_colours() else text


def _coloured(line: str) -> str:
    """Return a line with its flag, or its command, in colour."""
    if not _has_colours():
        return line
    return re.sub(
        r"^  (\S.*?)(?=  |$)", lambda match: "  " + typer.style(match[1], fg="cyan"), line
    )
