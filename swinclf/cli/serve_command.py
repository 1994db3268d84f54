"""serve: its options, and where the address is printed."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from swinclf.cli import console
from swinclf.cli.options import (
    DeviceOption,
    ImplOption,
    PrecisionOption,
    RejectOption,
    RunOption,
    WorkersOption,
)
from swinclf.cli.streams import flush_data, write_data
from swinclf.run_folder import find_model
from swinclf.serving.serve_limits import ServeLimits
from swinclf.terminal import ConsoleReporter

if TYPE_CHECKING:
    from swinclf.serving.server import ServerAddress

DEFAULTS = ServeLimits()
HostOption = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="HOST",
        help="Address to listen on; 0.0.0.0 for all of this machine. Other than this "
        "machine's own, it requires a token.",
    ),
]
PortOption = Annotated[
    int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 for a free one.")
]
TokenOption = Annotated[
    str | None,
    typer.Option(
        "--token",
        metavar="TOKEN",
        envvar="SWINCLF_TOKEN",
        help="Token that every request needs; also from the variable SWINCLF_TOKEN.",
        show_default="none on 127.0.0.1, else a new one",
    ),
]
AddressJsonOption = Annotated[
    bool, typer.Option("--json", help="Print the address as JSON, on standard output.")
]
MaxFileOption = Annotated[
    int, typer.Option("--max-file", min=1, metavar="MIB", help="Size of a file, MiB.")
]
MaxRequestOption = Annotated[
    int, typer.Option("--max-request", min=1, metavar="MIB", help="Size of a request, MiB.")
]
MaxFilesOption = Annotated[int, typer.Option("--max-files", min=1, help="Files of a request.")]
MaxPixelsOption = Annotated[
    int | None,
    typer.Option(
        "--max-pixels", min=1, help="Size of an image, px.", show_default="as for predict"
    ),
]
MaxSecondsOption = Annotated[
    float,
    typer.Option("--max-seconds", min=0.1, help="Time to receive a request, and to answer it, s."),
]
MaxQueueOption = Annotated[
    int, typer.Option("--max-queue", min=1, help="Images of all requests at a time.")
]


def serve_command(
    run: RunOption = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8000,
    token: TokenOption = None,
    reject: RejectOption = None,
    as_json: AddressJsonOption = False,
    max_file: MaxFileOption = DEFAULTS.file_mib,
    max_request: MaxRequestOption = DEFAULTS.request_mib,
    max_files: MaxFilesOption = DEFAULTS.files,
    max_pixels: MaxPixelsOption = DEFAULTS.pixels,
    max_seconds: MaxSecondsOption = DEFAULTS.seconds,
    max_queue: MaxQueueOption = DEFAULTS.queue,
    impl: ImplOption = None,
    device: DeviceOption = "auto",
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
) -> None:
    """Answer HTTP requests, with a page for dropping images."""
    from swinclf.commands.serve import serve
    from swinclf.inference.predictor import InferenceOptions

    def print_address(address: ServerAddress, model: str) -> None:
        record = {"url": address.url, "token": address.token, "model": model}
        write_data(f"{json.dumps(record) if as_json else address.page_url}\n")
        flush_data()
        console.print_line(f"{model} answers there; Ctrl-C stops it")

    serve(
        find_model(run),
        host=host,
        port=port,
        token=token,
        reject=reject,
        limits=ServeLimits(
            file_mib=max_file,
            request_mib=max_request,
            files=max_files,
            pixels=max_pixels,
            seconds=max_seconds,
            queue=max_queue,
        ),
        options=InferenceOptions(impl, device, precision),
        workers=workers,
        report=ConsoleReporter(),
        ready=print_address,
    )
