"""The reporter that prints progress to standard error: on a terminal, in a notebook or on a pipe.

The command line and `swinclf.train(..., verbose=True)` use it. Knows no command.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO

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

from swinclf.reporter import EpochRow, Reporter, epoch_line, terminal_safe

BAR_AFTER_S = 0.5  # shorter tasks show no bar
LINE_EVERY_S = 15.0  # interval of progress lines on a pipe


def one_line(text: str) -> str:
    r"""Return `terminal_safe` of a name for a table row: line feeds are escaped too.

    >>> one_line("a\nb")
    'a\\nb'
    """
    return terminal_safe(text).replace("\n", "\\n")


def discard(stream: IO[str]) -> None:
    """Redirect a failed stream to the null device.

    Otherwise Python would try to flush its buffer at exit and print an error of its own.
    """
    with suppress(OSError, ValueError):
        sink = os.open(os.devnull, os.O_WRONLY)
        try:
            os.dup2(sink, stream.fileno())
        finally:
            os.close(sink)


@contextmanager
def ignoring_full_disk() -> Iterator[None]:
    """Ignore write errors of standard error, such as of a log file on a full disk.

    Raises:
        BrokenPipeError: If the reader of a pipe has gone.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        discard(sys.stderr)


def print_styled(what: Text | Panel, console: Console | None = None) -> None:
    """Print text or a box, by default on standard error."""
    with ignoring_full_disk():
        (console or error_console()).print(what, soft_wrap=isinstance(what, Text))


def error_console() -> Console:
    """Return a Rich console on standard error, which handles NO_COLOR and pipes."""
    return Console(stderr=True, highlight=False)


class ConsoleReporter(Reporter):
    """A reporter on standard error: bars on a terminal, lines in a notebook, on a pipe or in CI."""

    def __init__(self) -> None:
        self._console = error_console()
        self._has_bars = self._console.is_terminal and not os.environ.get("CI")

    def note(self, text: str) -> None:
        """Print a note."""
        print_styled(Text(terminal_safe(text), style="dim"), self._console)

    def warn(self, text: str) -> None:
        """Print a warning."""
        print_styled(
            Text("warning: ", style="bold yellow") + Text(terminal_safe(text)), self._console
        )

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Print a line an epoch."""
        print_styled(Text(epoch_line(row, total=total, best=best)), self._console)

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar with the rate and the time left, or print a line every 15 s."""
        follower = (
            _ProgressBar(self._console, task, total, unit)
            if self._has_bars
            else _ProgressLines(task, total, unit)
        )
        try:
            yield follower.advance
        finally:
            follower.close()


class _RateColumn(ProgressColumn):
    """A column of units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed or 0:,.0f} {self.unit}/s")


class _ProgressBar:
    """A progress bar that appears once a task takes long."""

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


class _ProgressLines:
    """Occasional lines with the progress, the rate and the time left."""

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
        with ignoring_full_disk():
            line = f"{self._task}: {self._done:,}{of}, {rate:,.0f} {self._unit}/s{left}\n"
            sys.stderr.write(line)
            sys.stderr.flush()

    def close(self) -> None:
        pass
