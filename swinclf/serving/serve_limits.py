"""The limits of the server, as plain values.

Imports nothing that takes time, as the command line shows the defaults in --help.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
REQUESTS_IN_MEMORY = 4  # of the largest size; of usual ones, many more


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What the server accepts.

    Attributes:
        file_mib: Size of a file, MiB.
        request_mib: Size of a request, MiB.
        files: Files of a request.
        pixels: Size of an image, px; None for the limits of `data.limits`.
        seconds: Time to receive a request, and then again to answer it.
        queue: Images of all requests that are decoded, computed or wait for it.
    """

    file_mib: int = 32
    request_mib: int = 128
    files: int = 64
    pixels: int | None = None
    seconds: float = 30.0
    queue: int = 256

    @property
    def file_bytes(self) -> int:
        """Size of a file, bytes."""
        return self.file_mib * MIB

    @property
    def request_bytes(self) -> int:
        """Size of a request, bytes."""
        return self.request_mib * MIB

    @property
    def received_bytes(self) -> int:
        """Size of all requests in memory, bytes."""
        return REQUESTS_IN_MEMORY * self.request_bytes
