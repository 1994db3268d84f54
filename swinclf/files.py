"""Small files, written whole or not at all: JSON and CSV in the one dialect of every run.

Knows nothing about what is in them. File and class names are bytes to the operating system and may
be no valid UTF-8; Python carries such bytes as lone surrogates, and both dialects here bring them
through unharmed.
"""

from __future__ import annotations

import csv
import errno
import hashlib
import io
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from swinclf.errors import RunError

TEMPORARY = ".tmp"  # how the names of files end that are being written
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
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with temporary.open("wb") as file:
            for piece in pieces:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)
        replace_path(temporary, path)
        sync_folder(path.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise cannot_write(path, error) from error
        raise


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
    write_bytes(path, text.encode("utf-8", "surrogateescape"))


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
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
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
        value = json.loads(path.read_text(encoding="utf-8"))
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


def sync_folder(folder: Path) -> None:
    """Makes a rename durable; not every file system or operating system can, and then it is not."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
