"""The program, ready to run: puts the command line in order and hands it to its command."""

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
    """Runs the program on the command line it was started with."""
    restart_in_utf8()
    prepare_streams()
    # OpenMP's threads wait for one another by spinning, which makes a network many times slower
    # where another program wants a core too. A short spin costs little on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    retain_freed_memory()
    # Importing torch makes a million objects that stay: looking among them for garbage every few
    # hundred takes a tenth of a short run.
    gc.set_threshold(100_000, 20, 20)
    arguments, notes = modernise(sys.argv[1:])
    program.shows_tracebacks = "--debug" in arguments
    arguments = [word for word in arguments if word != "--debug"]
    arguments = [expand_home_in(word) for word in arguments]
    # Pillow warns about pictures that it reads all the same; what it cannot read is told by name.
    warnings.filterwarnings("ignore", module="PIL")
    for note in notes:
        console.say(f"note: {note}")
    try:
        code = program.run(arguments)
    finally:
        # The interpreter, when it ends, would look at each of those objects again. Triton's count
        # whether it did, and complain.
        if "triton" not in sys.modules:
            gc.freeze()
    raise SystemExit(code)
