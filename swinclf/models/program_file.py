"""Reader of exported programs (.pt2) that executes nothing but the network.

torch.export.load unpickles and evaluates what a file says. So the archive is checked first: plain
tensors only, no pickles or compiled libraries, operators of torch's own library, shapes that are
arithmetic, and names that are names.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

METADATA = "metadata.json"
_NAMES = re.compile(
    r"(archive_format|archive_version|byteorder|version|\.data/version|\.data/serialization_id|\.format_version"
    r"|\.storage_alignment|models/model\.json|data/sample_inputs/model\.pt|extra/metadata\.json"
    r"|data/(weights|constants)/(model_\w+_config\.json|(weight|tensor)_\d+))"
)
_TREE = re.compile(
    r'("(type|context|children_spec|null|\[\]|builtins\.(tuple|list|dict))"|null|[][{}:, 1])*'
)
_PLAIN = re.compile(r"[\w.]*")
_PATTERNS = {  # of the texts in a program by their keys, others are plain
    "target": re.compile(
        r"torch\.ops\.aten\.(?!from_file)\w+\.\w+|torch\.sym_\w+|math\.\w+"
        r"|_operator\.(add|sub|mul|truediv|floordiv|mod|neg|getitem|eq|ne|lt|le|gt|ge)"
    ),
    "expr_str": re.compile(
        r"(Symbol\('[su]\d+', positive=True, integer=True\)|[su]\d+|\d+|[-+*/(), <>=]"
        r"|Mul|Add|Integer|Max|Min|Mod|PythonMod|FloorDiv|CleanDiv|CeilDiv)*"
    ),
    "in_spec": _TREE,
    "out_spec": _TREE,
    "torch_version": re.compile(r"[\w.+]*"),
}


class UnsafeProgramError(Exception):
    """An archive with more than a network of torch's own operators."""


def load_program(path: Path) -> tuple[nn.Module, Mapping[str, str]]:
    """Return the network in an exported program, on the CPU, and its metadata.

    Raises:
        UnsafeProgramError: If the archive may execute code.
        Exception: Whatever torch raises for a damaged file.
    """
    _check_archive(path)
    extra: dict[str, Any] = {METADATA: ""}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(path, extra_files=extra)
    metadata = json.loads(extra[METADATA] or "{}")
    return program.module(check_guards=False), {
        str(key): str(value) for key, value in metadata.items()
    }


def _check_archive(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
        for name in names:
            if not _NAMES.fullmatch(name):
                raise UnsafeProgramError(f"an unexpected part, '{name[:80]}'")
        if double := [name for name, count in Counter(names).items() if count > 1]:
            raise UnsafeProgramError(f"two parts of one name, '{double[0]}'")
        for full, name in zip(archive.namelist(), names, strict=True):
            if name.endswith(".pt") and archive.getinfo(full).file_size:
                raise UnsafeProgramError(f"a pickle, '{name}'")
            if name.endswith("_config.json") or name.startswith("models/"):
                _check_values(json.loads(archive.read(full)))


def _check_values(values: Any) -> None:
    """Check operators, shapes, names and the storage of tensors in the JSON of an archive."""
    for key, value in _pairs(values):
        if isinstance(value, str) and not _PATTERNS.get(key, _PLAIN).fullmatch(value):
            raise UnsafeProgramError(f"a {key} that is not of a network, '{value[:80]}'")
        if key == "use_pickle" and value is not False:
            raise UnsafeProgramError("a pickled tensor")
        if key == "guards_code" and value:
            raise UnsafeProgramError("code that checks its inputs")


def _pairs(values: Any) -> Iterator[tuple[str, Any]]:
    """Yield every value with the key of the object that it is in, at any depth."""
    waiting = [("", values)]
    while waiting:
        key, one = waiting.pop()
        yield key, one
        if isinstance(one, dict):
            waiting += one.items()
        elif isinstance(one, list):
            waiting += [(key, inner) for inner in one]
