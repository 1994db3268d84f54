"""eval, predict, export and compare: what is done with trained models.

A command is imported when it is called: torch takes seconds to import, and --help should not.
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
            "--split", help="Which images.", show_default="val of the run's own folder, else all"
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output", help="Folder for the results.", show_default="eval-N next to the model"
        ),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the scores are printed.")
    ] = ResultFormat.TABLE,
    reject: RejectOption = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Score a run on held-out images or another folder."""
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
        console.say(tables.rejection_text(done.rejection))
    console.say(f"results in {done.folder}")
    if done.skipped:
        console.say(f"{len(done.skipped)} images were not scored: {done.folder / 'skipped.csv'}")
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def predict_command(
    inputs: Inputs,
    run: RunOption = None,
    top_k: Annotated[
        int, typer.Option("--top-k", min=1, help="Classes to give for each image.")
    ] = 5,
    output_format: Annotated[
        Optional[PredictFormat],  # noqa: UP045
        typer.Option(
            "--format",
            help="table, json, jsonl (as they are done) or csv.",
            show_default="by the ending of --output, else table",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="File for the answers.", show_default="standard output"),
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
    if output is not None and tables.ENDINGS.get(output.suffix.lower(), chosen) is not chosen:
        console.say(f"note: '{output}' is written as {chosen}, as --format says")
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
        console.say(f"passed over, as they are no images: {counts_by_extension(ignored)}")
    if failed:
        console.say(f"{failed:,} of {writer.count:,} inputs could not be read")
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def export_command(
    run: RunOption = None,
    export_format: Annotated[
        ExportFormat, typer.Option("--format", help="What to write.")
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
            help="Largest difference of a probability from the run's, in float32.",
        ),
    ] = 1e-3,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--data", help="Images to compare on.", show_default="a few stored in the run"
        ),
    ] = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
) -> None:
    """Write a deployable file, proved equal to the run."""
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
    console.box("exported", tables.export_text(done))


def compare_command(
    first: Annotated[
        Path, typer.Argument(metavar="RUN_A", help="A run, or the output folder of an eval.")
    ],
    second: Annotated[Path, typer.Argument(metavar="RUN_B", help="Another, on the same images.")],
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="JSON file for all of it.", show_default="none"),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the comparison is printed.")
    ] = ResultFormat.TABLE,
) -> None:
    """Compare two runs on the same images."""
    from swinclf.cli.compare_table import comparison_text
    from swinclf.commands.compare import compare

    write_data(comparison_text(compare(first, second, output=output), result_format))
    if output is not None:
        console.say(f"written to {output}")


def _with_standard_input(inputs: list[str], model: Path) -> Iterator[str]:
    """The inputs, with - replaced by the paths on standard input."""
    from swinclf.data.path_lists import read_path_list

    for given in inputs:
        if given != "-":
            yield given
            continue
        base = find_data_folder(model)
        yield from read_path_list(standard_input(), base=base, note=console.say)
