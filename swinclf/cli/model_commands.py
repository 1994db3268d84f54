"""eval, predict, export and compare: the commands that use trained models.

A command is imported when it is called: torch takes seconds to import, and --help must not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Optional

import typer

from swinclf.cli import console, tables
from swinclf.cli.options import (
    DeviceOption,
    ImplOption,
    PrecisionOption,
    RejectOption,
    RunOption,
    StrictOption,
    WorkersOption,
)
from swinclf.cli.streams import standard_input, write_data
from swinclf.cli.tables import PredictFormat, ResultFormat
from swinclf.config import ExportFormat
from swinclf.errors import ExitCode
from swinclf.run_folder import find_data_folder, find_model
from swinclf.terminal import ConsoleReporter

Data = Annotated[Optional[Path], typer.Argument(metavar="DATA", help="A folder of class folders.")]  # noqa: UP045
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, folders, patterns, or - for paths on standard input."
    ),
]


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
            "--output", help="Folder for the results.", show_default="eval-N next to the model"
        ),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="Format of the scores.")
    ] = ResultFormat.TABLE,
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
    write_data(tables.metrics_text(done.metrics, result_format))
    if done.rejection is not None:
        console.print_line(tables.rejection_text(done.rejection))
    console.print_line(f"results in {done.folder}")
    if done.skipped:
        console.print_line(
            f"{len(done.skipped)} images were not scored: {done.folder / 'skipped.csv'}"
        )
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def predict_command(
    inputs: Inputs,
    run: RunOption = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, help="Classes to return for each image.")
    ] = 5,
    output_format: Annotated[
        Optional[PredictFormat],  # noqa: UP045
        typer.Option(
            "--format",
            help="table, json, jsonl (streamed) or csv.",
            show_default="by the extension of --output, else table",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="File for the predictions.", show_default="standard output"),
    ] = None,
    reject: RejectOption = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Label files, folders, patterns or a list of paths."""
    from swinclf.commands.predict import expand_inputs, predict
    from swinclf.data.scan_notes import counts_by_extension
    from swinclf.inference.predictor import InferenceOptions, open_predictor

    model = find_model(run)
    predictor = open_predictor(model, InferenceOptions(impl, device, precision))
    if predictor.note:
        ConsoleReporter().warn(predictor.note)
    ignored: Counter[str] = Counter()
    paths = expand_inputs(_with_standard_input(inputs, model), ignored)
    failed = 0
    chosen = tables.format_of(output, output_format)
    if output is not None and tables.EXTENSIONS.get(output.suffix.lower(), chosen) is not chosen:
        console.print_line(f"note: '{output}' is written as {chosen}, as --format says")
    with tables.PredictionWriter(output, chosen, predictor.card.classes) as writer:
        for prediction in predict(
            predictor,
            paths,
            top_k=top_k,
            workers=workers,
            low_latency="-" in inputs,
            reject=reject,
        ):
            writer.write(prediction)
            failed += bool(prediction.error)
    if ignored:
        console.print_line(f"ignored, not images: {counts_by_extension(ignored)}")
    if failed:
        console.print_line(f"{failed:,} of {writer.count:,} inputs could not be read")
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
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance",
            min=0,
            help="Largest allowed difference from the run's probabilities, in float32.",
        ),
    ] = 1e-3,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--data", help="Images to compare on.", show_default="samples stored in the run"
        ),
    ] = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
) -> None:
    """Write a deployable file, verified against the run."""
    from swinclf.commands.export import export
    from swinclf.inference.predictor import InferenceOptions

    done = export(
        find_model(run),
        export_format,
        output,
        tolerance=tolerance,
        data=data,
        options=InferenceOptions(impl, device, precision),
        report=ConsoleReporter(),
    )
    write_data(f"{done.path}\n")
    console.print_box("exported", tables.export_text(done))


def compare_command(
    first: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="A run, or the output folder of an eval.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, on the same images.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="JSON file for the comparison.", show_default="none"),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="Format of the comparison.")
    ] = ResultFormat.TABLE,
) -> None:
    """Compare two runs on the same images."""
    from swinclf.cli.compare_table import comparison_text
    from swinclf.commands.compare import compare

    write_data(comparison_text(compare(first, second, output=output), result_format))
    if output is not None:
        console.print_line(f"saved to {output}")


def _with_standard_input(inputs: list[str], model: Path) -> Iterator[str]:
    """Yield the inputs, with - replaced by the paths on standard input."""
    from swinclf.data.path_lists import read_path_list

    for given in inputs:
        if given != "-":
            yield given
            continue
        base = find_data_folder(model)
        yield from read_path_list(standard_input(), base=base, note=console.print_line)
