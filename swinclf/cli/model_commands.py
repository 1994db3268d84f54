"""eval and export: the commands that score a trained model and write it for other programs.

A command is imported when it is called: torch takes seconds to import, and --help must not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from swinclf.cli import console, tables
from swinclf.cli.options import (
    DeviceOption,
    ImplOption,
    JsonOption,
    PrecisionOption,
    RejectOption,
    RunOption,
    StrictOption,
    WorkersOption,
)
from swinclf.cli.streams import write_data
from swinclf.cli.tables import ResultFormat
from swinclf.config import Embed, ExportFormat, ExportPrecision
from swinclf.errors import ExitCode
from swinclf.files import to_json
from swinclf.run_folder import find_model
from swinclf.terminal import ConsoleReporter

Data = Annotated[Optional[Path], typer.Argument(metavar="DATA", help="A folder of class folders.")]  # noqa: UP045


def eval_command(
    data: Data = None,
    run: RunOption = None,
    split: Annotated[
        Optional[tables.Split],  # noqa: UP045
        typer.Option(
            "--split",
            help="Images to score.",
            show_default="val of the run's own dataset, else all",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder for the results.",
            show_default="eval-N next to the model",
        ),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="Format of the scores.")
    ] = ResultFormat.TABLE,
    as_json: JsonOption = False,
    reject: RejectOption = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Score a run on validation images or another folder."""
    from swinclf.commands.evaluate import evaluate
    from swinclf.inference.predictor import InferenceOptions

    done = evaluate(
        find_model(run),
        data,
        split=str(split) if split else None,
        output=output,
        options=InferenceOptions(impl, device, precision),
        reject=reject,
        workers=workers,
        report=ConsoleReporter(),
    )
    write_data(
        tables.metrics_text(done.metrics, tables.chosen_format(result_format, as_json=as_json))
    )
    if done.rejection is not None:
        console.print_line(tables.rejection_text(done.rejection))
    console.print_line(f"results in {done.folder}")
    if done.skipped:
        console.print_line(
            f"{len(done.skipped)} images were not scored: {done.folder / 'skipped.csv'}"
        )
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def export_command(
    run: RunOption = None,
    export_format: Annotated[
        ExportFormat, typer.Option("--format", help="File format.")
    ] = ExportFormat.ONNX,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="The file.", show_default="model.FORMAT in the run"),
    ] = None,
    embed: Annotated[
        Embed,
        typer.Option(
            "--embed", help="Put the preprocessing into the file: images of any size as its input."
        ),
    ] = Embed.NONE,
    precision: Annotated[
        ExportPrecision,
        typer.Option("--precision", help="Number format of the file; int8 is calibrated."),
    ] = ExportPrecision.FP32,
    tolerance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            "--tolerance",
            min=0,
            help="Largest allowed difference from the run's probabilities in float32; in a lower "
            "precision on average, and as share of labels that differ.",
            show_default="0.001; embedded: 0.01; fp16: 0.005; int8: 0.02",
        ),
    ] = None,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--data",
            metavar="DIR",
            help="Images to compare on, and to calibrate int8 on.",
            show_default="samples stored in the run; fp16, int8: its dataset",
        ),
    ] = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write a deployable file, verified against the run."""
    from swinclf.commands.export import export
    from swinclf.commands.reduced_export import export_reduced
    from swinclf.inference.predictor import InferenceOptions

    model, options = find_model(run), InferenceOptions(impl, device)
    if precision is not ExportPrecision.FP32:
        reduced = export_reduced(
            model,
            export_format,
            precision,
            output,
            embed=embed,
            tolerance=tolerance,
            data=data,
            options=options,
            report=ConsoleReporter(),
        )
        record = tables.reduced_export_record(reduced)
        write_data(to_json(record) if as_json else f"{reduced.path}\n")
        console.print_box("exported", tables.reduced_export_text(reduced))
        return
    done = export(
        model,
        export_format,
        output,
        embed=embed,
        tolerance=tolerance,
        data=data,
        options=options,
        report=ConsoleReporter(),
    )
    write_data(to_json(tables.export_record(done)) if as_json else f"{done.path}\n")
    console.print_box("exported", tables.export_text(done))
