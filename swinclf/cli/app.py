"""The entry point: prepares process, streams and command line, then runs the program."""

from __future__ import annotations

import gc
import os
import sys
import warnings
from typing import NoReturn

from swinclf.cli import commands, console, program  # noqa: F401 - registers the commands
from swinclf.cli.legacy import expand_home_in, modernise
from swinclf.cli.streams import prepare_streams, restart_in_utf8
from swinclf.device import retain_freed_memory


def main() -> NoReturn:
    """Run the program on its command line."""
    restart_in_utf8()
    prepare_streams()
    # OpenMP threads wait by spinning, which makes a network many times slower if another program
    # uses a core too. A short spin costs little on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
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
    for note in notes:
        console.print_line(f"note: {note}")
    try:
        code = program.run(arguments)
    finally:
        # The final garbage collection would visit each of those objects again. Triton needs it.
        if "triton" not in sys.modules:
            gc.freeze()
    raise SystemExit(code)
