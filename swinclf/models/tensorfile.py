"""Tensor files: safetensors with a checksum, written atomically.

safetensors itself accepts a file with corrupted data; the checksum in the metadata detects it. Its
own writer copies all tensors before any is on the disk (401 MiB more memory for 400 MiB of tensors
with safetensors 0.6.2 and 0.7.0, none with 0.8.0, by `ru_maxrss` before and after
`safetensors.torch.save_file({str(i): torch.rand(1024, 1024) for i in range(100)}, path)`), and
writes to a path, not to a `FileReplacement`; here tensors are written without a copy.

Source: the documented layout of safetensors: 8 bytes of length, a header in JSON, the data.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from swinclf.errors import WeightsError
from swinclf.files import FileReplacement

CHECKSUM = "sha256"
DTYPES = {  # widest first, so that each tensor is aligned
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str],
    *,
    previous: Path | None = None,
) -> None:
    """Write tensors and metadata with a checksum of both.

    The tensors are of the types in `DTYPES`. `previous` is a backup path for the present file at
    `path`.

    Raises:
        RunError: If the file cannot be written; the present one is then preserved.
    """
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    signed = {**metadata, CHECKSUM: tensors_digest(whole, metadata)}
    with FileReplacement(path, previous=previous) as file:
        for piece in _pieces(whole, signed):
            file.write(piece)


def _pieces(
    tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]
) -> Iterator[bytes | memoryview]:
    """Yield the content of a safetensors file, in the order of the library's writer."""
    order = list(DTYPES)
    names = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + tensors[name].nbytes
        header[name] = {
            "dtype": DTYPES[tensors[name].dtype],
            "shape": list(tensors[name].shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little")
    yield text
    yield from (_bytes_of(tensors[name]) for name in names)


def _bytes_of(tensor: torch.Tensor) -> bytes | memoryview:
    """Return a tensor's memory, without a copy if it is contiguous."""
    if not tensor.numel():
        return b""
    raw: memoryview = tensor.detach().reshape(-1).view(torch.uint8).numpy().data
    return raw


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata, from the file's header.

    Raises:
        WeightsError: If it is not a safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise safetensors_error(path, error) from error


def read_tensors(
    path: Path, *, signed: bool = False
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Return tensors and metadata, after verifying the checksum if there is one.

    `signed` is whether a checksum is required, as in every file of `write_tensors`.

    Raises:
        WeightsError: If it is not a safetensors file, or its content has changed.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            # Copies: the library's tensors map the file, which on Windows cannot be replaced or
            # deleted while one of them is in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise safetensors_error(path, error) from error
    wanted = metadata.pop(CHECKSUM, None)
    if wanted is None and signed:
        raise WeightsError(
            f"the checksum that '{path}' was written with",
            found="none: the file is damaged",
            hint="copy the file again from its source, or train again",
        )
    if wanted is not None and (found := tensors_digest(tensors, metadata)) != wanted:
        raise WeightsError(
            f"the content that was written to '{path}' (sha256 {wanted[:12]})",
            found=f"another content (sha256 {found[:12]}): the file is damaged",
            hint="copy the file again from its source, or train again",
        )
    return tensors, metadata


def safetensors_error(path: Path, error: Exception) -> WeightsError:
    """Return the error for a file that is damaged or not a safetensors file."""
    try:
        with path.open("rb") as file:  # the library does not report why it cannot open a file
            found = f"{error} ({os.fstat(file.fileno()).st_size:,} bytes)"
    except FileNotFoundError:
        found = "no such file"
    except OSError as reason:
        found = reason.strerror or str(reason)
    return WeightsError(
        f"a safetensors file at '{path}'",
        found=found,
        hint="a run folder or its model.safetensors; "
        "files of other programs: swinclf train --weights FILE",
    )


def tensors_digest(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    """Return the hexadecimal sha256 of the metadata and every tensor's name, type, shape, bytes."""
    digest = hashlib.sha256(json.dumps(dict(sorted(metadata.items()))).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes_of(tensor))
    return digest.hexdigest()
