"""The reporter that prints progress to standard error: on a terminal, in a notebook or on a pipe.

The command line and `swinclf.train(..., verbose=True)` use it. Knows no command.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from typing import IO

from rich.console import Console, Group
from rich.live import Live
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

from swinclf.durations import duration_text
from swinclf.reporter import EpochRow, Reporter, epoch_line, format_percent, terminal_safe

BAR_AFTER_S = 0.5  # shorter tasks show no bar
LINE_EVERY_S = 15.0  # interval of progress lines on a pipe
PIPE_WIDTH = 80  # columns of notes and warnings on a pipe
NEWEST = 5  # epochs in the table on a terminal


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
def ignoring_write_errors() -> Iterator[None]:
    """Ignore write errors of standard error, such as of a log file on a full disk.

    The work goes on where nobody reads on, as of `2>&1 | head`.
    """
    try:
        yield
    except OSError:
        discard(sys.stderr)


def print_styled(what: Text | Panel, console: Console | None = None) -> None:
    """Print text or a box, by default on standard error."""
    with ignoring_write_errors():
        (console or error_console()).print(what, soft_wrap=isinstance(what, Text))


def error_console() -> Console:
    """Return a Rich console on standard error, which handles NO_COLOR and pipes."""
    return _ErrorConsole(stderr=True, highlight=False)


class _ErrorConsole(Console):
    """A console that goes on where nobody reads its output any more."""

    def on_broken_pipe(self) -> None:
        discard(sys.stderr)


def wrapped(text: str, width: int = PIPE_WIDTH) -> str:
    """Break lines at spaces; those that continue another one are indented by four spaces.

    Paths and commands are never broken, and may exceed the width.
    """
    return "\n".join(
        textwrap.fill(
            line, width, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
        )
        if len(line) > width
        else line
        for line in text.split("\n")
    )


class Verbosity(StrEnum):
    """What a reporter prints."""

    QUIET = "quiet"  # warnings
    NORMAL = "normal"  # also notes and progress
    VERBOSE = "verbose"  # also details


class ConsoleReporter(Reporter):
    """A reporter on standard error: bars on a terminal, lines in a notebook, on a pipe or in CI."""

    def __init__(self, verbosity: Verbosity = Verbosity.NORMAL) -> None:
        self._console = error_console()
        self._has_bars = self._console.is_terminal and not os.environ.get("CI")
        self._verbosity = verbosity
        self._training: _Training | None = None
        self._width = self._console.width if self._console.is_terminal else PIPE_WIDTH

    def note(self, text: str) -> None:
        """Print a note."""
        if self._verbosity is not Verbosity.QUIET:
            self._print(Text(wrapped(terminal_safe(text), self._width), style="dim"))

    def detail(self, text: str) -> None:
        """Print a detail if verbose."""
        if self._verbosity is Verbosity.VERBOSE:
            self.note(text)

    def warn(self, text: str) -> None:
        """Print a warning."""
        lines = wrapped(f"warning: {terminal_safe(text)}", self._width).removeprefix("warning:")
        self._print(Text("warning:", style="bold yellow") + Text(lines))

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Print a line an epoch; on a terminal in a live table, of a head only a summary."""
        if self._verbosity is Verbosity.QUIET:
            return
        training = self._training
        if training is not None:
            training.add(row, total=total, best=best)
        if training is None or not training.hides_epochs:
            if training is None or len(training.rows) == 1:
                self.note("mean loss and accuracy of each epoch; * is the best one so far")
            self._print(Text(epoch_line(row, total=total, best=best)))

    @contextmanager
    def training(self, *, is_head: bool) -> Iterator[None]:
        """Show the epochs inside the block together, and a summary after it."""
        is_shown = self._verbosity is not Verbosity.QUIET
        self._training = training = _Training(
            self._console, has_table=self._has_bars and is_shown, is_head=is_head
        )
        try:
            yield
        finally:
            self._training = None
            training.close()
            if is_shown and training.rows:
                self._print(Text(wrapped(training.summary(), self._width)))

    def time_left(self, seconds: float) -> None:
        """Show the time left in the progress of the epochs."""
        if self._training is not None:
            self._training.ends_at = time.monotonic() + seconds

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images", done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Show a bar with the rate and the time left, or print an occasional line."""
        if self._verbosity is Verbosity.QUIET:
            yield lambda _done: None
            return
        follower = (
            _ProgressBar(self._console, task, total, unit, done, self._training)
            if self._has_bars
            else _ProgressLines(task, total, unit, done, self._training)
        )
        try:
            yield follower.advance
        finally:
            follower.close()

    def _print(self, text: Text) -> None:
        print_styled(text, self._console)


