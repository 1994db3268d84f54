"""predict: its options, and where the predictions go."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from swinclf.cli import console
from swinclf.cli.columns import output_width
from swinclf.cli.options import (
    DeviceOption,
    ImplOption,
    PrecisionOption,
    RejectOption,
    RunOption,
    StrictOption,
    WorkersOption,
    output_option,
)
from swinclf.cli.prediction_writer import EXTENSIONS, PredictFormat, PredictionWriter, open_writer
from swinclf.cli.streams import standard_input
from swinclf.config import Engine
from swinclf.errors import ExitCode
from swinclf.run_folder import find_data_folder, find_model, make_folder, refuse_inside
from swinclf.terminal import ConsoleReporter

if TYPE_CHECKING:
    from swinclf.inference.labelling import LabelFolders
    from swinclf.inference.prediction import Prediction
    from swinclf.inference.predictor import InferenceOptions, Predictor
    from swinclf.inference.shared_stream import ModelFile

TOP_K = 5
PredictJsonOption = Annotated[bool, output_option("--json", help="The same as --format json.")]
Inputs = Annotated[
    list[str],
    typer.Argument(
        metavar="INPUT...", help="Files, folders, patterns, or - for paths on standard input."
    ),
]
TopKOption = Annotated[
    int | None,
    typer.Option("--top-k", min=1, help="Classes for each image.", show_default="5; in CSV 1"),
]
FormatOption = Annotated[
    PredictFormat | None,
    output_option(
        "--format", help="Format; jsonl is streamed.", show_default="by --output, else table"
    ),
]
OutputOption = Annotated[
    Path | None,
    output_option("--output", help="File for the predictions.", show_default="standard output"),
]
PageOption = Annotated[
    Path | None, output_option("--page", help="HTML file of thumbnails to sort and filter too.")
]
SortOption = Annotated[
    Path | None,
    output_option(
        "--sort-into",
        metavar="DIR",
        help="New folder of links to the images, in a folder for each predicted class. "
        "Copies where links are impossible.",
    ),
]
QueueOption = Annotated[
    int | None,
    typer.Option(
        "--queue",
        min=1,
        help="Only the N images most worth labelling next, best first: uncertain, and unlike "
        "each other.",
        show_default="all images, in order",
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="What computes a run on a CPU; auto is torch unless an export is much faster.",
    ),
]


def predict_command(
    inputs: Inputs,
    run: RunOption = None,
    top_k: TopKOption = None,
    output_format: FormatOption = None,
    as_json: PredictJsonOption = False,
    output: OutputOption = None,
    page: PageOption = None,
    sort_into: SortOption = None,
    queue: QueueOption = None,
    reject: RejectOption = None,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    engine: EngineOption = Engine.TORCH,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Label files, folders, patterns or a list of paths."""
    from swinclf.commands.predict import expand_inputs, predict, select_queue, write_gallery
    from swinclf.inference.labelling import LabelFolders
    from swinclf.inference.predictor import InferenceOptions

    model = find_model(run)
    dataset = find_data_folder(model)
    _check_outputs(dataset, output, page)
    folders = LabelFolders(sort_into, inputs, dataset) if sort_into else None
    report, shown = ConsoleReporter(), top_k or TOP_K
    predictor, shared = _opened(model, engine, InferenceOptions(impl, device, precision), report)
    tally, ignored = _Tally(), Counter[str]()
    expanded = expand_inputs(_with_standard_input(inputs, model), ignored)
    paths: Iterable[str] = expanded if "-" in inputs else list(expanded)
    gallery: list[Prediction] | None = [] if page else None
    chosen = PredictFormat.JSON if as_json else output_format
    opening = _writer(output, chosen, predictor.card.classes, top_k, reject)
    predicted = predict(
        predictor,
        paths,
        top_k=max(shown, 2) if queue else shown,
        workers=workers,
        low_latency="-" in inputs,
        reject=reject,
        model=shared,
    )
    progress = _progress(report, paths, is_visible=bool(output or queue))
    # Closing: a thread that computes when Python ends would abort the process.
    with progress as advance, opening as writer, closing(predicted):
        predictions: Iterable[Prediction] = tally.count(predicted, advance)
        if queue:
            predictions = select_queue(predictor, predictions, queue, shown, workers=workers)
        _distribute(predictions, writer, folders, gallery)
    if page and gallery is not None:
        write_gallery(
            page, gallery, predictor, is_queue=bool(queue), workers=workers, report=report
        )
    _print_end(tally, ignored, writer.count, output, page, folders)
    if tally.unreadable:
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


