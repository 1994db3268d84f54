"""check, inspect, models and doctor: a dataset, the networks and the machine, shown unchanged."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from swinclf.cli import console, tables
from swinclf.cli.columns import output_width
from swinclf.cli.options import JsonOption, StrictOption, WorkersOption, complete_model
from swinclf.cli.streams import write_data
from swinclf.config import Impl
from swinclf.errors import ConfigError, ExitCode
from swinclf.files import to_json
from swinclf.settings import key_values
from swinclf.terminal import ConsoleReporter

ValOption = Annotated[
    Path | None,
    typer.Option(
        "--val",
        metavar="DIR",
        help="A folder of class folders for validation.",
        show_default="DATA/val",
    ),
]
FindingsFileOption = Annotated[
    Path | None, typer.Option("--output", help="JSON file for all findings.")
]
CheckPageOption = Annotated[Path | None, typer.Option("--page", help="HTML file with thumbnails.")]
CheckWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        metavar="FILE|RUN",
        help="Also search for near-duplicates by features of these weights.",
        show_default="fingerprints only",
    ),
]
CheckModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="NAME",
        help="Network of a plain weights file, or embedded, whose weights are in the package.",
        show_default="as in train",
        autocompletion=complete_model,
    ),
]


def check_command(
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A folder of class folders.")],
    val: ValOption = None,
    output: FindingsFileOption = None,
    page: CheckPageOption = None,
    weights: CheckWeightsOption = None,
    model: CheckModelOption = None,
    as_json: JsonOption = False,
    workers: WorkersOption = None,
    strict: StrictOption = False,
) -> ExitCode:
    """Report the problems of a dataset; change nothing."""
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
    write_data(to_json(audit.to_dict()) if as_json else tables.audit_text(audit))
    for path in (output, page):
        if path is not None:
            console.print_line(f"saved to {path}")
    if strict and audit.has_unreadable:
        return ExitCode.FAILED
    return ExitCode.OK if audit.is_clean else ExitCode.SOME_FAILED


Subject = Annotated[
    str | None,
    typer.Argument(
        metavar="MODEL|RUN",
        help="A name from `swinclf models`, `vit` or `swin` for a custom one, or a run.",
        show_default="the newest finished run",
    ),
]
ImageOption = Annotated[
    Path | None,
    typer.Option(
        "--image",
        help="Draw the network's attention on this image.",
        show_default="with --output: a sample of the run, else a photograph",
    ),
]
PicturesOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        metavar="DIR",
        help="Save figures to this folder.",
        show_default="inspect-NAME-N here if another option asks for figures, else none",
    ),
]
WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        help="Draw figures of a name with this weights file or run.",
        show_default="random weights",
    ),
]
PretrainedOption = Annotated[
    bool, typer.Option("--pretrained", help="Draw figures of a name with its published weights.")
]
ImgSizeOption = Annotated[
    int | None,
    typer.Option(
        "--img-size", min=1, help="Image size of a name, px.", show_default="the name's own"
    ),
]
ModelArgOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg", metavar="KEY=VALUE", help="Change the architecture of a name; repeatable."
    ),
]


def inspect_command(
    subject: Subject = None,
    image: ImageOption = None,
    output: PicturesOption = None,
    weights: WeightsOption = None,
    pretrained: PretrainedOption = False,
    img_size: ImgSizeOption = None,
    model_arg: ModelArgOption = None,
    as_json: JsonOption = False,
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
    record, text = tables.inspection_record, tables.inspection_text
    write_data(to_json(record(done)) if as_json else text(done))
    if done.pictures:
        console.print_line(tables.pictures_text(done))


def models_command(
    pattern: Annotated[
        str, typer.Argument(metavar="PATTERN", help="Part of a name, or a pattern with * and ?.")
    ] = "",
    impl: Annotated[
        Impl,
        typer.Option(
            "--impl", help="Implementation: native for those that this package builds itself."
        ),
    ] = Impl.TIMM,
    as_json: JsonOption = False,
) -> ExitCode:
    """List the available backbones, with their sizes."""
    from swinclf.models.names import list_backbones, recommended_backbones

    if not pattern and not as_json:
        recommended = recommended_backbones()
        if impl is Impl.NATIVE:
            recommended.pop(next(iter(recommended)))  # the embedded one, which timm builds
        write_data(tables.recommended_text(recommended))
    backbones = list_backbones(pattern, impl=impl)
    if not backbones:
        raise ConfigError(
            "part of the name of a backbone"
            + (" that this package builds itself" if impl is Impl.NATIVE else ""),
            found=f"'{pattern}', which matches none",
            hint="swinclf models swin",
        )
    records = [asdict(one) for one in backbones]
    write_data(to_json(records) if as_json else tables.backbones_text(backbones))
    return ExitCode.OK


def doctor_command(
    as_json: JsonOption = False,
) -> None:
    """Show versions, device, precision, caches, speed."""
    from swinclf.commands.doctor import examine

    findings = dict(examine())
    write_data(to_json(findings) if as_json else tables.findings_text(findings, output_width()))
