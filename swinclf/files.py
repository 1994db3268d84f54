"""Small files, written whole or not at all: JSON and CSV in the one dialect of every run.

Knows nothing about what is in them. File and class names are bytes to the operating system and may
be no valid UTF-8; Python carries such bytes as lone surrogates, and both dialects here bring them
through unharmed.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import shutil
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from swinclf.errors import RunError

TEMPORARY = ".tmp"  # how the names of files end that are being written
LONG_NAME = 200  # bytes; beyond it the name of a temporary file is a digest
AS_BYTES = "swinclf-bytes"  # the error handler of `to_utf8`, for streams too
NO_ROOM = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_RENAME_TRIES, _RENAME_WAIT_S = 20, 0.05
_IS_WINDOWS = os.name == "nt"


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` to `path`; see `write_pieces`."""
    write_pieces(path, [data])


def write_pieces(
    path: Path, pieces: Iterable[bytes | memoryview], *, previous: Path | None = None
) -> None:
    """Writes a file so that a reader sees the old one or the new one, never a part.

    Args:
        path: The file.
        pieces: Its content, one after the other.
        previous: Where what stands at `path` now is kept, in the same folder.

    Raises:
        RunError: If the folder is read-only, full or gone; nothing that stood there before is lost.
    """
    with FileReplacement(path, previous=previous) as file:
        for piece in pieces:
            file.write(piece)


class FileReplacement:
    """A file that takes its name once it is complete, at the end of a `with` block.

    Until then, and if the block ends with an error or an interrupt, the file that had the name
    before is untouched. A link is followed; a device or a pipe is written to as it is.

    Args:
        path: The file.
        previous: Where the file at `path` is kept, in the same folder; None for nowhere.

    Raises:
        RunError: From any method, if the file cannot be written.
    """

    def __init__(self, path: Path, *, previous: Path | None = None) -> None:
        self._path, self._previous = path, previous
        self._target = Path(os.path.realpath(path)) if path.is_symlink() else path
        self._is_special = self._target.exists() and not self._target.is_file()
        self._temporary = self._target if self._is_special else _temporary_of(self._target)

    def __enter__(self) -> FileReplacement:
        """Open the temporary file, in the folder of the final one."""
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Write some more."""
        try:
            self._file.write(data)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the file its name, or remove it after an error."""
        try:
            if kind is None:
                self._finish()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        finally:
            with suppress(OSError):
                self._file.close()
            if not self._is_special:
                with suppress(OSError):
                    self._temporary.unlink(missing_ok=True)

    def _finish(self) -> None:
        self._file.flush()
        if self._is_special:
            return
        os.fsync(self._file.fileno())
        with suppress(OSError):
            self._temporary.chmod(stat.S_IMODE(self._target.stat().st_mode))
        self._file.close()  # Windows renames no open file
        if self._previous is not None and self._target.exists():
            _keep(self._target, self._previous)
        replace_path(self._temporary, self._target)
        sync_folder(self._target.parent)


def _temporary_of(path: Path) -> Path:
    """The name of a file while it is written; short enough for any file system."""
    name = path.name
    if len(os.fsencode(name)) > LONG_NAME:
        name = name[:20] + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}.{os.getpid()}{TEMPORARY}")


def _keep(path: Path, previous: Path) -> None:
    """Makes `previous` the file at `path`, which stays where it is, if the disk knows links."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}{TEMPORARY}")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    except OSError:
        replace_path(path, previous)
    else:
        replace_path(link, previous)


def replace_path(source: Path, target: Path) -> None:
    """Rename a file or folder; a file that is at `target` is replaced.

    Windows refuses that while another program (a virus scanner, an indexer, a viewer) has one of
    them open, which it mostly has for a moment only: there it is tried again for a second.

    Raises:
        OSError: If it cannot be done.
    """
    for left in reversed(range(_RENAME_TRIES if _IS_WINDOWS else 1)):
        try:
            source.replace(target)
        except PermissionError:
            if not left:
                raise
            time.sleep(_RENAME_WAIT_S)
        else:
            return


def cannot_write(path: Path, error: OSError) -> RunError:
    """The error for a file that could not be written, by the reason that the system gives."""
    expected, found = f"to write {path.name} into '{path.parent}'", error.strerror or str(error)
    hint = "another folder by --out or --output"
    if error.errno in NO_ROOM:
        free = _free_bytes(path.parent)
        expected = f"room for {path.name} in '{path.parent}'"
        found += "" if free is None else f", {free:,} bytes free"
        hint = f"make room there, or {hint}"
    elif error.errno in NOT_ALLOWED:
        hint = f"leave to write there, or {hint}"
    elif error.errno == errno.ENOENT and not path.parent.is_dir():
        expected = f"the folder '{path.parent}', to write {path.name} into it"
        found = "it is gone: deleted, moved, or its disk is not there any more"
    return RunError(expected, found=f"{found} (nothing saved before is lost)", hint=hint)


def check_room(folder: Path, needed: int, what: str) -> None:
    """Refuses work that a disk has no room for.

    Args:
        folder: Where the files will lie; must be there.
        needed: Bytes.
        what: The files, for the error.

    Raises:
        RunError: If less is free.
    """
    free = _free_bytes(folder)
    if free is not None and free < needed:
        raise RunError(
            f"{needed / 1e6:,.1f} MB free in '{folder}' for {what}",
            found=f"{free / 1e6:,.1f} MB free on that disk",
            hint="make room there, another folder by --out, or a smaller --model",
        )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def digest_of(path: Path) -> str:
    """sha256 of a small file, hexadecimal; empty where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def sweep(folder: Path) -> None:
    """Removes what writers that were killed left in a folder; nobody may be writing there now."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Writes `text` as UTF-8, lone surrogates as the bytes they stand for; see `write_bytes`."""
    write_bytes(path, to_utf8(text))


