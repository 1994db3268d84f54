"""train and demo: the commands that create a run.

A command is imported when it is called: torch takes seconds to import, and --help must not.
"""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from swinclf.cli import console, training_tables
from swinclf.cli.options import JsonOption, add_setting_options, complete_config, output_option
from swinclf.cli.streams import write_data
from swinclf.config import MOVABLE
from swinclf.errors import ConfigError, ExitCode
from swinclf.files import to_json
from swinclf.reporter import Reporter
from swinclf.run_folder import RunFolder, find_run
from swinclf.settings import Settings, gather_settings, read_budget
from swinclf.terminal import ConsoleReporter, Verbosity

ResumeOption = Annotated[
    Path | None, typer.Option("--resume", metavar="RUN", help="Resume an interrupted run.")
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Settings file, or textbook-cifar10.",
        autocompletion=complete_config,
    ),
]
BudgetOption = Annotated[
    str | None, typer.Option("--budget", metavar="TIME", help="Take at most 90s, 10m or 1h.")
]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print plan, time and memory; stop.")]
QuietOption = Annotated[bool, output_option("--quiet", help="Print warnings and the result only.")]
VerboseOption = Annotated[bool, output_option("--verbose", help="Print all settings and reasons.")]
OpenOption = Annotated[bool, output_option("--open", help="Open the report in the browser.")]
ClassCountOption = Annotated[int | None, typer.Option("--num-classes", hidden=True)]


@add_setting_options
def train_command(
    flags: dict[str, Any],
    *,
    resume: ResumeOption = None,
    config: ConfigOption = None,
    budget: BudgetOption = None,
    dry_run: DryRunOption = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
    json: JsonOption = False,
    opens_report: OpenOption = False,
    num_classes: ClassCountOption = None,
) -> ExitCode:
    """Train a classifier on a folder of class folders."""
    from swinclf.commands.train import train

    reporter = ConsoleReporter(_verbosity(quiet=quiet, verbose=verbose or dry_run))
    given = {name: value for name, value in flags.items() if value is not None}
    settings, run = _resolve_settings(given, config, resume)
    budget_s = None if budget is None else read_budget(budget)
    if run is not None and (budget_s is not None or dry_run):
        raise ConfigError(
            "--resume alone: a run is resumed with its original settings",
            found="--dry-run" if dry_run else "--budget",
            hint=f"swinclf train --resume '{resume}'",
        )
    if dry_run:
        _print_forecast(settings, reporter, budget_s, as_json=json)
        return ExitCode.OK
    done = train(settings, report=reporter, resume=run, num_classes=num_classes, budget_s=budget_s)
    write_data(to_json(done.to_dict()) if json else f"{done.folder.path}\n")
    console.print_box(*training_tables.training_summary(done))
    console.print_line(training_tables.next_steps(done))
    if opens_report:
        _open(done.path / "report.html")
    if done.skipped:
        return ExitCode.FAILED if settings.config.strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def _print_forecast(
    settings: Settings, reporter: Reporter, budget_s: float | None, *, as_json: bool
) -> None:
    """Print the plan of a training and its expected cost."""
    from swinclf.commands.train import forecast_training

    plan, cost = forecast_training(settings, report=reporter, budget_s=budget_s)
    if as_json:
        write_data(to_json({**plan.to_dict(), "forecast": cost.to_dict()}))
    console.print_box("plan", training_tables.forecast_text(plan, cost))


def _verbosity(*, quiet: bool, verbose: bool) -> Verbosity:
    if quiet and verbose:
        raise ConfigError(
            "--quiet or --verbose, not both", found="both", hint="swinclf train DATA --verbose"
        )
    return Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL


def _open(page: Path) -> None:
    """Open a page in the browser."""
    if not webbrowser.open(page.resolve().as_uri()):
        console.print_line(f"no browser can be started: open {page} yourself")


def demo_command(
    output: Annotated[
        Path,
        typer.Option("--output", metavar="DIR", help="Folder for the sample dataset and the run."),
    ] = Path("swinclf-demo"),
    as_json: JsonOption = False,
) -> None:
    """Train, evaluate, predict and export on sample data, offline."""
    from swinclf.demo import demo

    run = demo(output, report=ConsoleReporter(), say=console.print_line)
    if as_json:
        write_data(to_json(run.to_dict()))


def _resolve_settings(
    given: Mapping[str, Any], config: Path | None, resume: Path | None
) -> tuple[Settings, RunFolder | None]:
    """Return the settings of a new or resumed training, and the folder of a resumed one."""
    if resume is None:
        settings = gather_settings(given, config)
        if not settings.config.data:
            raise ConfigError(
                "a folder of class folders to train on",
                found="none",
                hint="swinclf train DATA, or for an example: swinclf demo",
            )
        return settings, None
    from swinclf.pipeline.resume import resume_settings

    hint = f"swinclf train --resume '{resume}'"
    changed = [name for name in given if name not in MOVABLE]
    if changed or config is not None:
        raise ConfigError(
            "--resume alone (or with DATA, --val, --weights, --workers, --teacher, --unlabelled): "
            "a run is resumed with its original settings",
            found=", ".join(f"--{name.replace('_', '-')}" for name in changed) or "--config",
            hint=hint,
        )
    run = find_run(resume)
    return resume_settings(run, {name: given[name] for name in MOVABLE if name in given}), run
