"""The Python client against the running system, and what it makes of a gateway that refuses, drops or is not there."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Barrier, Thread
from uuid import uuid4

import pytest

from skeldir import AsyncClient, Client, Pending, SkeldirError
from tests.stack import Stack, paused


@pytest.fixture
def client(stack: Stack) -> Iterator[Client]:
    with Client(stack.ready["gateway_url"], stack.ready["api_key"]) as opened:
        yield opened


def test_a_task_is_run_and_a_repeat_is_the_same(client: Client) -> None:
    prompt = {"simulated_output_text": "there", "simulated_cost_cents": 1}
    first = client.run("route", prompt, request_id=(request := str(uuid4())))
    assert (first.status, first.output_text, int(first.usage.cost_cents)) == ("success", "there", 1)
    assert client.run("route", prompt, request_id=request) == first


def test_a_submitted_task_is_pending_until_it_has_a_result(client: Client, stack: Stack) -> None:
    with paused(stack.pid("executor")):
        pending = client.submit("explanation", {})
        assert isinstance(pending, Pending)
        assert isinstance(client.result(pending.task_id), Pending)
    result = client.run("explanation", {}, request_id=pending.request_id)
    assert (result.status, client.result(pending.task_id)) == ("success", result)


def test_a_blocked_task_is_a_result_and_a_wrong_one_an_error(client: Client) -> None:
    blocked = client.run("route", {"kill_switch": True})
    assert (blocked.status, blocked.blocked_reason) == ("blocked", "provider_kill_switch")
    with pytest.raises(SkeldirError, match="task_type") as refused:
        client.run("guess", {})
    assert refused.value.status == 422
    with pytest.raises(SkeldirError) as unknown:
        client.result(uuid4())
    assert unknown.value.status == 404


async def test_the_same_for_asyncio(stack: Stack) -> None:
    async with AsyncClient(stack.ready["gateway_url"], stack.ready["api_key"]) as client:
        results = await asyncio.gather(*(client.run("route", {"text": str(n)}) for n in range(20)))
        assert {result.status for result in results} == {"success"}
        with paused(stack.pid("executor")):
            pending = await client.submit("route", {})
            assert isinstance(await client.result(pending.task_id), Pending)


Reply = tuple[int, dict[str, str], bytes]


@contextmanager
def gateway(*replies: Reply) -> Iterator[tuple[str, list[bytes]]]:
    """A server that gives these replies in turn (0: it hangs up), then the last for ever; what it was sent."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["content-length"])))
            status, headers, body = replies[min(len(sent), len(replies)) - 1]
            if not status:
                self.close_connection = True
                return
            self.send_response(status)
            for name, value in {**headers, "content-length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url:
        yield url, sent


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server of that handler's; its URL."""

    class Server(ThreadingHTTPServer):
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


FULL = (503, {"retry-after": "0.01"}, b'{"code": "log_full", "detail": "later"}')
TASK = str(uuid4())
ACCEPTED: tuple[int, dict[str, str], bytes] = (
    202,
    {},
    f'{{"status": "pending", "task_id": "{TASK}", "request_id": "r"}}'.encode(),
)


def test_what_was_refused_for_now_or_lost_is_sent_again_as_the_same_task() -> None:
    with gateway(FULL, (0, {}, b""), (502, {}, b"<html>"), ACCEPTED) as (url, sent), Client(url, "key") as client:
        pending = client.submit("route", {})
        assert isinstance(pending, Pending) and str(pending.task_id) == TASK
        assert len(sent) == 4 and len(set(sent)) == 1


def test_threads_that_share_a_client_keep_their_connections() -> None:
    """httpx closes surplus ones beside threads that are about to send on them; what they send is lost, and late."""
    together, opened = Barrier(40), Counter[str]()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            opened["connections"] += 1

        def do_GET(self) -> None:
            together.wait(30)
            self.send_response(404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with serving(Handler) as url, Client(url, "key") as client, ThreadPoolExecutor(40) as threads:
        for _ in range(3):
            for one in [threads.submit(client.result, uuid4()) for _ in range(40)]:
                assert isinstance(one.exception(), SkeldirError)
    assert opened["connections"] == 40


def test_every_wait_ends() -> None:
    for reply, problem in ((FULL, "log_full"), (ACCEPTED, "has not ended")):
        with gateway(reply) as (url, _), Client(url, "key", timeout_s=0.5) as client, fails(problem):
            client.run("route", {})
    with Client("http://127.0.0.1:1", "key", timeout_s=0.5) as client, fails("unreachable"):
        client.submit("route", {})


def fails(problem: str) -> AbstractContextManager[object]:
    return pytest.raises(SkeldirError, match=problem)