def to_utf8(text: str) -> bytes:
    r"""Text as UTF-8; lone surrogates as the bytes that they stand for, other ones as escapes.

    >>> to_utf8("caf\udce9 \ud800")
    b'caf\xe9 \\ud800'
    """
    return text.encode("utf-8", AS_BYTES)


def _as_bytes(error: UnicodeError) -> tuple[bytes, int]:
    """Encode lone surrogates; for `codecs.register_error`."""
    failed = cast(UnicodeEncodeError, error)
    done = b"".join(
        bytes([ord(one) - 0xDC00])
        if "\udc80" <= one <= "\udcff"
        else one.encode("ascii", "backslashreplace")
        for one in failed.object[failed.start : failed.end]
    )
    return done, failed.end


codecs.register_error(AS_BYTES, _as_bytes)


def to_json(value: Any) -> str:
    """JSON that people can read in their own script, and that is valid whatever the names hold."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = json.dumps(value, indent=2)
    return text + "\n"


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented JSON; see `write_bytes`."""
    write_text(path, to_json(value))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV text, quoted where a field needs it, one line feed after each."""
    buffer = io.StringIO(newline="")
    plain = csv.writer(buffer, lineterminator="\n")
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:  # a carriage return ends a row for a reader, and is not quoted by default
        has_return = any(isinstance(field, str) and "\r" in field for field in row)
        (quoted if has_return else plain).writerow(row)
    return buffer.getvalue()


def spreadsheet_safe(name: str) -> str:
    """A name that no spreadsheet takes for a formula: an apostrophe stands before what may be one.

    For tables that people open. Those that programs read (split.csv, skipped.csv, predictions.csv,
    the output of predict) hold every name byte for byte.
    """
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file with a header line; see `write_bytes`."""
    write_text(path, csv_text([header]) + csv_text(rows))


def read_csv(path: Path, columns: Sequence[str] = ()) -> list[Mapping[str, str]]:
    """The rows of a CSV file written by `write_csv`, each by column name.

    Args:
        path: The file.
        columns: What every row has to have.

    Raises:
        RunError: If it cannot be read, or is no such table.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows: list[Mapping[str, str]] = list(reader)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"no column {', '.join(lacking)}")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("rows of other lengths")
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(f"a table at '{path}'", error) from error
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file written by `write_json`.

    Raises:
        RunError: If it cannot be read, or is no JSON, or no object.
    """
    try:
        value = json.loads(decode_text(path.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(f"JSON at '{path}'", error) from error
    if not isinstance(value, dict):
        raise _unreadable(f"a JSON object at '{path}'", ValueError(f"a {type(value).__name__}"))
    return value


def _unreadable(expected: str, error: Exception) -> RunError:
    return RunError(
        expected,
        found=f"{getattr(error, 'strerror', None) or error}"[:300],
        hint="take the file from its run again, or train again",
    )


def expand_home(path: str) -> str:
    """A path with `~` for the home folder, which only an unquoted word has from the shell.

    A file or folder that is really named so wins.
    """
    if not path.startswith("~") or os.path.lexists(path.replace("\\", "/").split("/")[0]):
        return path
    return os.path.expanduser(path)  # noqa: PTH111 - paths stay the strings they were given as


def decode_text(data: bytes) -> str:
    """The text of a file by its byte order mark: UTF-8 with or without one, or UTF-16.

    Raises:
        UnicodeDecodeError: If it is neither.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def sync_folder(folder: Path) -> None:
    """Makes a rename durable; not every file system or operating system can, and then it is not."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
