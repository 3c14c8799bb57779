"""The examples of docs/clients.md, run as they stand there, where the machine has what they need."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stack import Stack, eventually

PAGE = (Path(__file__).parents[2] / "docs" / "clients.md").read_text()


def example(language: str, after: str) -> str:
    """The first block of this language behind a heading."""
    found = re.search(rf"## {after}.*?```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None, f"docs/clients.md has no {language} example under {after}"
    return found[1]


def run(stack: Stack, *command: str) -> str:
    about = {"SKELDIR_GATEWAY_URL": stack.ready["gateway_url"], "SKELDIR_API_KEY": stack.ready["api_key"]}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **about, "NO_PROXY": "*"}
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def needs(program: str) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not on this machine")


def test_python(stack: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    code = example("python", "Python").replace("http://127.0.0.1:8080", stack.ready["gateway_url"])
    exec(compile(code.replace("sk-skeldir-...", stack.ready["api_key"]), "docs/clients.md", "exec"), {})
    assert capsys.readouterr().out.startswith("success ")


def test_curl(stack: Stack) -> None:
    needs("curl")
    once = run(stack, "sh", "-c", example("sh", "curl"))
    assert json.loads(once)["status"] == "success"
    assert run(stack, "sh", "-c", example("sh", "curl")) == once


def test_typescript(stack: Stack) -> None:
    needs("node")
    # Without types of its own, the example is JavaScript as well.
    assert run(stack, "node", "--input-type=module", "-e", example("ts", "TypeScript")).startswith("success ")


def test_redis(stack: Stack) -> None:
    """`redis-cli` may be missing: its arguments are given to a Redis client as they stand."""
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    data = re.search(r"'(\{.*\})'", example("sh", "Redis"))
    assert data is not None
    task = {**json.loads(data[1]), "tenant_id": tenant, "user_id": user}
    stack.redis().xadd("skeldir:inbox", {"data": json.dumps(task)})
    query = "SELECT status FROM llm_api_calls WHERE request_id = 'order-4712' AND status <> 'pending'"
    assert eventually(lambda: stack.rows(query, tenant, user) or None, "the row")[0]["status"] == "success"


def test_replies_for_redis_cli(stack: Stack) -> None:
    """As above: both commands' arguments, given to a Redis client."""
    tenant, user = stack.ready["tenant_id"], stack.ready["user_id"]
    text = example("sh", "Replies on a stream")
    data, read = re.search(r"'(\{.*\})'", text), re.search(r"XREAD BLOCK \d+ STREAMS .*", text)
    assert data is not None and read is not None
    replies = f"skeldir:replies:{tenant}:orders"
    task = {**json.loads(data[1]), "tenant_id": tenant, "user_id": user, "reply_to": replies}
    stack.redis().delete(replies)
    stack.redis().xadd("skeldir:inbox", {"data": json.dumps(task)})
    found: Any = stack.redis().execute_command(*read[0].replace("...", tenant).split())
    assert b"order-4714" in str(found).encode()


def test_replies_in_python(stack: Stack, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKELDIR_REDIS_URL", stack.ready["redis_url"])
    monkeypatch.setenv("TENANT_ID", stack.ready["tenant_id"])
    monkeypatch.setenv("USER_ID", stack.ready["user_id"])
    exec(compile(example("python", "Replies on a stream"), "docs/clients.md", "exec"), {})
    assert capsys.readouterr().out.startswith("task.succeeded success ")
