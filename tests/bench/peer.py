"""Beside a peer, in turns: Portkey's open gateway, which routes and keeps no ledger, before the same provider.

`npm install @portkey-ai/gateway` somewhere, and `python -m tests.bench.peer FOLDER`. The peer passes a call on; Skeldir
records it, decides it, calls, settles and books it. Both get the same requests from the same client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from uuid import uuid4

import httpx

from skeldir.embedded.process import free_port
from tests.bench.alone import ROOMY, tenants_of_all_partitions
from tests.bench.chain import kept
from tests.bench.door import CALLERS, Door
from tests.bench.fast_provider import FastProvider
from tests.bench.figures import Figure, in_turns, milliseconds, rate
from tests.bench.http_load import Load, Request, request
from tests.stack import Stack, eventually

START_S = 60.0


def measure(folder: Path, calls: int = 2000, turns: int = 3, at_once: int = 64) -> list[Figure]:
    """Whole answers, so many at once."""
    port = free_port()
    with FastProvider() as provider, tempfile.TemporaryDirectory(prefix="skeldir-bench-") as data:
        command = [str(folder / "node_modules" / ".bin" / "gateway"), f"--port={port}", "--headless"]
        trusting = {**os.environ, "TRUSTED_CUSTOM_HOSTS": "127.0.0.1"}  # to pass calls on to a provider on this machine
        peer = subprocess.Popen(command, env=trusting, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            given = {"OPENAI_API_KEY": "sk-bench", "OPENAI_BASE_URL": provider.url}
            with Stack(Path(data), {**ROOMY, **given}) as stack:
                tenants = tenants_of_all_partitions()
                keys = [stack.key(tenants[number % len(tenants)], str(uuid4())) for number in range(CALLERS)]
                door, url = Door(stack, provider.url, keys), f"http://127.0.0.1:{port}"
                eventually(partial(_answers, url), "the peer answers", START_S)
                door.warm()
                loads: dict[str, list[Load]] = {"peer": [], "door": []}
                asked = partial(_asked, provider.url)
                works: dict[str, Callable[[], float]] = {
                    "peer": lambda: kept(loads["peer"], url, at_once, calls, asked, b"word "),
                    "door": lambda: kept(
                        loads["door"], stack.ready["gateway_url"], at_once, calls, door.whole, b"word "
                    ),
                }
                works["peer"]()
                rates = in_turns(works, turns)
        finally:
            peer.terminate()
            peer.wait(START_S)
    took = {name: milliseconds([one for turn in of for one in turn.took_ms]) for name, of in loads.items()}
    return [
        rate(f"Portkey's open gateway, {at_once} at once", "calls", rates["peer"]),
        rate(f"OpenAI door, {at_once} at once", "calls", rates["door"], "the peer", rates["peer"]),
        *(Figure(f"latency, {name}", text) for name, text in took.items()),
    ]


def _asked(provider: str, _: int) -> Request:
    route = {"x-portkey-provider": "openai", "x-portkey-custom-host": provider}
    body = {"model": "gpt-4o-mini", "max_tokens": 30, "messages": [{"role": "user", "content": uuid4().hex}]}
    return request("/v1/chat/completions", "sk-bench", **route), json.dumps(body).encode()


def _answers(url: str) -> bool:
    with suppress(httpx.HTTPError):
        return httpx.get(url, trust_env=False).is_success
    return False


if __name__ == "__main__":
    for figure in measure(Path(sys.argv[1])):
        print(figure)
