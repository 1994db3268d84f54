"""Reader of torch.save and torch.jit.save files that executes nothing in them."""

from __future__ import annotations

import argparse
import io
import pickletools
import warnings
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from swinclf.unpickle import (
    Loader,
    Placeholder,
    Reference,
    Storage,
    UnreadablePickleError,
    interpret,
    storage_of,
)

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of torch's format before zip archives
_CERTAIN = 50  # consecutive opcodes that cannot be text by chance
INFLATION = 200  # torch does not compress; a file that inflates more is a decompression bomb


def read_torch(path: Path) -> Any:
    """Read a checkpoint: with torch if it holds only tensors, else with inert placeholders.

    Raises:
        UnreadablePickleError: If it is damaged, cut off, or takes more memory than its size allows.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:  # torch itself unpacks any size
            _check_inflation(archive, path.stat().st_size)
    try:
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises anything: `read_inert` detects damaged files
        return read_inert(path)


def read_inert(path: Path) -> Any:
    """Read a checkpoint of either of torch's formats, or a plain pickle, without torch's reader.

    Raises:
        UnreadablePickleError: If it is damaged or cut off.
    """
    try:
        with path.open("rb") as file:
            if zipfile.is_zipfile(file):
                with zipfile.ZipFile(file) as archive:
                    return _read_zip(archive)
            file.seek(0)
            return _read_legacy(file, path.stat().st_size)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise UnreadablePickleError(str(error)) from error


def _check_inflation(archive: zipfile.ZipFile, file_size: int) -> None:
    """Check that no member of an archive is much larger than its bytes in the file.

    Raises:
        UnreadablePickleError: If one is, or if several share their bytes.
    """
    members = archive.infolist()
    for member in members:
        if member.file_size > INFLATION * member.compress_size + 1024:
            raise UnreadablePickleError(f"{member.filename} is compressed more than weights can be")
    if sum(member.compress_size for member in members) > file_size:
        raise UnreadablePickleError("its members overlap")


def _read_zip(archive: zipfile.ZipFile) -> Any:
    """Read the pickle of an archive, whose storages are separate members."""
    names = archive.namelist()
    pickled = next((name for name in names if name.endswith("data.pkl")), None)
    if pickled is None:
        raise UnreadablePickleError("it has no data.pkl")
    root = pickled.removesuffix("data.pkl")
    order = root + "byteorder"
    if order in names and archive.read(order).strip() == b"big":
        raise UnreadablePickleError("it was written by a big-endian machine")
    loaded: dict[str, Tensor] = {}

    def load(key: str, size: int) -> Tensor:
        if key not in loaded:
            member = archive.getinfo(f"{root}data/{key}")
            if member.file_size < size:
                raise ValueError(f"{member.filename} is cut off")
            loaded[key] = _bytes(bytearray(archive.read(member)))
        return loaded[key]

    with archive.open(pickled) as stream:
        return interpret(io.BytesIO(stream.read()), _storages(load))


def _storages(load: Loader) -> Any:
    """Return a resolver of persistent ids that returns the same storage for the same id."""
    known: dict[tuple[str, str], Storage] = {}

    def resolve(persistent_id: Any) -> Any:
        if persistent_id[0] == "module":  # a class with its source, in the old format
            return persistent_id[1]
        kind = persistent_id[1]
        key = (kind.name if isinstance(kind, Reference) else "", str(persistent_id[2]))
        if key not in known:
            known[key] = storage_of(persistent_id, load)
        return known[key]

    return resolve


def _read_legacy(file: IO[bytes], file_size: int) -> Any:
    """Read torch's format before zip archives, or any pickle without external references."""
    first = interpret(file, _nothing)
    if first != _MAGIC:
        return first
    interpret(file, _nothing)  # the version of the format
    system = interpret(file, _nothing)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise UnreadablePickleError("it was written by a big-endian machine")
    raw: dict[str, bytearray] = {}

    def load(key: str, size: int) -> Tensor:
        if key not in raw and size + sum(map(len, raw.values())) > file_size:
            raise ValueError("the file is cut off")
        raw.setdefault(key, bytearray(size))  # its content follows the pickle
        return _bytes(raw[key])

    content = interpret(file, _storages(load))
    for key in interpret(file, _nothing):
        file.read(8)  # the number of values, which is known from the pickle
        into = raw.get(str(key))
        if into is None or file.readinto(into) != len(into):  # type: ignore[attr-defined]
            raise UnreadablePickleError("it is cut off")
    return content


def _nothing(_: Any) -> Any:
    raise ValueError("an unexpected persistent id")


def _bytes(raw: bytearray) -> Tensor:
    return torch.from_numpy(np.frombuffer(raw, np.uint8)) if raw else torch.zeros(0).byte()


def begins_as_pickle(head: bytes) -> bool:
    """Return whether the first bytes of a file are opcodes of a pickle."""
    if head[:1] == b"\x80":
        return len(head) > 1 and head[1] <= 5
    try:  # protocols 0 and 1 have no magic number
        for count, _ in enumerate(pickletools.genops(io.BytesIO(head))):
            if count >= _CERTAIN:
                return True
    except Exception:  # pickletools raises anything
        return False
    return True


def module_state(module: Placeholder) -> dict[str, Tensor] | None:
    """Return the state dict of a pickled network or TorchScript; None for other objects."""
    if not isinstance(module.state, dict):
        return None
    is_script = module.name.startswith("__torch__.")
    if not is_script and "_modules" not in module.state:
        return None
    found: dict[str, Tensor] = {}
    waiting: list[tuple[str, Placeholder]] = [("", module)]
    seen: set[int] = set()
    while waiting:
        prefix, one = waiting.pop()
        state = one.state if isinstance(one.state, dict) else {}
        if id(one) in seen:
            continue
        seen.add(id(one))
        parts = [state] if is_script else [state.get("_parameters"), state.get("_buffers")]
        skipped = state.get("_non_persistent_buffers_set") or ()
        for part in parts:
            for name, value in part.items() if isinstance(part, dict) else ():
                if isinstance(value, Tensor) and name not in skipped:
                    found[f"{prefix}{name}"] = value
        children = state if is_script else state.get("_modules")
        for name, child in children.items() if isinstance(children, dict) else ():
            if isinstance(child, Placeholder):
                waiting.append((f"{prefix}{name}.", child))
    return found
