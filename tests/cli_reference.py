"""Write the command reference, docs/cli.md, from what `--help` prints.

    python tests/cli_reference.py > docs/cli.md

The text is at most 80 columns wide whatever the terminal, without colours.
"""

from __future__ import annotations

import sys

import typer

from swinclf.cli import commands  # noqa: F401 - registers the commands
from swinclf.cli.program import app

COLUMNS = 78  # and two for the margin
HEADER = """\
# Command reference

What `swinclf COMMAND --help` prints. A test compares this page with it, and
`python tests/cli_reference.py > docs/cli.md` writes it again.
"""


def cli_reference() -> str:
    """Return the page: the program's help, then that of each command, in the order of the help."""
    group = typer.main.get_command(app)
    context = group.make_context("swinclf", ["doctor"], terminal_width=COLUMNS)
    sections = [("swinclf", group.get_help(context))]
    for name in group.list_commands(context):
        command = group.commands[name]
        own = type(context)(command, context, name, terminal_width=COLUMNS)
        sections.append((f"swinclf {name}", command.get_help(own)))
    texts = [f"\n## {title}\n\n```text\n{text.strip()}\n```\n" for title, text in sections]
    return HEADER + "".join(texts)


if __name__ == "__main__":
    sys.stdout.write(cli_reference())
