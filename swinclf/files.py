"""Atomic writes of small files, and the JSON and CSV dialects of a run.

Knows nothing about the contents. File and class names may be invalid UTF-8, which Python represents
by lone surrogates; both dialects preserve them.
"""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from swinclf.errors import RunError

TEMPORARY = ".tmp"  # suffix of files that are being written
NAME_BYTES = 255  # of the longest name that common file systems allow
LONG_NAME = 200  # bytes; longer names are hashed in the name of the temporary file
AS_BYTES = "swinclf-bytes"  # the error handler of `to_utf8`, for streams too
DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_RENAME_TRIES, _RENAME_WAIT_S = 20, 0.05
_IS_WINDOWS = os.name == "nt"


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader sees the old one or the new one, never a part.

    Raises:
        RunError: If the folder is read-only, full or gone; the old file is not lost.
    """
    with FileReplacement(path) as file:
        file.write(data)


class FileReplacement:
    """A file that replaces another one at the end of a `with` block.

    Until then, and if the block ends with an error or an interrupt, the old file is untouched. A
    link is followed; a device or a pipe is written to directly.

    The old file is moved to `previous`, in the same folder; None to replace it.

    Raises:
        RunError: From any method, if the file cannot be written.
    """

    def __init__(self, path: Path, *, previous: Path | None = None) -> None:
        self._path, self._previous = path, previous
        self._is_special = path.exists() and not path.is_file()
        # The links in /proc to pipes resolve to names that do not exist.
        follows = path.is_symlink() and not self._is_special
        self._target = Path(os.path.realpath(path)) if follows else path
        self._temporary = self._target if self._is_special else _temporary_of(self._target)

    def __enter__(self) -> FileReplacement:
        """Open the temporary file, in the folder of the final one."""
        try:
            self._file = self._temporary.open("wb")
        except OSError as error:
            raise cannot_write(self._path, error) from error
        return self

    def write(self, data: bytes | memoryview) -> None:
        """Append data."""
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
        """Rename the temporary file, or remove it after an error."""
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
            _back_up(self._target, self._previous)
        replace_path(self._temporary, self._target)
        sync_folder(self._target.parent)


def _temporary_of(path: Path) -> Path:
    """Return the path of a file while it is written; short enough for any file system."""
    name = path.name
    if len(os.fsencode(name)) > LONG_NAME:
        name = name[:20] + hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
    return path.with_name(f".{name}.{os.getpid()}{TEMPORARY}")


def _back_up(path: Path, previous: Path) -> None:
    """Make `previous` a hard link to `path`, or move it there on a file system without links."""
    link = previous.with_name(f".{previous.name}.{os.getpid()}{TEMPORARY}")
    try:
        link.unlink(missing_ok=True)
        link.hardlink_to(path)
    except OSError:
        replace_path(path, previous)
    else:
        replace_path(link, previous)


def replace_path(source: Path, target: Path) -> None:
    """Rename a file or folder; a file at `target` is replaced.

    Windows refuses that while another program (a virus scanner, an indexer, a viewer) has one of
    them open, usually for a moment only: there it is retried for a second.

    Raises:
        OSError: If it fails.
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


def rename_to_free(source: Path, target: Path) -> None:
    """Rename a file; unlike `Path.rename`, never over another one, even if that appears just now.

    Raises:
        FileExistsError: If there is anything at `target`, also the same file.
        OSError: If it cannot be renamed.
    """
    try:
        if source.is_symlink():
            raise OSError("macOS would link to the file that it points to")
        target.hardlink_to(source)
    except FileExistsError:
        raise
    except OSError as error:  # a file system without links: the best it has
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target) from error
        source.rename(target)
        return
    try:
        source.unlink()
    except OSError:  # its folder is read-only
        target.unlink()
        raise


def cannot_write(path: Path, error: OSError) -> RunError:
    """Return the error for a file that could not be written, with a hint by the cause."""
    expected, found = f"to write {path.name} into '{path.parent}'", error.strerror or str(error)
    hint = "another folder by --out or --output"
    if error.errno in DISK_FULL:
        free = _free_bytes(path.parent)
        expected = f"enough disk space for {path.name} in '{path.parent}'"
        found += "" if free is None else f", {free:,} bytes free"
        hint = f"free some disk space, or {hint}"
    elif error.errno in NOT_ALLOWED:
        hint = f"write permission, or {hint}"
    elif error.errno == errno.ENOENT and not path.parent.is_dir():
        expected = f"the folder '{path.parent}', to write {path.name} into it"
        found = "it is gone: deleted, moved, or on a disk that was removed"
    return RunError(expected, found=f"{found} (earlier files are not lost)", hint=hint)


def check_can_write(path: Path) -> None:
    """Raise a RunError if a file cannot be created in its folder, for a check before long work.

    An empty temporary file is created there and removed; if there is no such folder, in the nearest
    one above it.
    """
    if path.is_dir():
        raise RunError(f"a file to write, not '{path}'", found="a folder", hint="a file name in it")
    if path.exists() and not path.is_file():  # a device or a pipe
        return
    target = Path(os.path.realpath(path)) if path.is_symlink() else path
    folder = target.parent
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    temporary = _temporary_of(folder / target.name)
    try:
        temporary.touch()
        temporary.unlink()
    except OSError as error:
        raise cannot_write(folder / path.name, error) from error


