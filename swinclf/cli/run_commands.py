"""runs, compare and relabel: the commands that work on finished runs and their tables."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, cast

import typer

from swinclf.cli import console
from swinclf.cli.columns import output_width
from swinclf.cli.options import JsonOption
from swinclf.cli.run_tables import (
    leaderboard_text,
    runs_text,
    unfinished_text,
)
from swinclf.cli.streams import flush_data, write_data
from swinclf.commands.runs import RunSort, list_runs, removable_run, remove_run
from swinclf.errors import ConfigError, ExitCode
from swinclf.files import to_json
from swinclf.shell_quoting import command_line
from swinclf.terminal import ConsoleReporter, one_line

YesOption = Annotated[bool, typer.Option("--yes/--no-yes", help="Do not ask for confirmation.")]


def runs_command(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder of the runs.")
    ] = Path("runs"),
    sort: Annotated[
        RunSort, typer.Option("--sort", help="Order: best, newest or largest first.")
    ] = RunSort.DATE,
    as_json: JsonOption = False,
    remove: Annotated[
        str | None, typer.Option("--remove", metavar="NAME", help="Delete this run of the folder.")
    ] = None,
    yes: YesOption = False,
) -> ExitCode:
    """List all runs, or remove one."""
    if remove is not None:
        path = removable_run(folder / remove).path
        if not console.confirm(f"Delete {path} with its model and all results?", yes=yes):
            console.print_line("nothing was removed")
            return ExitCode.FAILED
        remove_run(path)
        console.print_line(f"removed {path}")
        return ExitCode.OK
    runs = list_runs(folder, sort=sort)
    summaries = [run.to_dict() for run in runs]
    write_data(to_json(summaries) if as_json else runs_text(runs, output_width()))
    flush_data()
    if hint := unfinished_text(runs):
        console.print_line(hint)
    if not runs:
        console.print_line(f"no runs in '{folder}': swinclf train DATA")
    return ExitCode.OK


def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Two or more runs or output folders of eval, on the same images."
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output", help="JSON file for the comparison.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--page", help="HTML file with the images on which they differ.")
    ] = None,
    seeds: Annotated[
        int | None,
        typer.Option(
            "--seeds",
            metavar="K",
            help="Compare the settings: train each run with other seeds, K in all.",
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs on the same images."""
    from swinclf.commands.compare import expand_runs, rank_runs

    runs = expand_runs(runs)
    if seeds is not None:
        from swinclf.train_seeds import train_seeds

        report = ConsoleReporter()
        found = [one for run in runs for one in train_seeds(run, seeds, report=report)]
        # runs that differ in their seed only have the same others
        runs = list({one.resolve(): one for one in found}.values())
    done = rank_runs(runs, output=output, page=page)
    write_data(to_json(done.to_dict()) if as_json else leaderboard_text(done, output_width()))
    for path in (output, page):
        if path is not None:
            console.print_line(f"saved to {path}")


def relabel_command(
    table: Annotated[
        Path | None,
        typer.Argument(
            metavar="FILE",
            help="CSV with the columns path and label, such as suspects.csv, edited.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="The dataset.",
            show_default="that of the run that FILE is in",
        ),
    ] = None,
    undo: Annotated[
        Path | None, typer.Option("--undo", help="Move back what this undo file lists.")
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> ExitCode:
    """Move images into the class folders of new labels, or back."""
    from swinclf.commands.relabel import apply_moves, plan_relabel, plan_undo

    if (table is None) == (undo is None):
        raise ConfigError(
            "a table, or --undo with an undo file",
            found="none" if table is None else "both",
            hint="swinclf relabel FILE",
        )
    plan = plan_undo(undo, data) if undo else plan_relabel(cast(Path, table), data)
    if not as_json:
        write_data("".join(f"{one_line(a.path)} -> {one_line(a.target)}\n" for a in plan.moves))
        flush_data()
    console.print_line(f"{len(plan.moves):,} images to move, {plan.unchanged:,} unchanged")
    if table and not plan.moves:
        console.print_line(f"to move images, write other classes into the column label of {table}")
    if plan.moves and not console.confirm(
        f"Move {len(plan.moves):,} images in {plan.data}?", yes=yes
    ):
        console.print_line("nothing was moved")
        return ExitCode.FAILED
    saved = apply_moves(plan, is_undo=undo is not None) if plan.moves else None
    if as_json:
        moves = [asdict(one) for one in plan.moves]
        write_data(to_json({"moves": moves, "undo": str(saved) if saved else None}))
    undo_words = ["swinclf", "relabel", "--undo", str(saved)]
    undone = f"; to undo: {command_line(undo_words)}" if saved else ""
    if plan.moves:
        console.print_line(f"moved {len(plan.moves):,} images{undone}")
    return ExitCode.OK
