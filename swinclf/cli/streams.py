"""Standard output and standard error: their encoding, and the handling of write errors.

Redirected output is data for another program, which expects UTF-8 whatever the code page of the
terminal is (a redirect on Windows would otherwise use that code page, and fail on other names).
A terminal gets escapes for characters that it cannot show.
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

    Redirected streams become UTF-8, with the bytes of names that are not valid UTF-8 (lone
    surrogates in Python) unchanged. Terminals keep their encoding.
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

    In a latin-1 or ASCII locale Python would decode file names by that encoding, and print other
    bytes than those on disk. On Windows the encoding is always UTF-8.
    """
    is_utf8 = sys.getfilesystemencoding().replace("-", "").lower() == "utf8"
    is_settled = sys.flags.ignore_environment or "utf8" in sys._xoptions
    if is_utf8 or os.name != "posix" or is_settled or os.environ.get(_ALREADY_RUN) == "1":
        return
    words = [sys.executable, *sys.orig_argv[1:]]
    os.execve(sys.executable, words, {**os.environ, _ALREADY_RUN: "1"})  # noqa: S606


def standard_input() -> BinaryIO:
    """Return standard input without a buffer, as a thread may block on it while the program exits.

    A thread blocked in a buffered reader holds its lock, which makes Python abort.

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
    except OSError:  # no file descriptor
        return sys.stdin.buffer


def write_data(text: str) -> None:
    """Write to standard output.

    Raises:
        OutputError: If that fails, with the reason from the operating system.
        BrokenPipeError: If the reader has closed the pipe, as `head` does.
    """
    with _output_failure_named():
        sys.stdout.write(text)


def flush_data() -> None:
    """Flush standard output; raises as `write_data`."""
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
    """Return the error for a failed standard output; discard further output."""
    discard(sys.stdout)
    return OutputError(
        "to write the result to standard output",
        found=f"cannot write to standard output: {error.strerror or error}",
        hint="a redirection (>) to a disk with room, or another command after the |",
    )


def _replace_closed() -> None:
    """Open a file for each stream that was closed before the start (`>&-`).

    Standard error is then discarded; writing data to a closed standard output is an error.
    """
    if sys.stdout is None:
        sink = os.open(os.devnull, os.O_RDONLY)  # every write into it fails
        sys.stdout = os.fdopen(sink, "w", encoding="utf-8")
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115


def _as_escapes(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that a terminal cannot show."""
    failed = cast(UnicodeEncodeError, error)
    shown = (
        _SPELLED_OUT.get(one) or one.encode("ascii", "backslashreplace").decode()
        for one in failed.object[failed.start : failed.end]
    )
    return "".join(shown), failed.end
