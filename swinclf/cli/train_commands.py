"""train and demo: the commands that create a run."""

from __future__ import annotations

import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from swinclf.cli import console
from swinclf.cli.options import JsonOption, add_setting_options, complete_config, output_option
from swinclf.cli.streams import write_data
from swinclf.cli.tables import accuracy_with_interval
from swinclf.config import MOVABLE, TrainConfig
from swinclf.durations import duration_text
from swinclf.errors import ConfigError, ExitCode
from swinclf.files import to_json
from swinclf.reporter import Reporter, format_percent
from swinclf.run_folder import RunFolder, find_run
from swinclf.settings import Settings, gather_settings, read_budget
from swinclf.shell_quoting import command_line, quoted
from swinclf.terminal import ConsoleReporter, Verbosity, wrapped

if TYPE_CHECKING:
    from swinclf.commands.train import Run
    from swinclf.pipeline.forecast import Forecast
    from swinclf.pipeline.plan import Plan

SUMMARY_WIDTH = 74  # columns of a text in a box 80 columns wide

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

    reporter = ConsoleReporter(_verbosity(quiet=quiet, verbose=verbose or (dry_run and not quiet)))
    given = {name: value for name, value in flags.items() if value is not None}
    settings, run = _resolve_settings(given, config, resume)
    budget_s = None if budget is None else read_budget(budget)
    if run is not None and (budget_s is not None or dry_run):
        raise ConfigError(
            "--resume alone: a run is resumed with its original settings",
            found="--dry-run" if dry_run else "--budget",
            hint=f"swinclf train --resume {quoted(str(resume))}",
        )
    if num_classes is not None:
        _check_class_count(num_classes, settings.config, reporter)
    if dry_run:
        _print_forecast(settings, reporter, budget_s, as_json=json)
        return ExitCode.OK
    done = train(settings, report=reporter, resume=run, budget_s=budget_s)
    write_data(to_json(done.to_dict()) if json else f"{done.folder.path}\n")
    console.print_box(*_training_summary(done))
    console.print_line(_next_steps(done))
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
    console.print_box("plan", _forecast_text(plan, cost))


def _verbosity(*, quiet: bool, verbose: bool) -> Verbosity:
    if quiet and verbose:
        raise ConfigError(
            "--quiet or --verbose, not both", found="both", hint="swinclf train DATA --verbose"
        )
    return Verbosity.QUIET if quiet else Verbosity.VERBOSE if verbose else Verbosity.NORMAL


def _check_class_count(expected: int, config: TrainConfig, reporter: Reporter) -> None:
    """Warn of another number of class folders before a training on them begins."""
    from swinclf.data.folder import scan_folder

    classes = scan_folder(Path(config.data), val=Path(config.val) if config.val else None).classes
    if len(classes) != expected:
        names = ", ".join(map(repr, classes[:5])) + (", ..." if len(classes) > 5 else "")
        reporter.warn(
            f"--num-classes {expected}, but the folders hold {len(classes)} classes ({names})"
        )


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

    hint = f"swinclf train --resume {quoted(resume)}"
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


def _training_summary(run: Run) -> tuple[str, str]:
    """Return title and text of the result of a training."""
    from swinclf.metrics import SELECTION_NOTE, describe_split

    metrics = run.metrics
    lines = [
        f"accuracy {accuracy_with_interval(metrics)}",
        f"on {metrics.images:,} {describe_split(metrics.split)}"
        + (" (no validation images)" if metrics.split == "train" else ""),
        f"always answering the largest class: {format_percent(metrics.majority_accuracy)}",
    ]
    if run.epochs and run.probe_accuracy is not None and metrics.split == "val":
        lines.append(f"linear probe, without training epochs: {format_percent(run.probe_accuracy)}")
    lines.append(
        f"balanced accuracy {format_percent(metrics.balanced_accuracy)}, "
        f"macro F1 {format_percent(metrics.macro_f1)}"
    )
    if metrics.split == "val" and run.epochs:
        lines.append(SELECTION_NOTE)
    lines += [f"warning: {text}" for text in run.warnings]
    if run.skipped:
        lines.append(f"{len(run.skipped):,} files skipped: {run.folder.skipped}")
    title = "done, but read the warning" if run.warnings else "done"
    return title, "\n".join(wrapped(line, SUMMARY_WIDTH) for line in lines)


def _forecast_text(plan: Plan, cost: Forecast) -> str:
    """Return the expected time, memory and disk space of a training."""
    config = plan.config
    epochs = f"{config.epochs} epochs" if config.epochs else "linear probe"
    most = "at most " if config.patience else ""
    features = f"features {duration_text(cost.features_s)} (0 once cached), "
    lines = [
        f"time    {most}about {duration_text(cost.seconds)} on {config.device}:",
        f"        {features if cost.features_s else ''}"
        f"{epochs} {duration_text(cost.epochs_s)}, evaluation {duration_text(cost.evaluation_s)}",
        f"disk    {cost.disk_bytes / 1e6:,.0f} MB in {config.out}",
    ]
    if cost.memory_bytes is not None:
        lines.append(f"memory  {cost.memory_bytes / 1e9:.1f} GB, and a cache of decoded images")
    return "\n".join(lines)


def _next_steps(run: Run) -> str:
    """Return the paths of a finished training, and the commands to go on with."""
    held_out = run.metrics.split in ("val", "test")
    path = command_line([str(run.path)])
    lines = [
        f"Run:     {run.path}",
        f"Report:  {run.path / 'report.html'}",
        "",
        "Next steps:",
        f"  swinclf predict IMAGE --run {path}",
        f"  swinclf eval {'' if held_out else 'OTHER '}--run {path}",
        f"  swinclf export --run {path} --format onnx",
    ]
    if run.metrics.split == "val" and run.epochs:
        from swinclf.metrics import UNBIASED_NOTE

        lines += [f"  {UNBIASED_NOTE}:", f"  swinclf eval OTHER --run {path}"]
    return "\n".join(lines)