def check_free_space(folder: Path, needed: int, what: str) -> None:
    """Raise a RunError if a disk has fewer free bytes than needed.

    `folder` is an existing one on the disk; `what` are the files, for the error.
    """
    free = _free_bytes(folder)
    if free is not None and free < needed:
        raise RunError(
            f"{needed / 1e6:,.1f} MB free in '{folder}' for {what}",
            found=f"{free / 1e6:,.1f} MB free on that disk",
            hint="free some disk space, another folder by --out, or a smaller --model",
        )


def _free_bytes(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None


def folder_bytes(folder: Path | str) -> int:
    """Return the bytes of all files in a folder that can be read; links are not followed."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it may be renamed just now
                size += Path(parent, name).lstat().st_size
    return size


def numbered_path(path: Path, number: int) -> Path:
    """Return a path with a number in its name, from 2, shortened if need be; for 1 the path itself.

    >>> numbered_path(Path("a.jpg"), 2).name, len(numbered_path(Path(255 * "a"), 12).name)
    ('a-2.jpg', 255)
    """
    if number == 1:
        return path
    stem, ending = path.stem, f"-{number}{path.suffix}"
    while stem and len(os.fsencode(stem + ending)) > NAME_BYTES:
        stem = stem[:-1]
    return path.with_name(stem + ending)


def file_digest(path: Path) -> str:
    """Return the hexadecimal sha256 of a small file; an empty text if it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def remove_file(path: Path) -> None:
    """Remove a file, if it exists.

    Raises:
        RunError: If it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(path, error) from error


def remove_temporary_files(folder: Path) -> None:
    """Remove the temporary files of killed processes; no other process may write to the folder."""
    for path in folder.rglob(f".*{TEMPORARY}"):
        with suppress(OSError):
            path.unlink()


def write_text(path: Path, text: str) -> None:
    """Write `text` as by `to_utf8`; see `write_bytes`."""
    write_bytes(path, to_utf8(text))


def append_line(path: Path, line: str) -> None:
    """Append a line of ASCII to a log; a process that is killed may leave a part of it."""
    with path.open("a", encoding="ascii") as file:
        file.write(line + "\n")


def to_utf8(text: str) -> bytes:
    r"""Encode text as UTF-8; lone surrogates become the bytes they represent, others escapes.

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


def json_text(value: Any, *, indent: int | None = None) -> str:
    """Return JSON, on one line by default; escaped only if a lone surrogate requires it.

    Numbers that JSON does not have, NaN and infinities, become null.
    """
    try:
        text = json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)
    except ValueError:
        value = json.loads(json.dumps(value), parse_constant=lambda _: None)
        text = json.dumps(value, ensure_ascii=False, indent=indent)
    has_surrogate = any("\ud800" <= character <= "\udfff" for character in text)
    return json.dumps(value, indent=indent) if has_surrogate else text


def to_json(value: Any) -> str:
    """Return indented JSON as by `json_text`, with a line break at its end."""
    return json_text(value, indent=2) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; see `write_bytes`."""
    write_text(path, to_json(value))


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    """Return rows as CSV text, quoted where necessary, with line feeds."""
    buffer = io.StringIO(newline="")
    plain = csv.writer(buffer, lineterminator="\n")
    quoted = csv.writer(buffer, lineterminator="\n", quoting=csv.QUOTE_ALL)
    for row in rows:  # a carriage return ends a row when read, but is not quoted by default
        has_return = any(isinstance(field, str) and "\r" in field for field in row)
        (quoted if has_return else plain).writerow(row)
    return buffer.getvalue()


def spreadsheet_safe(name: str) -> str:
    """Return a name with an apostrophe in front if a spreadsheet would take it for a formula.

    For tables that people open. Those that programs read (split.csv, skipped.csv, predictions.csv,
    the output of predict) have the unchanged names.
    """
    return f"'{name}" if name.startswith(("=", "+", "-", "@", "\t", "\r")) else name


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a CSV file with a header line; see `write_bytes`."""
    write_text(path, csv_text([header]) + csv_text(rows))


def read_csv(path: Path, columns: Sequence[str] = ()) -> list[Mapping[str, str]]:
    """Read the rows of a CSV file written by `write_csv`, each by column name.

    `columns` are those that are required.

    Raises:
        RunError: If it cannot be read, or is not such a table.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            rows: list[Mapping[str, str]] = list(reader)
            lacking = [name for name in columns if name not in (reader.fieldnames or ())]
            if lacking:
                raise ValueError(f"no column {', '.join(lacking)}")
        if any(None in row or None in row.values() for row in rows):
            raise ValueError("rows of different lengths")
    except (OSError, ValueError, csv.Error) as error:
        raise _unreadable(f"a table at '{path}'", error) from error
    return rows


def read_json(path: Path) -> dict[str, Any]:
    """Read the object in a JSON file written by `write_json`.

    Raises:
        RunError: If it cannot be read, or is not a JSON object.
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
        hint="another path; or, for a file of a run, restore it or train again",
    )


def natural_key(name: str) -> tuple[list[str | int], str]:
    """Return a sort key by which numbers in names are in numerical order.

    >>> sorted(["IMG 10", "img 3", "IMG 2"], key=natural_key)
    ['IMG 2', 'img 3', 'IMG 10']
    """
    pieces = re.split(r"([0-9]+)", name)  # text and digits by turns
    return [int(one) if number % 2 else one.casefold() for number, one in enumerate(pieces)], name


def decode_text(data: bytes) -> str:
    """Decode a file as UTF-8 or, by its byte order mark, as UTF-16.

    Raises:
        UnicodeDecodeError: If it is neither.
    """
    is_utf16 = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    return data.decode("utf-16" if is_utf16 else "utf-8-sig")


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system supports it."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
