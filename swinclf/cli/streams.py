"""Standard output and standard error: which encoding they speak, and what happens when they fail.

Redirected output is data for another program, which expects UTF-8 whatever the code page of the
terminal is (a redirect on Windows would otherwise use that code page, and fail at the first name
beyond it). A terminal shows what it can and gets escapes for the rest.
"""

from __future__ import annotations

import codecs
import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

from swinclf.errors import ConfigError, OutputError
from swinclf.files import AS_BYTES
from swinclf.terminal import discard

ESCAPES = "swinclf-escapes"  # the error handler below
_SPELLED_OUT = {"…": "...", "–": "-", "—": "-", "→": "->", "×": "x", "−": "-"}
_ALREADY_RUN = "PYTHONUTF8"


def prepare_streams() -> None:
    """Set the encoding of the standard streams; call it once, before anything is written.

    Redirected streams become UTF-8 in which the bytes of names that are no valid UTF-8 (lone
    surrogates in Python) come out as they are. Terminals keep their encoding.
    """
    _replace_closed()
    codecs.register_error(ESCAPES, _as_escapes)
    for stream in (sys.stdout, sys.stderr):
        if not hasattr(stream, "reconfigure"):
            continue
        if stream.isatty():
            stream.reconfigure(errors=ESCAPES)
        else:
            stream.reconfigure(encoding="utf-8", errors=AS_BYTES, newline="\n")


def restart_in_utf8() -> None:
    """Start the program again with file names in UTF-8 where the locale has another encoding.

    In a latin-1 or ASCII locale Python would decode file names by that encoding, and they would
    come out as other bytes than they are on the disk. Windows always has UTF-8 here.
    """
    is_utf8 = sys.getfilesystemencoding().replace("-", "").lower() == "utf8"
    is_settled = sys.flags.ignore_environment or "utf8" in sys._xoptions
    if is_utf8 or os.name != "posix" or is_settled or os.environ.get(_ALREADY_RUN) == "1":
        return
    words = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, words, {**os.environ, _ALREADY_RUN: "1"})  # noqa: S606


def standard_input() -> BinaryIO:
    """Standard input without a buffer: a thread may wait for it while the program ends.

    A thread that waits inside a buffered reader holds its lock, and Python aborts over that.

    Raises:
        ConfigError: If the caller has closed it.
    """
    if sys.stdin is None:
        raise ConfigError(
            "a list of paths on standard input",
            found="standard input is closed",
            hint="swinclf predict - < LIST",
        )
    try:
        return cast(BinaryIO, open(sys.stdin.fileno(), "rb", buffering=0, closefd=False))  # noqa: PTH123, SIM115
    except OSError:  # no file of the system's
        return sys.stdin.buffer


def write_data(text: str) -> None:
    """Write to standard output.

    Raises:
        OutputError: If that fails, by the reason that the system gives.
        BrokenPipeError: If the reader has gone, as `head` does; that is no error of the user.
    """
    with _output_failure_named():
        sys.stdout.write(text)


def flush_data() -> None:
    """Write what is buffered for standard output; raises as `write_data`."""
    with _output_failure_named():
        sys.stdout.flush()


@contextmanager
def _output_failure_named() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if os.name == "nt" and error.errno == errno.EINVAL:  # how Windows reports a broken pipe
            raise BrokenPipeError from error
        raise output_failure(error) from error


def output_failure(error: OSError) -> OutputError:
    """The error for standard output that cannot be written to; what follows goes nowhere."""
    discard(sys.stdout)
    return OutputError(
        "to write the result to standard output",
        found=f"cannot write to standard output: {error.strerror or error}",
        hint="a redirection (>) to a disk with room, or another command after the |",
    )


def _replace_closed() -> None:
    """Give a stream that was closed before the start (`>&-`) a file, so that writing has an end.

    Standard error goes nowhere then; data that has nowhere to go is an error.
    """
    if sys.stdout is None:
        sink = os.open(os.devnull, os.O_RDONLY)  # every write into it fails
        sys.stdout = os.fdopen(sink, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _as_escapes(error: UnicodeError) -> tuple[str, int]:
    """Spell out what a terminal cannot show."""
    failed = cast(UnicodeEncodeError, error)
    shown = (
        _SPELLED_OUT.get(one) or one.encode("ascii", "backslashreplace").decode()
        for one in failed.object[failed.start : failed.end]
    )
    return "".join(shown), failed.end
