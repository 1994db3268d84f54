"""Legacy spellings: the flags of older training scripts, translated."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from swinclf.config import Compile
from swinclf.path_patterns import expand_home

_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_SWITCHES = ("--freeze-layers", "--pretrained")
# Formats of a result; predictions and exports have others.
_FORMATS: Mapping[str, Sequence[str]] = {"json": ["--json"], "table": []}
# Options that may be given without a value: what it is then, and whether a word is a value.
_DEFAULTED: Mapping[str, tuple[str, Callable[[str], bool]]] = {
    "--reject": ("0.95", lambda word: word.replace(".", "", 1).isdecimal()),
    "--compile": ("on", lambda word: word in list(Compile)),
}
_OPTIONAL = {"--model-name": "--model", "--weights": "--weights"}  # '' used to mean none
_RANDOM = "--weights '' means random weights, as in the old scripts; now spelled --no-pretrained"


def modernise(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Rewrite legacy spellings in a command line; return it with notes for the user.

    The arguments are those after the program's name.

    >>> modernise(["train", "--data-path", "flowers", "--batch_size=8", "--freeze-layers", "False"])
    (['train', 'flowers', '--batch-size=8', '--no-freeze-layers'], [])
    """
    modern: list[str] = []
    notes: list[str] = []
    rest = list(arguments)
    command = next((word for word in rest if not word.startswith("-")), "")
    is_training, has_formats = command == "train", command in ("predict", "export")
    is_new = is_training and not any(one.startswith(("--resume", "--pretrained")) for one in rest)
    while rest:
        word = rest.pop(0)
        if word == "--":  # after it, nothing is an option
            return [*modern, word, *rest], notes
        if not word.startswith("--"):
            modern.append(word)
            continue
        flag, has_value, value = word.partition("=")
        flag = flag.replace("_", "-")
        if flag == "--data-path" and (has_value or rest):
            modern.append(value if has_value else _take(rest))
        elif flag == "--num-classes":  # `train` compares it with the folders
            count = value if has_value else _take(rest)
            notes.append(f"{flag} {count} is not needed: the class folders are counted")
            if is_training and count.isdecimal():
                modern.append(f"{flag}={count}")
        elif (
            flag in _SWITCHES
            and (stated := value if has_value else _peek(rest)).lower() in _BOOLEANS
        ):
            if not has_value:
                rest.pop(0)
            modern.append(flag if _BOOLEANS[stated.lower()] else f"--no-{flag[2:]}")
        elif flag in _DEFAULTED and not has_value and not _DEFAULTED[flag][1](_peek(rest)):
            modern.append(f"{flag}={_DEFAULTED[flag][0]}")
        elif (
            flag == "--format"
            and not has_formats
            and (wanted := value if has_value else _peek(rest)) in _FORMATS
        ):
            if not has_value:
                rest.pop(0)
            modern += _FORMATS[wanted]
        elif flag in _OPTIONAL and (has_value or rest):
            given = value if has_value else _take(rest)
            if flag == "--weights" and not given and is_new:
                notes.append(_RANDOM)
                modern.append("--weights=")
            modern += [_OPTIONAL[flag], given] if given else []
        else:
            modern.append(f"{flag}={value}" if has_value else flag)
    return modern, notes


def expand_home_in(word: str) -> str:
    """Expand `~` in a word of the command line, also after `--flag=`.

    Shells expand plain words, but not quoted ones, nor (most of them) after `=`.
    """
    flag, has_value, value = word.partition("=")
    if word.startswith("--") and has_value:
        return f"{flag}={expand_home(value)}"
    return expand_home(word)


def _take(rest: list[str]) -> str:
    return rest.pop(0) if rest else ""


def _peek(rest: Sequence[str]) -> str:
    return rest[0] if rest else ""
