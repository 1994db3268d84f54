"""The entry point: prepares process, streams and command line, then runs the program."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from collections.abc import Sequence
from typing import NoReturn

from swinclf.cli import commands, console, program  # noqa: F401 - registers the commands
from swinclf.cli.legacy import expand_home_in, modernise
from swinclf.cli.streams import prepare_streams, restart_in_utf8
from swinclf.device import StopFlag, is_under_torchrun, retain_freed_memory
from swinclf.errors import ExitCode, SwinclfError
from swinclf.processes import LostProcessError, join, leave, serve_tasks
from swinclf.terminal import ConsoleReporter, Verbosity


def main() -> NoReturn:
    """Run the program on its command line."""
    restart_in_utf8()
    prepare_streams()
    # OpenMP threads wait by spinning, which makes a network many times slower if another program
    # uses a core too. A short spin costs little on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    StopFlag.ENDS_PROCESS = True
    retain_freed_memory()
    # Importing torch makes a million permanent objects: garbage collection among them at the usual
    # rate takes a tenth of a short run.
    gc.set_threshold(100_000, 20, 20)
    arguments, notes = modernise(sys.argv[1:])
    program.shows_tracebacks = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    arguments = [expand_home_in(word) for word in arguments]
    if arguments[:1] == ["help"]:  # `swinclf help train`, as in other tools
        arguments = [*arguments[1:2], "--help"]
    # Pillow warns about images that it can read; unreadable ones are reported by name.
    warnings.filterwarnings("ignore", module="PIL")
    try:
        code = _run(arguments, notes)
    finally:
        leave()
        # The final garbage collection would visit each of those objects again. Triton needs it.
        if "triton" not in sys.modules:
            gc.freeze()
    if is_under_torchrun():
        # At a regular exit, threads of torch's connections sometimes abort the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise SystemExit(code)


def _run(arguments: Sequence[str], notes: Sequence[str]) -> int:
    """Run the program in the first process, its tasks in the others; return an exit code."""
    rank = int(os.environ.get("RANK", "0")) if is_under_torchrun() else 0
    try:
        processes = join()
        if rank == 0:
            for note in notes:
                console.print_line(f"note: {note}")
            return program.run(arguments)
        serve_tasks(processes, _NumberedWarnings(rank))
    except LostProcessError as error:  # the first process reports it
        return error.exit_code
    except SwinclfError as error:
        if rank:
            console.print_line(f"process {rank}:")
        console.print_error(error)
        return error.exit_code
    return ExitCode.OK


class _NumberedWarnings(ConsoleReporter):
    """A reporter of the warnings of one of several processes."""

    def __init__(self, rank: int) -> None:
        super().__init__(Verbosity.QUIET)
        self._rank = rank

    def warn(self, text: str) -> None:
        """Print a warning."""
        super().warn(f"process {self._rank}: {text}")
