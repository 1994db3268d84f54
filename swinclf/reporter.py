"""Reporters, which receive the progress of a command.

The reporters here print nothing: one is silent, one writes to the logger `swinclf`. The one that
prints is `swinclf.terminal.ConsoleReporter`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass

from swinclf.durations import duration_text

LOGGER = logging.getLogger("swinclf")
LOGGER.addHandler(logging.NullHandler())  # silent unless configured


def format_percent(share: float, digits: int = 1) -> str:
    """Return a share as percent, as all texts of the program write it.

    >>> format_percent(0.4129)
    '41.3 %'
    """
    return f"{100 * share:.{digits}f} %"


@dataclass(frozen=True)
class EpochRow:
    """One line of history.csv.

    Attributes:
        epoch: Counted from 1; 0 for a linear probe, which is fitted at once.
        train_loss: Mean over the epoch's training images, with augmentation and label smoothing.
        train_accuracy: Fraction in [0, 1], with augmentation.
        val_loss: Mean cross-entropy over the validation images; None without any.
        val_accuracy: Fraction in [0, 1]; None without any.
        lr: Learning rate of the epoch's last step; 0 of a linear probe.
        seconds: Wall time of the epoch, validation included.
        images_per_second: Training images over the wall time of the training part.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float | None
    val_accuracy: float | None
    lr: float
    seconds: float
    images_per_second: float


class Reporter:
    """A receiver of progress, notes and warnings that ignores them. Override methods of interest.

    Pass an instance as `swinclf.train(..., report=...)`.
    """

    def note(self, text: str) -> None:
        """Receive a note, such as a summary of the settings."""

    def detail(self, text: str) -> None:
        """Receive a note of less interest, such as a default that was chosen and the reason."""

    def warn(self, text: str) -> None:
        """Receive a warning."""

    def record(self, kind: str, values: Mapping[str, object]) -> None:
        """Receive data for programs.

        Args:
            kind: `plan`, `estimate` or `result`, of a training.
            values: JSON values by name.
        """

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images", done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Receive the progress of one long task.

        Args:
            task: A short description.
            total: Units to do; None if unknown.
            unit: Name of the unit.
            done: Units done before, which do not count in the rate.

        Yields:
            A function to call with the number of units just done.
        """
        del task, total, unit, done
        yield lambda _done: None

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Receive the figures of a finished epoch.

        Args:
            row: Its line of history.csv.
            total: Planned number of epochs.
            best: Whether it is the best so far.
        """

    @contextmanager
    def training(self, *, is_head: bool) -> Iterator[None]:
        """Receive the start and the end of all epochs of a training.

        Args:
            is_head: Whether only the head trains, whose epochs are short.
        """
        del is_head
        yield

    def time_left(self, seconds: float) -> None:
        """Receive a new estimate of the time left for all epochs."""


SILENT = Reporter()


def terminal_safe(text: str) -> str:
    r"""Return a text with invisible characters escaped: a file name must not control a terminal.

    >>> terminal_safe("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(
        one if one.isprintable() or one == "\n" else one.encode("unicode_escape").decode()
        for one in text
    )


class ForwardingReporter(Reporter):
    """A reporter that passes everything on; the base of those that also do something else.

    They override `_observe`, which gets whatever is passed on but the progress: the kind of event,
    its text (empty for data) and its values by name.
    """

    def __init__(self, reporter: Reporter = SILENT) -> None:
        self._reporter = reporter

    def _observe(self, kind: str, text: str, values: Mapping[str, object]) -> None:
        raise NotImplementedError

    def note(self, text: str) -> None:
        """Pass a note on."""
        self._observe("note", text, {"text": text})
        self._reporter.note(text)

    def detail(self, text: str) -> None:
        """Pass a detail on."""
        self._observe("detail", text, {"text": text})
        self._reporter.detail(text)

    def warn(self, text: str) -> None:
        """Pass a warning on."""
        self._observe("warning", text, {"text": text})
        self._reporter.warn(text)

    def record(self, kind: str, values: Mapping[str, object]) -> None:
        """Pass data on."""
        self._observe(kind, "", values)
        self._reporter.record(kind, values)

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images", done: int = 0
    ) -> Iterator[Callable[[int], None]]:
        """Pass the progress on."""
        with self._reporter.track(task, total, unit, done) as advance:
            yield advance

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Pass the figures of an epoch on."""
        values = {**asdict(row), "epochs": total, "best": best}
        self._observe("epoch", epoch_line(row, total=total, best=best), values)
        self._reporter.epoch(row, total=total, best=best)

    @contextmanager
    def training(self, *, is_head: bool) -> Iterator[None]:
        """Pass start and end on."""
        with self._reporter.training(is_head=is_head):
            yield

    def time_left(self, seconds: float) -> None:
        """Pass the estimate on."""
        self._reporter.time_left(seconds)


class LoggingReporter(ForwardingReporter):
    """A reporter that also writes to the logger `swinclf`.

    Notes and epochs have the level INFO, warnings WARNING, details DEBUG; progress is not logged.
    """

    def _observe(self, kind: str, text: str, values: Mapping[str, object]) -> None:  # noqa: ARG002
        if text:
            levels = {"detail": logging.DEBUG, "warning": logging.WARNING}
            LOGGER.log(levels.get(kind, logging.INFO), "%s", terminal_safe(text))


def epoch_line(row: EpochRow, *, total: int, best: bool) -> str:
    """Return an epoch's figures in one line; a star marks the best epoch so far."""
    parts = [
        f"epoch {row.epoch:>{len(str(total))}}/{total}",
        f"train loss {row.train_loss:.4f}, {format_percent(row.train_accuracy):>7}",
    ]
    if row.val_loss is not None and row.val_accuracy is not None:
        mark = "*" if best else " "
        parts.append(f"val loss {row.val_loss:.4f}, {format_percent(row.val_accuracy):>7} {mark}")
    parts.append(duration_text(row.seconds))
    return "  ".join(parts)


@contextmanager
def timed(report: Reporter, step: str) -> Iterator[None]:
    """Report how long a step took, as a detail."""
    start = time.perf_counter()
    yield
    report.detail(f"{step}: {time.perf_counter() - start:.1f} s")
