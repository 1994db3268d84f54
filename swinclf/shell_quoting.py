"""Commands that the user is to type, quoted for the shells of the system."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_IS_WINDOWS = os.name == "nt"


def command_line(words: Sequence[str]) -> str:
    """Return words as a command for the system's shell."""
    if not _IS_WINDOWS:
        return shlex.join(words)
    # cmd.exe and PowerShell both accept double quotes; cmd.exe does not accept single ones
    plain = re.compile(r"[\w+=:./\\-]+")  # no "," or "@", operators of PowerShell
    doubled = (word.replace('"', '""') for word in words)
    return " ".join(word if plain.fullmatch(word) else f'"{word}"' for word in doubled)


def quoted(path: Path | str) -> str:
    """Return a path in quotes, for a command in a sentence that the user is to type."""
    if _IS_WINDOWS:
        return f'"{path}"'.replace('\\"', '\\\\"')  # of D:\
    return "'" + str(path).replace("'", "'\"'\"'") + "'"
