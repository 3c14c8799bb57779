"""The gateway's HTTP server with nothing behind it: uvicorn, as the services run it, and one answer's bytes."""

from __future__ import annotations

import asyncio
import multiprocessing
from multiprocessing.connection import Connection
from typing import Any

import uvicorn


class BareServer:
    """The process."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def __enter__(self) -> BareServer:
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(there, self._answer), daemon=True)
        self._process.start()
        assert here.poll(30), "the server starts"
        self.url = f"http://127.0.0.1:{here.recv()}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join(10)


def _serve(there: Connection, answer: bytes) -> None:
    import uvloop

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            while (await receive()).get("more_body"):
                pass
            headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            await send({"type": "http.response.body", "body": answer})

    async def forever() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, lifespan="off"))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        there.send(server.servers[0].sockets[0].getsockname()[1])
        await serving

    uvloop.run(forever())
