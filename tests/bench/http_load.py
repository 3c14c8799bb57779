"""A client that costs little: HTTP/1.1 by hand over kept connections, so many at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

ANSWER_S = 60.0
Request = tuple[bytes, bytes]
"""Its head, without length and end; its body."""


@dataclass(frozen=True, slots=True)
class Load:
    """What came of it: answers a second, and each one's milliseconds."""

    rate: float
    took_ms: list[float]


def request(path: str, key: str, **headers: str) -> bytes:
    """The head of a POST."""
    given = {"Host": "localhost", "Authorization": f"Bearer {key}", "Content-Type": "application/json", **headers}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in given.items())]
    return "\r\n".join(lines).encode()


async def load(url: str, at_once: int, requests: int, make: Callable[[int], Request], wanted: bytes) -> Load:
    """So many requests, so many at once; each answer has `wanted` in it. `make` is given the caller's number."""
    host, _, port = url.removeprefix("http://").partition(":")
    left, took = iter(range(requests)), []

    async def caller(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in left:
            head, body = make(number)
            began = time.perf_counter()
            writer.write(b"%s\r\nContent-Length: %d\r\n\r\n%s" % (head, len(body), body))
            answer = await asyncio.wait_for(_answer(reader), ANSWER_S)
            took.append((time.perf_counter() - began) * 1000)
            assert wanted in answer, answer
        writer.close()
        await writer.wait_closed()

    began = time.perf_counter()
    await asyncio.gather(*(caller(number) for number in range(at_once)))
    return Load(requests / (time.perf_counter() - began), took)


async def _answer(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        whole = b""
        while length := int((await reader.readline()).split(b";")[0], 16):
            whole += (await reader.readexactly(length + 2))[:-2]
        await reader.readline()
        return whole
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return head + await reader.readexactly(length)
