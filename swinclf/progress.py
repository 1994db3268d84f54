"""How long work tells what it is doing: a reporter that verbs call.

The one here is silent, as a library should be; the command line has one that speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields


@dataclass(frozen=True)
class EpochRow:
    """One line of history.csv.

    Attributes:
        epoch: Counted from 1; 0 for a linear probe, which is fitted at once.
        train_loss: Mean over the epoch's training images, as they were shown (augmented, smoothed).
        train_accuracy: Fraction in [0, 1], likewise.
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

    @classmethod
    def header(cls) -> list[str]:
        """The column names of history.csv."""
        return [field.name for field in fields(cls)]

    def values(self) -> tuple[object, ...]:
        """The columns, in the header's order."""
        return astuple(self)


class Reporter:
    """What verbs say while they work. Nothing is said here; override what you want to hear."""

    def note(self, text: str) -> None:
        """Says a fact worth knowing: a choice made and its reason."""

    def warn(self, text: str) -> None:
        """Says something that the user may want to mend."""

    @contextmanager
    def track(
        self, task: str, total: int | None, unit: str = "images"
    ) -> Iterator[Callable[[int], None]]:
        """Follows one piece of long work.

        Args:
            task: What is being done, a few words.
            total: Units to do; None where nobody knows.
            unit: What is counted.

        Yields:
            A function to call with the number of units just done.
        """
        del task, total, unit
        yield lambda _done: None

    def epoch(self, row: EpochRow, *, total: int, best: bool) -> None:
        """Says how an epoch went.

        Args:
            row: Its line of history.csv.
            total: Epochs that are planned.
            best: Whether this is the best one so far.
        """


SILENT = Reporter()
