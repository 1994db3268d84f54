"""The gate of the server: who may ask, how a request is refused, and how every one is counted.

On the loopback address a web page from elsewhere could reach the server by a name of its own that
resolves to that address (DNS rebinding), so the `Host` of a request must be a loopback one. Other
addresses require a token.
"""

from __future__ import annotations

import hmac
import ipaddress
from time import perf_counter
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)
from starlette.datastructures import Headers
from starlette.responses import JSONResponse

from swinclf.errors import SwinclfError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

OPEN_PATHS = ("/", "/health")  # the page asks for the token itself, and has nothing to hide
RETRY_AFTER = {"retry-after": "1"}  # s
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


class RequestError(SwinclfError):
    """A request that is refused, with an HTTP status and headers of the response."""

    def __init__(
        self,
        status: int,
        expected: str,
        *,
        found: str,
        hint: str,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(expected, found=found, hint=hint)
        self.status, self.headers = status, headers

    def response(self) -> JSONResponse:
        """Return the response: JSON with the key `error`."""
        return JSONResponse({"error": str(self)}, self.status, self.headers)


class ServeCounters:
    """Counters of requests, images and batches; with memory and CPU time on Linux."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "swinclf_requests", "Requests by HTTP status.", ["status"], registry=registry
        )
        self.seconds = Histogram(
            "swinclf_request_seconds", "Time to answer a request.", registry=registry
        )
        self.images = Counter("swinclf_images", "Images by result.", ["result"], registry=registry)
        self.batches = Histogram(
            "swinclf_batch_images", "Images of a batch.", buckets=BATCH_SIZES, registry=registry
        )
        self.waiting = Gauge(
            "swinclf_waiting_images", "Images decoded, computed or waiting.", registry=registry
        )

    def text(self) -> bytes:
        """Return all counters, in Prometheus' text format 0.0.4."""
        return generate_latest(self._registry)


class Gate:
    """ASGI middleware that refuses requests of others and counts all.

    `token` is required from everyone; None requires none. `is_loopback` is whether the server
    listens on a loopback address. The attribute `is_closing` is whether to ask clients to close
    their connections.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, is_loopback: bool, counters: ServeCounters
    ) -> None:
        self._app, self._token, self._counters = app, token, counters
        self._is_loopback, self.is_closing = is_loopback, False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = perf_counter(), 500

        async def noting_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.is_closing:
                    message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        try:
            refusal = self._refusal(Headers(scope=scope), scope["path"])
            answer = refusal.response() if refusal else self._app
            await answer(scope, receive, noting_status)
        finally:
            self._counters.requests.labels(str(status)).inc()
            self._counters.seconds.observe(perf_counter() - start)

    def _refusal(self, headers: Headers, path: str) -> RequestError | None:
        host = headers.get("host", "")
        if self._is_loopback and not is_loopback(_name_of(host)):
            return RequestError(
                421,
                "localhost or a loopback address in the header Host",
                found=host or "none",
                hint="for other machines: swinclf serve --host 0.0.0.0",
            )
        if self._token is None or path in OPEN_PATHS:
            return None
        given = headers.get("authorization", "")
        # ASGI headers are bytes decoded as Latin-1; programs send a token as UTF-8.
        expected = f"Bearer {self._token}".encode(errors="surrogateescape")
        if hmac.compare_digest(given.encode("latin-1"), expected):
            return None
        return RequestError(
            401,
            "the server's token in the header Authorization",
            found="another one" if given else "no such header",
            hint="Authorization: Bearer TOKEN",
            headers={"www-authenticate": "Bearer"},
        )


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is of this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _name_of(host: str) -> str:
    """Return a Host header without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]
