"""serve: answer HTTP requests for predictions, with a page for people, until it is stopped."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from swinclf.confidence.selective import threshold_for
from swinclf.device import default_workers
from swinclf.errors import ConfigError, RunError
from swinclf.files import read_json
from swinclf.inference.predictor import RUN_OPTIONS, InferenceOptions, open_predictor
from swinclf.reporter import SILENT, Reporter
from swinclf.run_folder import find_enclosing_run
from swinclf.serving.serve_limits import ServeLimits

if TYPE_CHECKING:
    from swinclf.serving.server import ServerAddress

PACKAGES = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def serve(
    model: Path,
    *,
    host: str,
    port: int,
    token: str | None = None,
    reject: float | None = None,
    limits: ServeLimits,
    options: InferenceOptions = RUN_OPTIONS,
    workers: int | None = None,
    report: Reporter = SILENT,
    ready: Callable[[ServerAddress, str], None] = lambda _address, _model: None,
) -> None:
    """Serve a model until SIGTERM or Ctrl-C, and then answer all requests that were accepted.

    `port` 0 is any free one. `token` is required from everyone; None requires none on a loopback
    address, and creates one elsewhere. `reject` is the target accuracy of the predictions that are
    accepted; None accepts all. `workers` is the number of threads that decode; None for one a core.
    `ready` is called with the address and the network's name before the first request.

    Raises:
        ConfigError: If the extra is missing, or the address cannot be listened on.
        RunError: If the model has no threshold for `reject`.
        Interrupted: If a second signal ended it before all requests were answered.
        SwinclfError: If the model cannot be opened.
    """
    _require_extra()
    from swinclf.serving.server import ServerAddress, choose_token, open_socket, run_server

    with open_socket(host, port) as listener:
        predictor = open_predictor(model, options)
        if predictor.note:
            report.warn(predictor.note)
        if reject is not None:
            threshold_for(predictor.card.confidence, reject)
        address = ServerAddress(host, listener.getsockname()[1], choose_token(host, token))
        run_server(
            predictor,
            listener,
            address,
            metrics=_metrics_of(model),
            reject=reject,
            limits=limits,
            workers=default_workers() if workers is None else workers,
            ready=lambda: ready(address, predictor.card.model),
        )


def _require_extra() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ConfigError(
            "the optional extra 'serve' for the server",
            found=f"not installed: {', '.join(missing)}",
            hint="pip install 'swinclf[serve]'",
        )


def _metrics_of(model: Path) -> dict[str, Any] | None:
    """Return the scores of the run that a model file is in; None if there are none."""
    run = find_enclosing_run(model)
    with suppress(RunError):
        return None if run is None else read_json(run.metrics)
    return None
