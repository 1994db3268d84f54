"""On-disk cache of features, shared by trainings, in the user's cache folder.

One folder per configuration, named by a digest of everything but the image that determines a
feature; in it, files of features by image content. Files are written atomically and never changed,
so that trainings may run in parallel and be killed at any time; a file is verified at first use,
and deleted if damaged. Eviction is by last use, but a training never evicts files of its own
configuration while it runs: it may need them next. Any other failure is reported once, and the
training continues without the cache.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from swinclf.errors import RunError, SwinclfError
from swinclf.models.freeze import classifier_parameters
from swinclf.models.tensorfile import read_tensors, tensors_digest, write_tensors

CACHE_VARIABLE = "SWINCLF_CACHE_DIR"
LAYOUT = "features-1"  # of files and keys; another layout is another folder
UNIT_BYTES = 17  # a content digest and a byte for the view
FLUSH_ROWS, FLUSH_S = 4096, 60.0  # at most what a killed process loses
HEADER_BYTES = 1024  # more than a file has besides units and features
STALE_TMP_S = 3600.0  # older temporary files belong to no running process


class FeatureCache:
    """Features by image content and view, for one configuration.

    The folder `root` is made at the first write. `key` is that of the configuration (`cache_key`),
    `dtype` the type of the stored features. Together all files have at most `limit_bytes`; 0 stores
    nothing. `note` is called, once, with why nothing can be stored, or not everything.
    """

    def __init__(
        self,
        root: Path,
        key: str,
        *,
        limit_bytes: int,
        note: Callable[[str], None],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._root, self._folder = root / LAYOUT, root / LAYOUT / key
        self._limit_bytes, self._note = limit_bytes, note
        self._can_write, self._dtype = limit_bytes > 0, dtype
        self._lock = threading.Lock()
        self._files = [_File(path) for path in sorted(self._folder.glob("*.safetensors"))]
        self._file_of = {unit: file for file in self._files for unit in file.units()}
        self._written: set[Path] = set()
        self._is_full, self._unstored_bytes = False, 0
        self._units: list[bytes] = []
        self._rows: list[torch.Tensor] = []
        self._flushed_at = time.monotonic()

    def get(self, unit: bytes) -> torch.Tensor | None:
        """Return the (D,) feature of a unit, from a verified file; None if it is not cached.

        Thread-safe.
        """
        with self._lock:
            file = self._file_of.get(unit)
            return file.feature(unit) if file else None

    def put(self, units: Sequence[bytes], features: torch.Tensor) -> None:
        """Store (N, D) features of N units."""
        if not self._can_write:
            return
        if self._is_full:
            self._unstored_bytes += _stored_bytes(len(units), features.shape[1], self._dtype)
            return
        self._units += units
        self._rows.append(features.to(self._dtype))
        if len(self._units) >= FLUSH_ROWS or time.monotonic() - self._flushed_at > FLUSH_S:
            self._flush()

    def close(self) -> None:
        """Write new features, mark the files used, and evict old ones."""
        self._flush()
        used = {file.path for file in self._files if file.was_used} | self._written
        for file in self._files:
            file.mark_used()
        self._files, self._file_of = [], {}
        if self._is_full:  # room for the next training, instead of files that this one did not use
            evict_files(self._root, self._limit_bytes - self._unstored_bytes, spare=used)
            needed = _bytes_of(used) + self._unstored_bytes
            if needed > self._limit_bytes:
                gib = math.ceil(needed / 1024**3 * 10) / 10
                self._note(
                    f"the features need {needed / 1e9:,.1f} GB, of which the cache stores "
                    f"{self._limit_bytes / 1e9:,.1f} GB: --cache-gib {gib} stores them all"
                )
        evict_files(self._root, self._limit_bytes)

    def _flush(self) -> None:
        units, rows = self._units, self._rows
        self._units, self._rows, self._flushed_at = [], [], time.monotonic()
        if not units or not self._can_write:
            return
        for file in self._files:
            file.mark_used()  # in case that this process is killed
        features = torch.cat(rows)
        own = {file.path for file in self._files} | self._written
        size = _stored_bytes(len(units), features.shape[1], self._dtype)
        if _bytes_of(own) + size + HEADER_BYTES > self._limit_bytes:
            self._is_full, self._unstored_bytes = True, size
            return
        path = self._folder / f"{time.time_ns():020d}-{secrets.token_hex(8)}.safetensors"
        data = torch.frombuffer(bytearray(b"".join(units)), dtype=torch.uint8)
        tensors = {"units": data.view(-1, UNIT_BYTES), "features": features}
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_tensors(path, tensors, {"layout": LAYOUT})
            self._written.add(path)
            evict_files(self._root, self._limit_bytes, spare=own | {path})
        except (OSError, RunError) as error:
            self._can_write = False
            why = error.found if isinstance(error, RunError) else error.strerror or str(error)
            self._note(f"cannot cache features for the next training in '{self._root}': {why}")


class _File:
    """One file of the cache, loaded at its first use."""

    def __init__(self, path: Path) -> None:
        self.path, self.was_used = path, False
        self._row_of: dict[bytes, int] = {}
        self._features: torch.Tensor | None = None
        self._hits = 0

    def units(self) -> Mapping[bytes, int]:
        """Return the row of each unit, unverified."""
        try:
            with safe_open(self.path, framework="pt") as file:
                data = file.get_tensor("units").numpy().tobytes()
        except Exception:  # a damaged file may raise anything
            self._delete()
            return {}
        self._row_of = {
            data[start : start + UNIT_BYTES]: row
            for row, start in enumerate(range(0, len(data), UNIT_BYTES))
        }
        return self._row_of

    def feature(self, unit: bytes) -> torch.Tensor | None:
        """Return the feature of a unit; None if the file turns out to be damaged."""
        if self._features is None and self._row_of:
            try:
                tensors, _ = read_tensors(self.path)
                self._features = tensors["features"]
            except (SwinclfError, OSError, KeyError, ValueError):
                self._delete()
                self._row_of = {}
        row = self._row_of.get(unit)
        if row is None or self._features is None:
            return None
        found = self._features[row].clone()
        self._hits, self.was_used = self._hits + 1, True
        if self._hits == len(self._row_of):  # loaded again if need be
            self._hits, self._features = 0, None
        return found

    def mark_used(self) -> None:
        """Set the time of last use, if it was used."""
        if self.was_used:
            with suppress(OSError):
                os.utime(self.path)

    def _delete(self) -> None:
        with suppress(OSError):
            self.path.unlink()


def evict_files(root: Path, limit_bytes: int, *, spare: Collection[Path] = ()) -> None:
    """Delete the least recently used files below `root` until all together are within the limit.

    Those of `spare` are counted, but not deleted.
    """
    files = []
    for path in root.glob("*/*"):
        with suppress(OSError):  # another training may be evicting, too
            status = path.stat()
            if path.name.endswith(".tmp"):
                if time.time() - status.st_mtime > STALE_TMP_S:
                    path.unlink()
            else:
                files.append((status.st_mtime_ns, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= limit_bytes:
            break
        if path in spare:
            continue
        with suppress(OSError):
            path.unlink()
            total -= size


def _stored_bytes(units: int, numbers: int, dtype: torch.dtype) -> int:
    """Return the size of units, each with a feature of so many numbers, in a file."""
    return units * (UNIT_BYTES + numbers * dtype.itemsize)


def _bytes_of(paths: Collection[Path]) -> int:
    """Return the size of those files that still exist."""
    size = 0
    for path in paths:
        with suppress(OSError):
            size += path.stat().st_size
    return size


def cache_folder() -> Path | None:
    """Return the user's cache folder; None if there is no home folder.

    The environment variable `SWINCLF_CACHE_DIR`, else `swinclf` in XDG_CACHE_HOME or in the
    system's cache folder.
    """
    if own := os.environ.get(CACHE_VARIABLE):
        return Path(own).absolute()
    xdg = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if xdg.is_absolute():
        return xdg / "swinclf"
    try:
        home = Path.home()
    except RuntimeError:
        return None
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or home / "AppData/Local") / "swinclf" / "Cache"
    caches = "Library/Caches" if sys.platform == "darwin" else ".cache"
    return home / caches / "swinclf"


def cache_key(configuration: Mapping[str, object]) -> str:
    """Return the digest of a configuration: everything but the image that determines a feature.

    Its values are JSON values.
    """
    text = json.dumps(configuration, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def weights_digest(network: nn.Module) -> str:
    """Return the digest of all weights and buffers but the classifier's."""
    head = {id(parameter) for parameter in classifier_parameters(network)}
    weights = network.state_dict(keep_vars=True).items()
    return tensors_digest({name: one.cpu() for name, one in weights if id(one) not in head}, {})
