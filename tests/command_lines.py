"""Command lines in texts: found, and read by the program's own parser without being run."""

from __future__ import annotations

import re
import shlex

import pytest
import typer

from swinclf.cli import commands  # noqa: F401 - registers the commands
from swinclf.cli.legacy import modernise
from swinclf.cli.program import app
from swinclf.cli.usage import UsageError, usage_error
from swinclf.config import SETTINGS
from swinclf.settings import gather_settings

GROUP = typer.main.get_command(app)
# Where a command ends in the sentence of a hint.
_END = re.compile(r"\?( |$)|[;,)]\s|[;,)]$|`| or | lists | names | - < |\. |: ")


def program_calls(line: str) -> list[list[str]]:
    """The words after `swinclf` of each call in a line, without what the shell does with them."""
    if not re.match(r"(.*\| )?swinclf( [a-z-]|$)", line):
        return []
    words = shlex.split(line, comments=True)
    calls: list[list[str]] = []
    for word in words:
        if word == "swinclf":
            calls.append([])
        elif word in ("|", ">") and calls:
            break
        elif calls:
            calls[-1].append(word)
    return [call for call in calls if call]


def suggested_calls(hint: str) -> list[list[str]]:
    """The words after `swinclf` of each command in the sentence that follows "try:"."""
    calls = [_END.split(part, maxsplit=1)[0] for part in hint.split("swinclf ")[1:]]
    words_of = [shlex.split(call) for call in calls]
    return [words for words in words_of if words and not words[0][0].isdigit()]  # a version


def parse(words: list[str]) -> None:
    """Read a command line as the program does, without running it."""
    modern, _ = modernise(words)
    parent = GROUP.make_context("swinclf", ["doctor"])
    name, *rest = modern
    try:
        if name == "--help" or any(name in one.opts for one in GROUP.params):
            return  # an option of the program itself
        if name not in GROUP.commands:
            raise UsageError(f"No such command '{name}'")
        if rest:  # a name alone is a mention
            context = GROUP.commands[name].make_context(name, rest, parent=parent)
            if name == "train":
                gather_settings({key: context.params[key] for key in SETTINGS})
    except typer.Exit:
        pass  # --help
    except UsageError as error:
        pytest.fail(f"swinclf {shlex.join(words)}: {usage_error(error, words)}")
