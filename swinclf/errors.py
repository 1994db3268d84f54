"""What can go wrong, and how it is said: the exit codes, and errors that end in what to type next.

Knows nothing about terminals: the command line decides how an error looks, this module what it
says.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    OK = 0
    FAILED = 1  # it could not be done, for the reason said
    USAGE = 2  # wrong usage: the command line itself makes no sense
    SOME_FAILED = 3  # done, but some inputs failed and are listed
    MISMATCH = 4  # an export that does not agree with its run
    INTERRUPTED = 130  # Ctrl-C, with everything saved
    TERMINATED = 143  # SIGTERM, with everything saved


class SwinclfError(Exception):
    """An error that is told to the user in three lines, without a traceback.

    Args:
        expected: What was expected, naming the thing at fault.
        found: What was found instead.
        hint: What to type or to do next.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, expected: str, *, found: str, hint: str) -> None:
        super().__init__(expected)
        self.expected, self.found, self.hint = expected, found, hint

    def __str__(self) -> str:
        """The three lines: what was expected, what was found, what to do."""
        parts = (f"expected {self.expected}", f"found: {self.found}", f"try: {self.hint}")
        # A file's name may hold line ends of any kind: three lines are three lines.
        return "\n".join("\\n".join(part.splitlines()) for part in parts)


class ConfigError(SwinclfError):
    """Options that contradict each other or lie out of range."""

    exit_code = ExitCode.USAGE


class DataError(SwinclfError):
    """A dataset that cannot be trained on or evaluated."""


class ModelError(SwinclfError):
    """A network that cannot be named, built or used as an image classifier."""


class WeightsError(SwinclfError):
    """Weights that cannot be found, read or fitted to the network."""


class WeightsMismatchError(WeightsError):
    """Weights that were read but are not those of the network."""


class RunError(SwinclfError):
    """A run, or a file of one, that cannot be found, read or written."""


class ExportError(SwinclfError):
    """An export that cannot be made or read."""


class MismatchError(ExportError):
    """An export whose answers differ from its run's by more than the tolerance."""

    exit_code = ExitCode.MISMATCH


class DivergedError(SwinclfError):
    """A training whose loss is no number any more."""


class DeviceError(SwinclfError):
    """A device or precision that this machine lacks, or that ran out of memory."""


class OutputError(SwinclfError):
    """Standard output that cannot be written to."""


class Interrupted(BaseException):
    """A signal asked the work to stop, and everything has been saved.

    As with KeyboardInterrupt, nothing that deals with errors of every kind deals with this one.

    Args:
        exit_code: 130 for SIGINT, 143 for SIGTERM.
        resume: The command that goes on from here; empty where there is none.
    """

    def __init__(self, exit_code: ExitCode, resume: str = "") -> None:
        super().__init__(resume)
        self.exit_code, self.resume = exit_code, resume
