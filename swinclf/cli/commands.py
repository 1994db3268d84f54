"""The commands: each turns options into values, calls its verb, and shows the result.

Verbs are imported inside the commands: torch takes seconds to import, and --help should not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Optional

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
    takes_settings,
)
from swinclf.cli.program import app, guarded
from swinclf.cli.streams import standard_input, write_data
from swinclf.cli.tables import PredictFormat, ResultFormat
from swinclf.config import MOVABLE, ExportFormat, Impl, Settings, gather_settings, key_values
from swinclf.errors import ConfigError, ExitCode
from swinclf.run_folder import RunFolder, find_data_folder, find_model, find_run
from swinclf.terminal import ConsoleReporter

Data = Annotated[Optional[Path], typer.Argument(metavar="DATA", help="A folder of class folders.")]  # noqa: UP045


@app.command("train")
@guarded
@takes_settings
def train_command(
    flags: dict[str, Any],
    *,
    resume: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--resume",
            help="Go on with this interrupted run; with DATA where its images have moved. "
            "Default: none.",
        ),
    ] = None,
    config: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--config",
            help="Settings from a .json or .toml file, such as a run's config.json; flags win. "
            "Default: none.",
        ),
    ] = None,
    num_classes: Annotated[Optional[int], typer.Option("--num-classes", hidden=True)] = None,  # noqa: UP045
) -> ExitCode:
    """Train a classifier on a folder of class folders."""
    from swinclf.commands.train import train

    given = {name: value for name, value in flags.items() if value is not None}
    settings, run = _settings_to_train_with(given, config, resume)
    done = train(settings, report=ConsoleReporter(), resume=run, num_classes=num_classes)
    write_data(f"{done.folder.path}\n")
    console.box(
        *tables.training_box(done.folder.path, done.metrics, len(done.skipped), epochs=done.epochs)
    )
    if done.skipped:
        return ExitCode.FAILED if settings.config.strict else ExitCode.SOME_FAILED
    return ExitCode.OK


@app.command("eval")
@guarded
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


@app.command("predict")
@guarded
def predict_command(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...", help="Files, folders, patterns, or - for paths on standard input."
        ),
    ],
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
    from swinclf.data.scan_notes import by_extension
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
        console.say(f"passed over, as they are no images: {by_extension(ignored)}")
    if failed:
        console.say(f"{failed:,} of {writer.count:,} inputs could not be read")
        return ExitCode.FAILED if strict else ExitCode.SOME_FAILED
    return ExitCode.OK


@app.command("export")
@guarded
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


@app.command("check")
@guarded
def check_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of class folders.")],
    val: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--val", help="A folder of class folders to check with.", show_default="as DATA says"
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--output", help="JSON file for all that is found.", show_default="none"),
    ] = None,
    page: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option("--page", help="HTML file with thumbnails.", show_default="none"),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--weights",
            help="Search for near copies by features, too: of this run or weights file.",
            show_default="by fingerprints alone",
        ),
    ] = None,
    model: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            "--model",
            help="What network a bare weights file is of.",
            show_default="as train",
        ),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the findings are printed.")
    ] = ResultFormat.TABLE,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Say what is wrong with a dataset; change nothing."""
    from swinclf.cli.check_table import audit_text
    from swinclf.commands.check import check

    audit = check(
        data,
        val=val,
        output=output,
        page=page,
        weights=weights,
        model=model,
        workers=workers,
        report=ConsoleReporter(),
    )
    write_data(audit_text(audit, result_format))
    for path in (output, page):
        if path is not None:
            console.say(f"written to {path}")
    if strict and audit.has_unreadable:
        return ExitCode.FAILED
    return ExitCode.OK if audit.is_clean else ExitCode.SOME_FAILED


@app.command("compare")
@guarded
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


