"""The HTTP server: its socket, its address, and a shutdown that loses no accepted request."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from swinclf.errors import ConfigError, ExitCode, Interrupted
from swinclf.inference.predictor import Predictor
from swinclf.serving.batcher import ImageBatcher
from swinclf.serving.gate import Gate, ServeCounters, is_loopback
from swinclf.serving.http_api import PredictionService, build_api
from swinclf.serving.serve_limits import ServeLimits

ARRIVAL_S = 0.2  # for what is on its way when the server is stopped
KEEP_ALIVE_S = 30
WILDCARDS = ("0.0.0.0", "::", "")


@dataclass(frozen=True)
class ServerAddress:
    """Where the server listens, and for whom."""

    host: str  # a name or an address
    port: int
    token: str | None  # required from everyone; None requires none

    @property
    def url(self) -> str:
        """The address of the page; of all interfaces, by this machine's name."""
        host = socket.gethostname() if self.host in WILDCARDS else self.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    @property
    def page_url(self) -> str:
        """The address of the page with the token, in a part that a browser does not send."""
        if not self.token:
            return self.url
        return f"{self.url}/#token={quote(self.token, safe='', errors='surrogateescape')}"


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """Return whether a log record is of something else than a request that was given up."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


def choose_token(host: str, token: str | None) -> str | None:
    """Return the token: as given, else none on a loopback address, else a new one."""
    if token or is_loopback(host):
        return token or None
    return secrets.token_urlsafe(24)


def open_socket(host: str, port: int) -> socket.socket:
    """Return a listening socket on a name or an address of this machine.

    `port` 0 is any free one.

    Raises:
        ConfigError: If it cannot be opened.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"to listen on {host}, port {port} (--host, --port)",
            found=getattr(error, "strerror", None) or str(error),
            hint="--port 0, which takes a free one; --host 127.0.0.1 or 0.0.0.0",
        ) from error


class HeaderTimeoutProtocol(H11Protocol):
    """A connection that is closed if the headers of a request do not come in time.

    uvicorn has no such limit, so that clients could keep connections open with half a request.
    """

    header_seconds = 30.0  # to receive the headers of a request
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time when the connection is open."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Stop the time when the headers are complete, and start it with those of the next."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the time."""
        super().connection_lost(exc)
        self._stop()

    def _watch(self) -> None:
        # After an answer that did not wait for the body, the rest of it is waited for as well.
        if self.conn.their_state is not h11.IDLE and self.conn.our_state is not h11.DONE:
            self._stop()
        elif self._timer is None:
            self._timer = self.loop.call_later(self.header_seconds, self.transport.close)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class GracefulServer(uvicorn.Server):
    """A server that answers what has been sent to it before it stops."""

    def __init__(self, config: uvicorn.Config, gate: Gate) -> None:
        super().__init__(config)
        self._gate = gate

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, wait for requests on their way, and then for all answers.

        Clients that keep connections are asked to close them: another request on one would be lost.
        """
        self._gate.is_closing = True
        for server in self.servers:
            server.close()
        await asyncio.sleep(ARRIVAL_S)
        await super().shutdown(sockets)


def run_server(
    predictor: Predictor,
    listener: socket.socket,
    address: ServerAddress,
    *,
    metrics: Mapping[str, Any] | None,
    reject: float | None,
    limits: ServeLimits,
    workers: int,
    ready: Callable[[], None],
) -> None:
    """Answer requests until SIGTERM or Ctrl-C.

    `listener` is from `open_socket`; `metrics` and `reject` are those of `PredictionService`.
    `ready` is called before the first request is answered.

    Raises:
        Interrupted: If a second Ctrl-C ended it before all requests were answered.
    """
    counters = ServeCounters()
    with ImageBatcher(
        predictor, workers=workers, limits=limits, on_batch=counters.batches.observe
    ) as batcher:
        counters.waiting.set_function(lambda: batcher.waiting)
        service = PredictionService(predictor, metrics, reject, limits, batcher, counters)
        gate = Gate(
            build_api(service),
            token=address.token,
            is_loopback=is_loopback(address.host),
            counters=counters,
        )
        protocol = type("Protocol", (HeaderTimeoutProtocol,), {"header_seconds": limits.seconds})
        server = GracefulServer(
            uvicorn.Config(
                gate,
                http=protocol,
                ws="none",
                lifespan="off",
                log_config=None,
                log_level="error",
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                # A client may not read its answer at all.
                timeout_graceful_shutdown=math.ceil(2 * limits.seconds) + 1,
            ),
            gate,
        )
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        ready()
        with suppress(KeyboardInterrupt, Interrupted):  # uvicorn raises the signal again at its end
            server.run(sockets=[listener])
        if server.force_exit:
            raise Interrupted(ExitCode.INTERRUPTED)
