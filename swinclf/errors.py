"""Exit codes, and errors whose message ends in what to type next.

Knows nothing about terminals: the command line formats the errors.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """The exit statuses of every command."""

    OK = 0
    FAILED = 1  # the error message has the reason
    USAGE = 2  # invalid options or arguments
    SOME_FAILED = 3  # done, but some inputs failed and are listed
    MISMATCH = 4  # an export that does not agree with its run
    INTERRUPTED = 130  # Ctrl-C, everything is saved
    TERMINATED = 143  # SIGTERM, everything is saved


class SwinclfError(Exception):
    """An error that the command line prints in three lines, without a traceback.

    Args:
        expected: What was expected, naming the file or option at fault.
        found: What was found instead.
        hint: What to type or to do next.
    """

    exit_code = ExitCode.FAILED

    def __init__(self, expected: str, *, found: str, hint: str) -> None:
        super().__init__(expected)
        self.expected, self.found, self.hint = expected, found, hint

    def __str__(self) -> str:
        """Return three lines: what was expected, what was found, what to do."""
        parts = (f"expected {self.expected}", f"found: {self.found}", f"try: {self.hint}")
        # File names may contain line breaks of any kind.
        return "\n".join("\\n".join(part.splitlines()) for part in parts)


class ConfigError(SwinclfError):
    """Options that contradict each other or are out of range."""

    exit_code = ExitCode.USAGE


class DataError(SwinclfError):
    """A dataset that cannot be trained on or evaluated."""


class ModelError(SwinclfError):
    """A network that is unknown, or cannot be built or used as an image classifier."""


class WeightsError(SwinclfError):
    """Weights that cannot be found, read or adapted to the network."""


class WeightsMismatchError(WeightsError):
    """Weights that were read but do not match the network."""


class RunError(SwinclfError):
    """A run, or a file of one, that cannot be found, read or written."""


class ExportError(SwinclfError):
    """An export that cannot be written or read."""


class MismatchError(ExportError):
    """An export whose probabilities differ from its run's by more than the tolerance."""

    exit_code = ExitCode.MISMATCH


class DivergedError(SwinclfError):
    """A training that diverged: its loss is NaN or infinite."""


class DeviceError(SwinclfError):
    """A device or precision that this machine lacks, or that ran out of memory."""


class OutputError(SwinclfError):
    """Standard output that cannot be written to."""


class Interrupted(BaseException):
    """The stop of a command by a signal, after everything has been saved.

    Like KeyboardInterrupt it is not an Exception, so that general error handlers ignore it.

    `exit_code` is 130 for SIGINT, 143 for SIGTERM. `resume` is the command that resumes the work;
    empty for a training without a checkpoint, None for work that is not resumed.
    """

    def __init__(self, exit_code: ExitCode, resume: str | None = None) -> None:
        super().__init__(resume)
        self.exit_code, self.resume = exit_code, resume
