"""A provider that answers at once: OpenAI's chat completions, whole or streamed, ready-made, from its own process.

It is not to be what is measured: it reads a request's length, looks for `"stream":true`, and writes.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

WORDS = 20


def _completion(kind: str, choice: dict[str, Any], **more: Any) -> bytes:
    said = {"id": "chatcmpl-1", "object": kind, "created": 1, "model": "gpt-4o-mini", "choices": [choice], **more}
    return json.dumps(said).encode()


_USAGE = {"prompt_tokens": 9, "completion_tokens": WORDS, "total_tokens": 9 + WORDS}
_WHOLE = _completion(
    "chat.completion",
    {"index": 0, "message": {"role": "assistant", "content": "word " * WORDS}, "finish_reason": "stop"},
    usage=_USAGE,
)
_PIECES = [
    *(_completion("chat.completion.chunk", {"index": 0, "delta": {"content": "word "}}) for _ in range(WORDS)),
    _completion("chat.completion.chunk", {"index": 0, "delta": {}, "finish_reason": "stop"}, usage=_USAGE),
]
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\n\r\n"
_STREAM = b"".join(b"data: %s\n\n" % piece for piece in [*_PIECES, b"[DONE]"])
ANSWER = _HEAD % (b"application/json", len(_WHOLE)) + _WHOLE
STREAMED = _HEAD % (b"text/event-stream", len(_STREAM)) + _STREAM


class _Answers(asyncio.Protocol):
    """One connection; requests follow one another."""

    def connection_made(self, transport: Any) -> None:
        self._transport, self._read = transport, b""

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head = self._read[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            whole = end + 4 + length
            if len(self._read) < whole:
                return
            body, self._read = self._read[end + 4 : whole], self._read[whole:]
            streamed = b'"stream":true' in body or b'"stream": true' in body
            self._transport.write(STREAMED if streamed else ANSWER)


class FastProvider:
    """The process."""

    def __enter__(self) -> FastProvider:
        here, there = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        assert here.poll(30), "the provider starts"
        self.url = f"http://127.0.0.1:{here.recv()}/v1"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(10)


def _serve(there: Connection) -> None:
    import uvloop

    async def forever() -> None:
        server = await asyncio.get_running_loop().create_server(_Answers, "127.0.0.1", 0)
        there.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    uvloop.run(forever())