@app.command("inspect")
@guarded
def inspect_command(
    subject: Annotated[
        Optional[str],  # noqa: UP045
        typer.Argument(
            metavar="MODEL|RUN",
            help="A name that `swinclf models` lists, `vit` or `swin` for own shapes, or a run.",
            show_default="the newest finished run under runs/",
        ),
    ] = None,
    image: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--image",
            help="Draw the network's attention on this picture.",
            show_default="with --output: one of the run's samples, else a drawn flower",
        ),
    ] = None,
    output: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--output",
            help="Draw pictures into this folder.",
            show_default="inspect-NAME-N here where pictures are asked for, else none are drawn",
        ),
    ] = None,
    weights: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            "--weights",
            help="Draw pictures of a name with this weights file or run.",
            show_default="random weights",
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option(
            "--pretrained",
            help="Draw pictures of a name with its published weights. Default: random weights.",
        ),
    ] = False,
    img_size: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            "--img-size", min=1, help="Side of a name's images, px.", show_default="the name's own"
        ),
    ] = None,
    model_arg: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            "--model-arg",
            help="KEY=VALUE, repeatable: what differs from the name's shape.",
            show_default="none",
        ),
    ] = None,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the table is printed.")
    ] = ResultFormat.TABLE,
) -> None:
    """Show a network's shapes, costs and attention."""
    from swinclf.commands.inspect import FigureOptions, inspect

    done = inspect(
        subject,
        img_size=img_size,
        model_args=key_values(model_arg or ()),
        figures=FigureOptions(image=image, output=output, weights=weights, pretrained=pretrained),
        report=ConsoleReporter(),
    )
    write_data(tables.inspection_text(done, result_format))
    if done.pictures:
        console.say(tables.pictures_text(done))


@app.command("models")
@guarded
def models_command(
    pattern: Annotated[
        str,
        typer.Argument(metavar="PATTERN", help="A part of the name, or a pattern with * and ?."),
    ] = "",
    impl: Annotated[
        Impl,
        typer.Option(
            "--impl", help="Who builds them: native for those that this package builds itself."
        ),
    ] = Impl.TIMM,
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the list is printed.")
    ] = ResultFormat.TABLE,
) -> ExitCode:
    """List the backbones that can be named, with their sizes."""
    from swinclf.models.catalogue import list_backbones

    count = tables.write_backbones(list_backbones(pattern, impl=impl), result_format)
    if not count:
        raise ConfigError(
            "a part of the name of a backbone"
            + (" that this package builds itself" if impl is Impl.NATIVE else ""),
            found=f"'{pattern}', which is in none",
            hint="swinclf models swin",
        )
    return ExitCode.OK


@app.command("doctor")
@guarded
def doctor_command(
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the findings are printed.")
    ] = ResultFormat.TABLE,
) -> None:
    """Show versions, device, precision, caches, speed."""
    from swinclf.commands.doctor import examine

    write_data(tables.findings_text(examine(), result_format))


@app.command("demo")
@guarded
def demo_command(
    output: Annotated[
        Path, typer.Option("--output", help="Folder for the sample dataset and the run.")
    ] = Path("swinclf-demo"),
) -> None:
    """Run the whole loop on sample data, offline."""
    from swinclf.demo import demo

    demo(output, report=ConsoleReporter(), say=console.say)


def _with_standard_input(inputs: list[str], model: Path) -> Iterator[str]:
    """The inputs, with - replaced by the paths on standard input."""
    from swinclf.data.path_lists import read_path_list

    for given in inputs:
        if given != "-":
            yield given
            continue
        base = find_data_folder(model)
        yield from read_path_list(standard_input(), base=base, note=console.say)


def _settings_to_train_with(
    given: Mapping[str, Any], config: Path | None, resume: Path | None
) -> tuple[Settings, RunFolder | None]:
    """The settings of a training; of one that is to be gone on with its own, and its folder."""
    if resume is None:
        settings = gather_settings(given, config)
        if not settings.config.data:
            raise ConfigError(
                "a folder of class folders to train on",
                found="none",
                hint="swinclf train DATA, or to see how it goes: swinclf demo",
            )
        return settings, None
    from swinclf.pipeline.resume import resume_settings

    hint = f"swinclf train --resume '{resume}'"
    changed = [name for name in given if name not in MOVABLE]
    if changed or config is not None:
        raise ConfigError(
            "--resume alone (or with DATA, --val, --weights, --workers, --teacher, --unlabelled): "
            "a run goes on with the settings it began with",
            found=", ".join(f"--{name.replace('_', '-')}" for name in changed) or "--config",
            hint=hint,
        )
    run = find_run(resume)
    return resume_settings(run, {name: given[name] for name in MOVABLE if name in given}), run
