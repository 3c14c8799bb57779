"""Reading a response's bytes, within bounds (a provider that does not stop is cut off), and what a lost one means."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx2  # the SDKs' own transport: what it raises stands behind their errors, and now and then in their place

from services.executor.providers.protocol import ProviderFailure

_BEFORE_THE_REQUEST = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.UnsupportedProtocol)
# Of each request: what comes compressed may be a thousand times as long.
UNCOMPRESSED = {"accept-encoding": "identity"}
UNPACKED_BYTES = 2**16
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
MAX_ANSWER_BYTES = 4 * 2**20
# A chunk of three letters has some 200 bytes around them.
MAX_STREAM_BYTES = 16 * MAX_ANSWER_BYTES


async def bounded(parts: AsyncIterator[bytes]) -> bytes:
    """The whole of a body that comes in parts. Raises ProviderFailure for one that is too large."""
    body = bytearray()
    async for part in parts:
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            problem = f"the answer has more than {MAX_ANSWER_BYTES} bytes"
            raise ProviderFailure("AnswerTooLarge", problem, spend="uncertain")
    return bytes(body)


async def server_sent(parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The data of each server-sent event, on one line. Raises as `bounded`."""
    size, rest, data = 0, b"", []
    async for part in parts:
        size += len(part)
        if size > MAX_STREAM_BYTES or len(rest) > MAX_ANSWER_BYTES:
            problem = f"the stream has more than {MAX_STREAM_BYTES} bytes, or one line more than {MAX_ANSWER_BYTES}"
            raise ProviderFailure("AnswerTooLarge", problem, spend="uncertain")
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            line = line.rstrip(b"\r")
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif not line and data:
                yield b" ".join(data)
                data = []
    if data:
        yield b" ".join(data)


class _Unpacked(httpx2.AsyncByteStream):
    """A body that came compressed all the same, a little at a time: whoever reads it may stop before it is large."""

    def __init__(self, body: Any, coding: str) -> None:
        self._body = body
        self._coding = coding

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._coding not in ("gzip", "deflate"):
            raise httpx2.DecodingError(f"the answer is packed as {self._coding}, and none was to be packed")
        unpacking, empty = zlib.decompressobj(_GZIP_OR_ZLIB), True
        try:
            async for part in self._body:
                empty = empty and not part
                while part:
                    yield unpacking.decompress(part, UNPACKED_BYTES)
                    part = unpacking.unconsumed_tail
        except zlib.error as error:
            raise httpx2.DecodingError(f"the answer cannot be unpacked: {error}") from error
        if not unpacking.eof and not empty:  # an error may have no body, and name a packing all the same
            raise httpx2.DecodingError("the answer cannot be unpacked: it ends too soon")

    async def aclose(self) -> None:
        await self._body.aclose()


class _Counted(httpx2.AsyncByteStream):
    """A body that is cut off where it does not end."""

    def __init__(self, body: Any, most: int) -> None:
        self._body = body
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._body:
            size += len(part)
            if size > self._most:
                raise ProviderFailure(
                    "AnswerTooLarge", f"the answer has more than {self._most} bytes", spend="uncertain"
                )
            yield part

    async def aclose(self) -> None:
        await self._body.aclose()


async def counted(response: httpx2.Response) -> None:
    """A hook for an SDK that reads its responses by itself: reading them raises as `bounded` and `server_sent` do."""
    if (coding := response.headers.get("content-encoding", "identity").lower()) != "identity":
        response.stream = _Unpacked(response.stream, coding)  # else that is done at once, before anybody counts
        del response.headers["content-encoding"]
    streams = "event-stream" in response.headers.get("content-type", "")
    response.stream = _Counted(response.stream, MAX_STREAM_BYTES if streams else MAX_ANSWER_BYTES)


def of_lost_connection(kind: str, detail: str, cause: BaseException | None) -> ProviderFailure:
    """No response came, or not all of it; `cause` is what the transport raised."""
    if isinstance(cause, _BEFORE_THE_REQUEST):
        return ProviderFailure(kind, detail, retry=True)
    # The request was sent: it may have been worked off, and charged, though its answer was lost or cannot be read.
    return ProviderFailure(kind, detail, spend="uncertain")
