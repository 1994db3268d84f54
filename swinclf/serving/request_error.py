"""The errors of requests: as those of the command line, with an HTTP status."""

from __future__ import annotations

from starlette.responses import JSONResponse

from swinclf.errors import SwinclfError

RETRY_AFTER = {"retry-after": "1"}  # s


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