def _check_outputs(dataset: Path | None, output: Path | None, page: Path | None) -> None:
    """Refuse files inside the dataset of the run; make the folder of a page."""
    refuse_inside(dataset, output, "--output")
    refuse_inside(dataset, page, "--page")
    if page:
        make_folder(page.parent)


def _opened(
    model: Path, engine: Engine, options: InferenceOptions, report: ConsoleReporter
) -> tuple[Predictor, ModelFile | None]:
    """Open the model, without importing what only other engines need.

    Its file is returned if other processes can open it, too.
    """
    from swinclf.inference.predictor import open_predictor
    from swinclf.inference.shared_stream import ModelFile

    shared = None
    if engine is Engine.TORCH:
        predictor, shared = open_predictor(model, options), ModelFile(model, options)
    else:
        from swinclf.exporting.engine import open_engine

        predictor = open_engine(model, engine, options, report)
    if predictor.note:
        report.warn(predictor.note)
    return predictor, shared


class _Tally:
    """Counts predictions while they pass."""

    def __init__(self) -> None:
        self.all = self.unreadable = 0

    def count(
        self, predictions: Iterable[Prediction], advance: Callable[[int], None]
    ) -> Iterator[Prediction]:
        for one in predictions:
            self.all += 1
            self.unreadable += bool(one.error)
            advance(1)
            yield one


def _progress(
    report: ConsoleReporter, paths: Iterable[str], *, is_visible: bool
) -> AbstractContextManager[Callable[[int], None]]:
    """Return a progress bar, unless rows appear on the same terminal."""
    if not is_visible and sys.stdout.isatty():
        return nullcontext(lambda _done: None)
    return report.track("predicting", len(paths) if isinstance(paths, list) else None)


def _writer(
    output: Path | None,
    given: PredictFormat | None,
    classes: Sequence[str],
    top_k: int | None,
    reject: float | None,
) -> AbstractContextManager[PredictionWriter]:
    """Open the writer in the format that is given, else by the file's extension, else a table."""
    by_name = EXTENSIONS.get(output.suffix.lower()) if output is not None else None
    chosen = given or by_name or PredictFormat.TABLE
    if by_name not in (None, chosen):
        console.print_line(f"note: '{output}' is written as {chosen}, as --format says")
    return open_writer(
        output,
        chosen,
        classes,
        runners_up=(top_k or 1) - 1,
        reject=reject is not None,
        width=output_width() if output is None else None,
    )


def _distribute(
    predictions: Iterable[Prediction],
    writer: PredictionWriter,
    folders: LabelFolders | None,
    gallery: list[Prediction] | None,
) -> None:
    for one in predictions:
        writer.write(one)
        if folders is not None and not one.error:
            folders.add(one.path, one.label)
        if gallery is not None:
            gallery.append(one)


def _print_end(
    tally: _Tally,
    ignored: Mapping[str, int],
    rows: int,
    output: Path | None,
    page: Path | None,
    folders: LabelFolders | None,
) -> None:
    """Print what was written where, and what could not be read."""
    from swinclf.data.image_detector import counts_by_extension

    if ignored:
        console.print_line(f"ignored, not images: {counts_by_extension(ignored)}")
    if not tally.all:
        console.print_line("no paths on standard input: nothing was predicted")
    if folders is not None:
        copied = f", {folders.copied:,} copies" if folders.copied else ""
        console.print_line(f"{folders.linked:,} links{copied} in {folders.root}, by class")
    if page is not None:
        console.print_line(f"page saved to {page}")
    if output is not None:
        unreadable = f", {tally.unreadable:,} unreadable" if tally.unreadable else ""
        console.print_line(f"{rows:,} rows written to {output}{unreadable}")
    elif tally.unreadable:
        console.print_line(f"{tally.unreadable:,} of {tally.all:,} inputs could not be read")


def _with_standard_input(inputs: list[str], model: Path) -> Iterator[str]:
    """Yield the inputs, with - replaced by the paths on standard input."""
    from swinclf.data.path_lists import read_path_list

    for given in inputs:
        if given != "-":
            yield given
            continue
        base = find_data_folder(model)
        yield from read_path_list(standard_input(), base=base, note=console.print_line)
