"""eval and export: the commands that score a trained model and write it for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
from swinclf.config import Embed, ExportFormat, ExportPrecision
from swinclf.errors import ConfigError, ExitCode
from swinclf.files import to_json
from swinclf.run_folder import find_model
from swinclf.terminal import ConsoleReporter

Data = Annotated[Path | None, typer.Argument(metavar="DATA", help="A folder of class folders.")]


def eval_command(
    data: Data = None,
    run: RunOption = None,
    split: Annotated[
        tables.Split | None,
        typer.Option(
            "--split",
            help="Images to score.",
            show_default="what the training held out; of others all",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            metavar="DIR",
            help="Folder for the results.",
            show_default="eval-N next to the model",
        ),
    ] = None,
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
    metrics = done.metrics
    record = tables.evaluation_record(done)
    write_data(to_json(record) if as_json else tables.metrics_text(metrics))
    if done.rejection is not None:
        console.print_line(tables.rejection_text(done.rejection))
    console.print_line(f"results in {done.folder}")
    if done.skipped:
        console.print_line(
            f"{len(done.skipped)} images were not scored: {done.folder / 'skipped.csv'}"
        )
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


ExportFormatOption = Annotated[
    ExportFormat | None, typer.Option("--format", help="Format of the export.", show_default="onnx")
]
AllFormatsOption = Annotated[
    bool, typer.Option("--all", help="Every format that can be written here, in one table.")
]
ExportOutputOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        help="The file or folder; with --all, the folder for all of them.",
        show_default="in the run",
    ),
]
EmbedOption = Annotated[
    Embed,
    typer.Option(
        "--embed", help="Put the preprocessing into the file: images of any size as its input."
    ),
]
ExportPrecisionOption = Annotated[
    ExportPrecision,
    typer.Option("--precision", help="Number format of the file; int8 is calibrated."),
]
ToleranceOption = Annotated[
    float | None,
    typer.Option(
        "--tolerance",
        min=0,
        help="Largest allowed difference from the run's probabilities in float32; in a lower "
        "precision on average, and as share of labels and of rejections that differ.",
        show_default="0.001; embedded: 0.01; fp16: 0.005; int8: 0.02",
    ),
]
ComparedImagesOption = Annotated[
    Path | None,
    typer.Option(
        "--data",
        metavar="DIR",
        help="Images to compare on, and to calibrate int8 on.",
        show_default="samples stored in the run; fp16, int8: its dataset",
    ),
]

ExportedRunOption = Annotated[
    Path | None,
    typer.Option(
        "--run",
        metavar="RUN",
        help="A run folder, or a weights file in one.",
        show_default="the newest finished run",
    ),
]


def export_command(
    run: ExportedRunOption = None,
    export_format: ExportFormatOption = None,
    all_formats: AllFormatsOption = False,
    output: ExportOutputOption = None,
    embed: EmbedOption = Embed.NONE,
    precision: ExportPrecisionOption = ExportPrecision.FP32,
    tolerance: ToleranceOption = None,
    data: ComparedImagesOption = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> ExitCode:
    """Write a deployable file, verified against the run."""
    from swinclf.commands.export import export, export_all
    from swinclf.inference.predictor import InferenceOptions

    chosen = [f"--format {export_format}"] if export_format else []
    chosen += [f"--embed {embed}"] if embed is not Embed.NONE else []
    chosen += [f"--precision {precision}"] if precision is not ExportPrecision.FP32 else []
    if all_formats and chosen:
        raise ConfigError(
            f"one of --all and {chosen[0].split()[0]}",
            found=f"--all and {chosen[0]}",
            hint="swinclf export --all",
        )
    model, report = find_model(run), ConsoleReporter()
    options = InferenceOptions(impl, device)
    if all_formats:
        everything = export_all(
            model, output, tolerance=tolerance, data=data, options=options, report=report
        )
        record, text = tables.all_exports_record, tables.all_exports_text
        write_data(to_json(record(everything)) if as_json else text(everything))
        return ExitCode.OK if everything.agree else ExitCode.MISMATCH
    done = export(
        model,
        export_format or ExportFormat.ONNX,
        output,
        embed=embed,
        precision=precision,
        tolerance=tolerance,
        data=data,
        options=options,
        report=report,
    )
    write_data(to_json(tables.export_record(done)) if as_json else f"{done.path}\n")
    console.print_box("exported", tables.export_text(done))
    return ExitCode.OK
