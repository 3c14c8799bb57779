"""What `skeldir up` does about what ends, while something else takes long."""

from __future__ import annotations

import asyncio
import os
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from shared.settings import Settings
from skeldir.up import Child, System


class SlowServer:
    """It has ended, and starts again for as long as it is let."""

    running = False

    def __init__(self) -> None:
        self.begun, self.over = threading.Event(), threading.Event()

    def start(self) -> None:
        self.begun.set()
        self.over.wait(60)


async def test_a_service_is_started_again_while_a_server_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(System, "_publish", lambda self: None)
    server, stop = SlowServer(), asyncio.Event()
    system = System(Settings(), tmp_path, None, lambda line: None)
    system.valkey = cast(Any, server)
    child = system.children["policy"] = Child("policy", ("--version",), dict(os.environ), tmp_path / "policy.log")
    watching = asyncio.create_task(system.watch(stop))
    try:
        async with asyncio.timeout(30):
            while not (server.begun.is_set() and child.process is not None):
                await asyncio.sleep(0.01)
            assert not server.over.is_set()
            await child.process.wait()
    finally:
        server.over.set()
        stop.set()
        await watching
