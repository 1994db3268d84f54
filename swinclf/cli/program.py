"""The program without its commands; maps every outcome of a command to an exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Annotated, ParamSpec

import typer

from swinclf import __version__
from swinclf.cli import console
from swinclf.cli.help import Program
from swinclf.cli.streams import flush_data, output_failure, write_data
from swinclf.cli.usage import UsageError, usage_error
from swinclf.device import StopFlag
from swinclf.errors import ExitCode, Interrupted, SwinclfError
from swinclf.terminal import discard

P = ParamSpec("P")

app = typer.Typer(
    name="swinclf",
    cls=Program,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Transfer learning on a folder of images: train, evaluate, predict, export.",
    epilog="The options of a command: swinclf COMMAND --help",
    context_settings={"help_option_names": ["-h", "--help"]},
)
shows_tracebacks = False  # set by --debug


def run(arguments: Sequence[str]) -> int:
    """Run the program with arguments in current spelling; return its exit code."""
    try:
        code = app(args=list(arguments), prog_name="swinclf", standalone_mode=False)
        flush_data()
        return int(code or 0)
    except (BrokenPipeError, SystemExit):  # the parser turns the first into the second
        discard(sys.stdout)
        return ExitCode.OK
    except SwinclfError as error:
        console.print_error(error)
        return error.exit_code
    except UsageError as error:
        if not arguments:  # the parser shows its help this way
            console.print_help(str(error))
            return ExitCode.USAGE
        console.print_error(usage_error(error, arguments))
        return ExitCode.USAGE
    except OSError as error:  # from writing help to standard output
        console.print_error(output_failure(error))
        return ExitCode.FAILED


def handle_errors(command: Callable[P, ExitCode | None]) -> Callable[P, None]:
    """Map every outcome of a command to an exit code, and print errors in three lines."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with StopFlag().handling_signals():
                code = command(*args, **kwargs) or ExitCode.OK
                flush_data()
        except SwinclfError as error:
            _show_traceback()
            console.print_error(error)
            code = error.exit_code
        except Interrupted as interrupted:
            saved = ""
            if interrupted.resume is not None:
                saved = "; nothing to resume yet"
            if interrupted.resume:
                saved = f"; progress is saved, resume with: {interrupted.resume}"
            console.print_line(f"interrupted{saved}")
            code = interrupted.exit_code
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except BrokenPipeError:  # the reader has closed the pipe, as `head` does
            discard(sys.stdout)
            code = ExitCode.OK
        except typer.Exit:
            raise
        except OSError as error:
            _show_traceback()
            console.print_error(_refused_by_system(error))
            code = ExitCode.FAILED
        except Exception as error:
            _show_traceback()
            console.print_error(_internal_error(error))
            code = ExitCode.FAILED
        raise typer.Exit(int(code))

    return run


def _refused_by_system(error: OSError) -> SwinclfError:
    return SwinclfError(
        f"access to '{error.filename or 'a file'}'",
        found=error.strerror or str(error),
        hint="another path, or the same command with --debug for the traceback",
    )


def _internal_error(error: Exception) -> SwinclfError:
    text = str(error).strip().splitlines()
    return SwinclfError(
        "no internal error: this is a bug in swinclf",
        found=f"{type(error).__name__}: {text[0] if text else ''}",
        hint="the same command with --debug, and report its output as a bug",
    )


def _show_traceback() -> None:
    if shows_tracebacks:
        traceback.print_exc()


def _print_version(requested: bool) -> None:
    if requested:
        write_data(f"swinclf {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_print_version, is_eager=True, help="Show the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; works in any position.")
    ] = False,
) -> None:
    del version, debug  # both are handled before a command runs
