"""The limits of the server, as plain values.

Imports nothing that takes time, as the command line shows the defaults in --help.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 2**20
REQUESTS_IN_MEMORY = 4  # of the largest size; of usual ones, many more


@dataclass(frozen=True, kw_only=True)
class ServeLimits:
    """What the server accepts."""

    file_mib: int = 32  # size of a file, MiB
    request_mib: int = 128  # size of a request, MiB
    files: int = 64  # files of a request
    pixels: int | None = None  # size of an image, px; None for the limits of `data.limits`
    seconds: float = 30.0  # time to receive a request, and then again to answer it
    queue: int = 256  # images of all requests that are decoded, computed or wait for it

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
