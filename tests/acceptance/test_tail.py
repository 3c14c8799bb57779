"""`skeldir tail`, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from uuid import uuid4

from tests.stack import Stack, eventually


def test_a_tail_follows_a_request_to_its_end(stack: Stack) -> None:
    request, prompt = str(uuid4()), {"text": "a private question"}
    command = [sys.executable, "-m", "skeldir", "tail", "--json", "--request", request, "--from-start"]
    tail = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=stack.environment)

    def follows() -> bool:
        """Until then it may take longer to start than what all have read is kept."""
        clients = stack.redis().client_list()
        return any(one["name"].startswith("skeldir-cli-") and one["cmd"].startswith("xread") for one in clients)

    try:
        eventually(follows, "it reads the log", 60)
        result = stack.run(request_id=request, prompt=prompt)
        assert tail.stdout is not None
        # Each stream in its order; between streams none is promised.
        awaited = {"task.submitted", "task.allowed", "attempt.started", "task.succeeded", "reservation.ended"}
        while awaited:
            line = tail.stdout.readline()
            assert "private" not in line
            found = json.loads(line)
            assert found["event"]["subject"] == result["task_id"] and found["stream"] and found["entry_id"]
            awaited.discard(found["event"]["type"])
    finally:
        tail.terminate()
        tail.wait(10)
