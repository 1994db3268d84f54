"""Lines, boxes and errors of a command, printed to standard error."""

from __future__ import annotations

import sys

from rich.panel import Panel
from rich.text import Text

from swinclf.errors import ConfigError, SwinclfError
from swinclf.reporter import terminal_safe
from swinclf.terminal import error_console, print_styled


def print_error(error: SwinclfError) -> None:
    """Print an error in three lines: expected, found, try."""
    first, *rest = str(error).splitlines()
    print_styled(Text("error: ", style="bold red") + Text(terminal_safe(first)))
    for line in rest:
        word, _, text = line.partition(": ")
        print_styled(Text(f"{word}: ", style="bold") + Text(terminal_safe(text)))


def print_line(text: str) -> None:
    """Print a line."""
    print_styled(Text(terminal_safe(text)))


def print_help(text: str) -> None:
    """Print the help, which has colours if standard output is a terminal."""
    print_styled(Text.from_ansi(text))


def print_box(title: str, text: str) -> None:
    """Print a box on a terminal, plain lines on a pipe."""
    console = error_console()
    if console.is_terminal:
        print_styled(Panel(Text(terminal_safe(text)), title=title, expand=False, padding=(1, 2)))
    else:
        print_line(f"{title}\n{text}")


def has_terminal() -> bool:
    """Return whether there is a terminal to ask a question on."""
    return bool(sys.stdin and sys.stdin.isatty())


def confirm(question: str, *, yes: bool) -> bool:
    """Return whether the user agrees, by an option or on the terminal.

    Raises:
        ConfigError: If there is no terminal to ask on.
    """
    if yes:
        return True
    if not has_terminal():
        raise ConfigError(
            "--yes, as there is no terminal to ask on",
            found=f"a question: {question}",
            hint="the same command with --yes",
        )
    try:
        answer = error_console().input(f"{terminal_safe(question)} [y/N] ", markup=False)
    except EOFError:  # Ctrl-D, which ends no line
        print_line("")
        return False
    return answer.strip().lower() in ("y", "yes")
