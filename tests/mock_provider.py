"""A real HTTP server that speaks OpenAI's wire format, keeps its own account of what it was asked and what it charged,
and fails as it is told. It runs in a thread of its own, so that synchronous and asynchronous tests can use it.

    with MockProvider() as provider:
        provider.script(Reply(status=503), Reply(text="hello"))
        ... a client with base_url=provider.url ...
        assert len(provider.calls) == 2 and provider.charged_calls == 1
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Literal

HELD_LOOK_S = 0.01


@dataclass(frozen=True)
class Reply:
    """How one request is answered. `body` stands in place of the completion that `text` and the rest would make."""

    status: int = 200
    text: Any = "hello"
    model: str = "gpt-4o-mini"
    usage: Any = field(default_factory=lambda: {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100})
    message: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | dict[str, Any] | None = None
    delay_s: float = 0
    until: threading.Event | None = None
    """Answered when this is set, and not before."""
    drop: Literal["", "unanswered", "in the middle"] = ""
    drip_s: float = 0
    pieces: tuple[dict[str, Any] | bytes, ...] | None = None
    """Of a streamed answer: chunks, or the data of an event as bytes; None: `text` in words, a stop and the usage."""
    pause_s: float = 0
    """Before each piece but the first."""
    endless: bool = False
    """Says its last piece again and again."""
    charges: bool | None = None

    @property
    def charged(self) -> bool:
        """Whether the provider bills this call: as a rule, when it did the work."""
        return self.status == 200 if self.charges is None else self.charges

    def events(self) -> Iterator[bytes]:
        """The data of each event of a streamed answer."""
        for piece in self._default_pieces() if self.pieces is None else self.pieces:
            yield piece if isinstance(piece, bytes) else json.dumps(piece).encode()
        while self.endless and self.pieces:
            yield json.dumps(self.pieces[-1]).encode()
        yield b"[DONE]"

    def frame(self, data: bytes) -> bytes:
        """One server-sent event."""
        return b"data: %s\n\n" % data

    def streams(self, path: str, asked: dict[str, Any]) -> bool:
        """Whether this answer comes in pieces."""
        return bool(asked.get("stream")) and self.status == 200 and self.body is None

    def _default_pieces(self) -> Iterator[dict[str, Any]]:
        for number, word in enumerate(str(self.text).split(" ")):
            yield piece({"role": "assistant", "content": word} if number == 0 else {"content": f" {word}"})
        yield piece({}, "stop")
        yield {**piece({}), "choices": [], "usage": self.usage}

    def content(self) -> bytes:
        """The response's body."""
        if isinstance(self.body, bytes):
            return self.body
        if self.body is not None:
            return json.dumps(self.body).encode()
        if self.status != 200:
            return json.dumps(
                {"error": {"message": f"scripted {self.status}", "type": "scripted", "code": None}}
            ).encode()
        message = {"role": "assistant", "content": self.text, **self.message}
        completion = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": self.model,
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": self.usage,
        }
        return json.dumps({name: value for name, value in completion.items() if value is not None}).encode()


def piece(delta: dict[str, Any], finish: str | None = None, **more: Any) -> dict[str, Any]:
    """A chunk of a streamed answer."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    kind = "chat.completion.chunk"
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-4o-mini", "choices": [choice], **more}


@dataclass(frozen=True)
class Received:
    """One request as it arrived."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    reply: Reply


class MockProvider:
    """The server. What is not scripted is answered by `default`."""

    def __init__(self, default: Reply | None = None) -> None:
        self.default = default or Reply()
        self.calls: list[Received] = []
        self.abandoned = 0
        """Streams whose client went before their end."""
        self._script: deque[Reply] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="mock provider", daemon=True)
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[Any]] = set()
        self.port = 0

    def __enter__(self) -> MockProvider:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    @property
    def url(self) -> str:
        """For OPENAI_BASE_URL."""
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def origin(self) -> str:
        """For SDKs that put the version before the path by themselves."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def charged_calls(self) -> int:
        """How many calls the provider bills."""
        return sum(call.reply.charged for call in self.calls)

    def script(self, *replies: Reply) -> None:
        """Answer the next requests so, in this order."""
        self._script.extend(replies)

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        """Enter one request into the account, and say how it is answered."""
        reply = self._script.popleft() if self._script else self.default
        self.calls.append(Received(path, headers, body, reply))
        return reply

    async def _stream(self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Server-sent events in chunked encoding; the connection ends with them."""
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        leaving = asyncio.create_task(reader.read(1))
        try:
            for number, data in enumerate(reply.events()):
                if number and reply.pause_s:
                    await asyncio.wait({leaving}, timeout=reply.pause_s)
                if leaving.done():
                    self.abandoned += 1
                    return False
                event = reply.frame(data)
                writer.write(b"%x\r\n%s\r\n" % (len(event), event))
                await writer.drain()
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        finally:
            leaving.cancel()
        return False

    async def _start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop(self) -> None:
        assert self._server is not None, "stopped after it was started"
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "started by the server as a task"
        self._connections.add(task)
        try:
            while await self._request(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            self._connections.discard(task)
            writer.close()

    async def _request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Read one request and answer it. False: the connection ends."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        path = head[0].split(" ")[1]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        asked = json.loads(body) if body else {}
        reply = self.answer(path, headers, asked)
        await asyncio.sleep(reply.delay_s)
        while reply.until is not None and not reply.until.is_set():
            await asyncio.sleep(HELD_LOOK_S)
        if reply.drop == "unanswered":
            return False
        if reply.streams(path, asked):
            return await self._stream(reply, reader, writer)
        content = reply.content()
        lines = [
            f"HTTP/1.1 {reply.status} Scripted",
            "content-type: application/json",
            f"content-length: {len(content)}",
        ]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode())
        if reply.drop == "in the middle":
            writer.write(content[: len(content) // 2])
            await writer.drain()
            return False
        for byte in content if reply.drip_s else ():
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(reply.drip_s)
        writer.write(b"" if reply.drip_s else content)
        await writer.drain()
        return True
