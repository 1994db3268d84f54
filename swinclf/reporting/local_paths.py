"""Absolute paths in texts: replaced by their last part, as a page may be mailed to others."""

from __future__ import annotations

import re

_DRIVE = r"(?:[A-Za-z]:|\\\\[^\\/\s'\"]+)?"
_WHOLE = re.compile(rf"{_DRIVE}[\\/](?:.*[\\/])?([^\\/]+)[\\/]?", re.DOTALL)
# A quoted path may contain spaces; an unquoted one ends at the first.
_QUOTED = re.compile(rf"""(['"]){_DRIVE}[\\/](?:[^'"\n]*[\\/])?([^'"\n\\/]+)[\\/]?\1""")
_PLAIN = re.compile(rf"""(?<![^\s'"=(\[]){_DRIVE}[\\/](?:[^\\/\s'"]+[\\/])*(?=[^\\/\s'"])""")


def without_folders(text: str) -> str:
    r"""Return a text whose absolute paths have only their last part left.

    >>> without_folders("swinclf train '/home/me/my photos' --val /data/x/val --out runs/a")
    "swinclf train 'my photos' --val val --out runs/a"
    >>> without_folders(r"weights of C:\Users\me\model.safetensors")
    'weights of model.safetensors'
    """
    if whole := _WHOLE.fullmatch(text):
        return whole[1]
    return _PLAIN.sub("", _QUOTED.sub(r"\1\2\1", text))
