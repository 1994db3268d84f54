r"""Usage errors of typer, reworded as expected, found and try."""

from __future__ import annotations

import re
from collections.abc import Sequence

import typer

from swinclf.errors import ConfigError
from swinclf.shell_quoting import command_line

UsageError: type[Exception] = typer.BadParameter.__bases__[0]  # typer has no public name for it

_VALUES = (  # messages of the parser about a value, and what it expects
    (r"valid integer", "a whole number"),
    (r"valid number", "a number"),
    (r"valid boolean", "True or False"),
    (r"greater than or equal to (\S+)", r"a number of at least {0}"),
    (r"less than or equal to (\S+)", r"a number of at most {0}"),
    (r"greater than (\S+)", r"a number above {0}"),
    (r"less than (\S+)", r"a number below {0}"),
    (r"is not one of (.*?)\.?$", "one of {0}"),
)


def usage_error(error: Exception, arguments: Sequence[str]) -> ConfigError:
    """Return a usage error of the parser as an error in three lines.

    The arguments are the command line after the program's name.

    >>> usage_error(UsageError("Got unexpected extra argument(s) (y)"), ["doctor", "y"]).found
    'y'
    """
    message = str(getattr(error, "format_message", error.__str__)())
    context = getattr(error, "ctx", None)
    command = context.command_path if context is not None else "swinclf"
    if context is None and arguments and not arguments[0].startswith("-"):
        command = f"swinclf {arguments[0]}"
    hint = f"{command} --help"
    if match := re.match(r"No such option: (\S+)", message):
        near = getattr(error, "possibilities", None) or ()
        near = [one for one in near if one.startswith(match[1])] or near  # an abbreviated flag
        if near:
            hint = f"did you mean {' or '.join(sorted(near))}? {hint} lists all options"
        return ConfigError(f"an option of '{command}'", found=match[1], hint=hint)
    if match := re.match(r"No such command '(.*?)'\.?(?: Did you mean (.*?)\?)?", message):
        near = re.findall(r"'([^']+)'", message.partition("Did you mean")[2])
        if near:
            hint = f"did you mean {' or '.join(f'{command} {one}' for one in near)}?"
        return ConfigError(f"a command of {command}", found=f"'{match[1]}'", hint=hint)
    if match := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", message):
        return ConfigError(f"no more arguments for '{command}'", found=match[1], hint=hint)
    if match := re.match(r"Missing (?:argument|option|parameter) '(.*)'", message):
        return ConfigError(f"{match[1]} after '{command}'", found="none", hint=hint)
    if match := re.match(r"Invalid value for '(.*?)'.*?: (.*)", message, re.DOTALL):
        return _wrong_value(match[1], match[2], arguments, hint)
    if match := re.match(r"Option '(\S+)' requires an argument", message):
        return ConfigError(f"a value after {match[1]}", found="none", hint=hint)
    if match := re.match(r"Option '(\S+)' does not take a value", message):
        return ConfigError(f"{match[1]} alone, or --no-{match[1][2:]}", found="a value", hint=hint)
    return ConfigError(f"a command line for '{command}'", found=message, hint=hint)


def _wrong_value(flag: str, message: str, arguments: Sequence[str], hint: str) -> ConfigError:
    expected, found = f"a value for {flag}", message
    for pattern, meaning in _VALUES:
        if match := re.search(pattern, message):
            expected = f"{meaning.format(*match.groups())} for {flag}"
            expected = re.sub(r"^one of ('[^']*') for", r"\1 for", expected)
            found = _given(flag, arguments) or message
            break
    return ConfigError(expected, found=found, hint=hint)


def _given(flag: str, arguments: Sequence[str]) -> str:
    """Return the value of a flag on the command line; empty if it is not given."""
    found = ""
    for index, word in enumerate(arguments):
        name, has_value, value = word.partition("=")
        if name == flag and has_value:
            found = value
        elif word == flag and index + 1 < len(arguments):
            found = arguments[index + 1]
    return command_line([found]) if found else ""
