"""The program without its commands, and how every ending of one becomes an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from swinclf import __version__
from swinclf.cli import console
from swinclf.cli.streams import flush_data, output_failure, write_data
from swinclf.cli.usage import UsageError, usage_error
from swinclf.device import sigterm_as_exception
from swinclf.errors import ExitCode, Interrupted, SwinclfError
from swinclf.terminal import discard

P = ParamSpec("P")

app = typer.Typer(
    name="swinclf",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Transfer learning on a folder of images: train, evaluate, predict, export.",
    epilog="A first try, offline, in a minute: swinclf demo",
    context_settings={"help_option_names": ["-h", "--help"]},
)
shows_tracebacks = False  # set by --debug


def run(arguments: Sequence[str]) -> int:
    """Run the program; return its exit code.

    Args:
        arguments: The command line after the program's name, in today's spelling.
    """
    try:
        code = app(args=list(arguments), prog_name="swinclf", standalone_mode=False)
        flush_data()
        return int(code or 0)
    except (BrokenPipeError, SystemExit):  # the second is what the parser makes of the first
        discard(sys.stdout)
        return ExitCode.OK
    except SwinclfError as error:
        console.say_error(error)
        return error.exit_code
    except UsageError as error:
        if not arguments:  # the parser's way to show the help
            console.say(str(error))
            return ExitCode.USAGE
        console.say_error(usage_error(error, arguments))
        return ExitCode.USAGE
    except OSError as error:  # help goes to standard output and touches no file
        console.say_error(output_failure(error))
        return ExitCode.FAILED


def guarded(command: Callable[P, ExitCode | None]) -> Callable[P, None]:
    """Makes every ending of a command an exit code, and every error three lines."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with sigterm_as_exception():
                code = command(*args, **kwargs) or ExitCode.OK
                flush_data()
        except SwinclfError as error:
            _show_traceback()
            console.say_error(error)
            code = error.exit_code
        except Interrupted as interrupted:
            resume = f": {interrupted.resume}" if interrupted.resume else ""
            saved = f"everything is saved{resume}" if resume else "there was nothing to save yet"
            console.say(f"stopped; {saved}")
            code = interrupted.exit_code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:  # the reader of our output has gone, as `head` does
            discard(sys.stdout)
            code = ExitCode.OK
        except SystemExit:  # what Rich makes of a broken pipe under standard error
            code = ExitCode.FAILED
        except typer.Exit:
            raise
        except OSError as error:
            _show_traceback()
            console.say_error(_refused_by_system(error))
            code = ExitCode.FAILED
        except Exception as error:
            _show_traceback()
            console.say_error(_unforeseen(error))
            code = ExitCode.FAILED
        raise typer.Exit(int(code))

    return run


def _refused_by_system(error: OSError) -> SwinclfError:
    return SwinclfError(
        f"the system to give access to '{error.filename or 'a file'}'",
        found=error.strerror or str(error),
        hint="another path, or the same command with --debug to see where it happens",
    )


def _unforeseen(error: Exception) -> SwinclfError:
    text = str(error).strip().splitlines()
    return SwinclfError(
        "nothing of this kind to go wrong: this is a defect of swinclf",
        found=f"{type(error).__name__}: {text[0] if text else ''}",
        hint="the same command with --debug, and report what it prints",
    )


def _show_traceback() -> None:
    if shows_tracebacks:
        traceback.print_exc()


def _print_version(wanted: bool) -> None:
    if wanted:
        write_data(f"swinclf {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
) -> None:
    del version, debug  # both are dealt with before a command runs
