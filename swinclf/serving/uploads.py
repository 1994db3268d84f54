"""The images of a request: one as its body, or several as the files of a form.

Bytes are counted while they arrive, so that requests together take no more memory than allowed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import File, FormParser, parse_options_header

from swinclf.data.images import ExcessiveImage
from swinclf.data.limits import why_not_bytes
from swinclf.serving.gate import RETRY_AFTER, RequestError
from swinclf.serving.serve_limits import ServeLimits

FORM = "multipart/form-data"
logging.getLogger("python_multipart").addHandler(logging.NullHandler())  # the client gets it


@dataclass(frozen=True, slots=True)
class Upload:
    """One image file of a request."""

    name: str  # as the form gives it; empty for a body
    data: bytes


class UploadReader:
    """Reads requests within limits."""

    def __init__(self, limits: ServeLimits) -> None:
        self._limits, self._held_bytes = limits, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[list[Upload]]:
        """Receive the images of a request; their memory counts until the end of the block.

        What a refused client sends further is read and forgotten by uvicorn: a connection closed
        meanwhile would be reset before the client has read why.

        Raises:
            RequestError: If the request is too large, too slow or malformed, or if there is no
                memory left for it.
            ExcessiveImage: If it is one file, and that is too large.
        """
        held, limits = 0, self._limits

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal held
            async for chunk in request.stream():
                held += len(chunk)
                self._held_bytes += len(chunk)
                _check_request(held, limits)
                if self._held_bytes > limits.received_bytes:
                    raise RequestError(
                        429,
                        f"at most {limits.received_bytes:,} bytes of all requests at a time",
                        found="more, in requests that are received or computed",
                        hint="send it again later",
                        headers=RETRY_AFTER,
                    )
                yield chunk

        try:
            try:
                async with asyncio.timeout(limits.seconds):
                    uploads = await _receive(request, chunks(), limits)
            except TimeoutError as error:
                raise RequestError(
                    408,
                    f"the whole request within {limits.seconds:g} s",
                    found=f"{held:,} bytes until then",
                    hint="fewer or smaller files in a request",
                ) from error
            yield uploads
        finally:
            self._held_bytes -= held


async def _receive(
    request: Request, chunks: AsyncIterator[bytes], limits: ServeLimits
) -> list[Upload]:
    """Return the uploads of a request, whose declared size is checked before anything is read."""
    declared = request.headers.get("content-length", "")
    size = int(declared) if declared.isdecimal() else 0
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind.decode("latin-1") == FORM:
        return await _receive_form(chunks, options.get(b"boundary"), size, limits)
    body = bytearray()
    _check_file(size, limits)
    _check_request(size, limits)
    async for chunk in chunks:
        body += chunk
        _check_file(len(body), limits)
    return [Upload("", bytes(body))]


def _check_file(size: int, limits: ServeLimits) -> None:
    if reason := why_not_bytes(size, limits.file_bytes):
        raise ExcessiveImage(reason)


async def _receive_form(
    chunks: AsyncIterator[bytes], boundary: bytes | None, size: int, limits: ServeLimits
) -> list[Upload]:
    uploads: list[Upload] = []
    part_count, is_whole = 0, False

    def count(_part: object) -> None:
        nonlocal part_count
        part_count += 1
        if part_count > limits.files:
            raise RequestError(
                413,
                f"at most {limits.files} files in a request",
                found="more",
                hint="several requests",
            )

    def add(file: File) -> None:
        count(file)
        name = (file.file_name or b"").decode("utf-8", "surrogateescape")
        file.file_object.seek(0)
        uploads.append(Upload(name, file.file_object.read()))

    def end() -> None:
        nonlocal is_whole
        is_whole = True

    in_memory = {"MAX_MEMORY_FILE_SIZE": limits.request_bytes + 1}
    _check_request(size, limits)
    try:
        parser = FormParser(FORM, count, add, end, boundary, config=in_memory)
        async for chunk in chunks:
            parser.write(chunk)
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not is_whole:
        raise _malformed("no end of the form")
    if not uploads:
        raise RequestError(
            422,
            "at least one file in the form",
            found="none",
            hint="curl --form file=@rose.jpg URL",
        )
    return uploads


def _check_request(size: int, limits: ServeLimits) -> None:
    if reason := why_not_bytes(size, limits.request_bytes):
        hint = "fewer or smaller files in a request"
        raise RequestError(413, "a smaller request", found=reason, hint=hint)


def _malformed(found: str) -> RequestError:
    return RequestError(
        400,
        f"a form as in RFC 7578 ({FORM})",
        found=found,
        hint="curl --form file=@rose.jpg URL, or the image file as the body",
    )
