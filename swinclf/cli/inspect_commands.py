"""check, inspect, models and doctor: a dataset, the networks and the machine, shown as they are.

A command is imported when it is called: torch takes seconds to import, and --help should not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from swinclf.cli import console, tables
from swinclf.cli.options import StrictOption, WorkersOption
from swinclf.cli.streams import write_data
from swinclf.cli.tables import ResultFormat
from swinclf.config import Impl
from swinclf.errors import ConfigError, ExitCode
from swinclf.settings import key_values
from swinclf.terminal import ConsoleReporter


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


Subject = Annotated[
    Optional[str],  # noqa: UP045
    typer.Argument(
        metavar="MODEL|RUN",
        help="A name that `swinclf models` lists, `vit` or `swin` for own shapes, or a run.",
        show_default="the newest finished run under runs/",
    ),
]
ImageOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--image",
        help="Draw the network's attention on this picture.",
        show_default="with --output: one of the run's samples, else a drawn flower",
    ),
]
PicturesOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--output",
        help="Draw pictures into this folder.",
        show_default="inspect-NAME-N here where pictures are asked for, else none are drawn",
    ),
]
WeightsOption = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        "--weights",
        help="Draw pictures of a name with this weights file or run.",
        show_default="random weights",
    ),
]
PretrainedOption = Annotated[
    bool,
    typer.Option(
        "--pretrained",
        help="Draw pictures of a name with its published weights. Default: random weights.",
    ),
]
ImgSizeOption = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option(
        "--img-size", min=1, help="Side of a name's images, px.", show_default="the name's own"
    ),
]
ModelArgOption = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--model-arg",
        help="KEY=VALUE, repeatable: what differs from the name's shape.",
        show_default="none",
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


def doctor_command(
    result_format: Annotated[
        ResultFormat, typer.Option("--format", help="How the findings are printed.")
    ] = ResultFormat.TABLE,
) -> None:
    """Show versions, device, precision, caches, speed."""
    from swinclf.commands.doctor import examine

    write_data(tables.findings_text(examine(), result_format))
