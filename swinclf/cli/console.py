"""How things look on a terminal and read on a pipe. Everything here goes to standard error."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.panel import Panel
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from swinclf.cli.streams import talking
from swinclf.errors import SwinclfError
from swinclf.progress import EpochRow, Reporter

BAR_AFTER_S = 0.5  # shorter work shows no bar
LINE_EVERY_S = 15.0  # how often long work says on a pipe that it goes on


def terminal_safe(text: str) -> str:
    r"""Text with everything that is no visible character written out: a file's name is no command.

    >>> terminal_safe("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


def one_line(text: str) -> str:
    r"""`terminal_safe` for a name in a row of a table: line feeds are written out too.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return terminal_safe(text).replace("\n", "\\n")


def say_error(error: SwinclfError) -> None:
    """Prints an error: what was expected, what was found, what to type next."""
    first, *rest = str(error).splitlines()
    _print(Text("error: ", style="bold red") + Text(terminal_safe(first)))
    for line in rest:
        word, _, text = line.partition(": ")
        _print(Text(f"{word}: ", style="bold") + Text(terminal_safe(text)))


def say(text: str) -> None:
    """Prints a line."""
    _print(Text(terminal_safe(text)))


def box(title: str, text: str) -> None:
    """Prints a box on a terminal, the same lines plainly on a pipe."""
    console = _console()
    if console.is_terminal:
        _print(Panel(Text(terminal_safe(text)), title=title, expand=False, padding=(1, 2)))
    else:
        say(f"{title}\n{text}")


def _print(what: Text | Panel, console: Console | None = None) -> None:
    with talking():
        (console or _console()).print(what, soft_wrap=isinstance(what, Text))


def _console() -> Console:
    """Rich's console on standard error; it honours NO_COLOR and notices pipes by itself."""
    return Console(stderr=True, highlight=False)


class ConsoleReporter(Reporter):
    """Says on standard error what a verb does: bars on a terminal, lines on a pipe or in CI."""

    def __init__(self) -> None:
        self._console = _console()
        self._has_bars = self._console.is_terminal and not os.environ.get("CI")

    def note(self, text: str) -> None:
        """A fact worth knowing."""
        _print(Text(terminal_safe(text), style="dim"), self._console)

    def warn(self, text: str) -> None:
        """Something that may want mending."""
        _print(Text("warning: ", style="bold yellow") + Text(terminal_safe(text)), self._console)

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """A line an epoch."""
        _print(Text(epoch_line(row, total=total, best=best)), self._console)

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """A bar with the rate and the time left, or now and then a line."""
        follower = (
            _Bar(self._console, task, total, unit) if self._has_bars else _Lines(task, total, unit)
        )
        try:
            yield follower.advance
        finally:
            follower.close()


def epoch_line(row: EpochRow, *, total: int, best: bool) -> str:
    """How an epoch went, in one line."""
    parts = [
        f"epoch {row.epoch:>{len(str(total))}}/{total}",
        f"train loss {row.train_loss:.4f} accuracy {row.train_accuracy:6.2%}",
    ]
    if row.val_loss is not None and row.val_accuracy is not None:
        mark = "*" if best else " "
        parts.append(f"val loss {row.val_loss:.4f} accuracy {row.val_accuracy:6.2%}{mark}")
    parts.append(f"lr {row.lr:.2e}")
    parts.append(f"{row.images_per_second:,.0f} images/s")
    parts.append(f"{row.seconds:.1f} s")
    return "  ".join(parts)


class _RateColumn(ProgressColumn):
    """Units a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


class _Bar:
    """A bar that shows itself once the work has turned out to be long."""

    def __init__(self, console: Console, task: str, total: int | None, unit: str) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _RateColumn(unit),
            TimeRemainingColumn(),
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total)
        self._show_at = time.monotonic() + BAR_AFTER_S
        self._shown = False

    def advance(self, count: int) -> None:
        if not self._shown and time.monotonic() >= self._show_at:
            self._progress.start()
            self._shown = True
        self._progress.advance(self._task, count)

    def close(self) -> None:
        if self._shown:
            self._progress.stop()


class _Lines:
    """A line now and then: how far, how fast, how much longer."""

    def __init__(self, task: str, total: int | None, unit: str) -> None:
        self._task, self._total, self._unit = task, total, unit
        self._done, self._started = 0, time.monotonic()
        self._next_line = self._started + LINE_EVERY_S

    def advance(self, count: int) -> None:
        self._done += count
        now = time.monotonic()
        if now < self._next_line:
            return
        self._next_line = now + LINE_EVERY_S
        rate = self._done / (now - self._started)
        of, left = f" {self._unit}", ""
        if self._total is not None:
            of = f"/{self._total:,} {self._unit}"
            left = f", {(self._total - self._done) / max(rate, 1e-9):,.0f} s left"
        with talking():
            line = f"{self._task}: {self._done:,}{of}, {rate:,.0f} {self._unit}/s{left}\n"
            sys.stderr.write(line)
            sys.stderr.flush()

    def close(self) -> None:
        pass