class _Training:
    """The epochs of a training: on a terminal in a live table of the best and the newest ones.

    If only a head trains, there is no line for an epoch.
    """

    def __init__(self, console: Console, *, has_table: bool, is_head: bool) -> None:
        self.hides_epochs = has_table or is_head
        self.rows: list[EpochRow] = []
        self.ends_at: float | None = None  # by time.monotonic
        self.last_line = self._started = time.monotonic()  # on a pipe
        self._lines: list[str] = []
        self._best: EpochRow | None = None
        self._best_line = ""
        self._bar: Progress | None = None
        self._is_head = is_head
        self._live: Live | None = None
        if has_table:
            self._live = Live(
                console=console, transient=True, get_renderable=self._table, refresh_per_second=4
            )

    def add(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Add a finished epoch."""
        self.rows.append(row)
        if not self.hides_epochs:
            self.last_line = time.monotonic()
        self._lines = [*self._lines, epoch_line(row, total=total, best=best)][-NEWEST:]
        if best:
            self._best, self._best_line = row, self._lines[-1]

    def show(self, bar: Progress) -> None:
        """Show the bar of the current epoch below the table."""
        self._bar = bar
        if self._live is not None and not self._live.is_started:
            self._live.start()

    def line_is_due(self) -> bool:
        """Return whether to print a line on a pipe: ever less often in a long training."""
        now = time.monotonic()
        if now - self.last_line < max(LINE_EVERY_S, (now - self._started) / 20):
            return False
        self.last_line = now
        return True

    def text_left(self) -> str:
        """Return the time left for all epochs; empty if unknown."""
        if self.ends_at is None:
            return ""
        return f"{duration_text(max(0.0, self.ends_at - time.monotonic()))} left"

    def summary(self) -> str:
        """Return the number of epochs, their time, and the best one, in one line."""
        count, seconds = len(self.rows), sum(row.seconds for row in self.rows)
        text = f"{count} epoch{'s' * (count != 1)} in {duration_text(seconds)}"
        row = self._best
        if row is None:
            return text
        if row.val_loss is None or row.val_accuracy is None:
            accuracy = format_percent(row.train_accuracy)
            return f"{text}: train loss {row.train_loss:.4f}, accuracy {accuracy}"
        best = f"best: epoch {row.epoch}, val loss {row.val_loss:.4f}"
        return f"{text}; {best}, accuracy {format_percent(row.val_accuracy)}"

    def close(self) -> None:
        """Remove the table."""
        if self._live is not None and self._live.is_started:
            self._live.stop()

    def _table(self) -> Group:
        lines = [] if self._is_head else list(self._lines)
        if lines and self._best_line not in ("", *lines):
            lines = [self._best_line, *lines]
        if lines:
            lines.append("mean loss and accuracy of each epoch; * is the best one so far")
        texts = [Text(line, style="bold" if line == self._best_line else "") for line in lines]
        return Group(*texts, *([self._bar] if self._bar is not None else []))


def _rate(per_s: float, unit: str) -> str:
    """Return a rate, to two digits if it is small."""
    return f"{per_s:,.0f} {unit}/s" if per_s >= 9.5 else f"{per_s:.2g} {unit}/s"


class _ComputedColumn(ProgressColumn):
    """A column whose text is computed."""

    def __init__(self, text_of: Callable[[Task], str], style: str = "") -> None:
        super().__init__()
        self._text_of, self._style = text_of, style

    def render(self, task: Task) -> Text:
        return Text(self._text_of(task), style=self._style)


class _ProgressBar:
    """A progress bar that appears once a task takes long."""

    def __init__(
        self,
        console: Console,
        task: str,
        total: int | None,
        unit: str,
        done: int,
        training: _Training | None,
    ) -> None:
        time_left: ProgressColumn = TimeRemainingColumn()
        if training is not None:
            time_left = _ComputedColumn(lambda _task: training.text_left(), "cyan")
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            _ComputedColumn(lambda task: _rate(task.speed or 0, unit)),
            time_left,
            console=console,
            transient=True,
        )
        self._task = self._progress.add_task(task, total=total, completed=done)
        self._show_at = time.monotonic() + BAR_AFTER_S
        self._training = training
        self._shown = False
        if training is not None and training.rows:
            self._show()

    def advance(self, count: int) -> None:
        if not self._shown and time.monotonic() >= self._show_at:
            self._show()
        self._progress.advance(self._task, count)

    def close(self) -> None:
        if self._shown and self._training is None:
            self._progress.stop()

    def _show(self) -> None:
        self._shown = True
        if self._training is not None:
            self._training.show(self._progress)
        else:
            self._progress.start()


class _ProgressLines:
    """Occasional lines with the progress, the rate and the time left."""

    def __init__(
        self, task: str, total: int | None, unit: str, done: int, training: _Training | None
    ) -> None:
        self._task, self._total, self._unit, self._training = task, total, unit, training
        self._done, self._before, self._started = done, done, time.monotonic()
        self._next_line = self._started + LINE_EVERY_S

    def advance(self, count: int) -> None:
        self._done += count
        if not self._line_is_due():
            return
        rate = (self._done - self._before) / max(time.monotonic() - self._started, 1e-9)
        of, left = f" {self._unit}", ""
        if self._total is not None:
            of = f"/{self._total:,} {self._unit}"
            left = f"{duration_text((self._total - self._done) / max(rate, 1e-9))} left"
        if self._training is not None:
            left = self._training.text_left()
        with ignoring_write_errors():
            line = f"{self._task}: {self._done:,}{of}, {_rate(rate, self._unit)}"
            sys.stderr.write(f"{line}, {left}\n" if left else f"{line}\n")
            sys.stderr.flush()

    def close(self) -> None:
        pass

    def _line_is_due(self) -> bool:
        if self._training is not None:
            return self._training.line_is_due()
        now = time.monotonic()
        if now < self._next_line:
            return False
        self._next_line = now + LINE_EVERY_S
        return True
