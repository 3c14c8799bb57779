"""Webhooks from outside: set over HTTP and by command, told of a task's end, verified as docs/webhooks.md says."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from shared.webhook_signing import headers
from tests.stack import Stack, eventually
from tests.webhook_receiver import receiving

PAGE = (Path(__file__).parents[2] / "docs" / "webhooks.md").read_text()
KEY = b"thirty-two bytes of a secret...."
SECRET = f"whsec_{base64.b64encode(KEY).decode()}"
BODY = b'{"type": "webhook.test", "data": {"text": "\xc3\xa4"}}'


def example(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def now_s() -> int:
    return int(time.time())


def cases(now_s: int) -> list[tuple[dict[str, str], bytes, bool]]:
    """Headers, body, and whether they are to be believed."""
    good, old = headers(KEY, "msg_1", now_s, BODY), headers(KEY, "msg_1", now_s - 3600, BODY)
    rotated = {**good, "webhook-signature": f"v1,AAAA {good['webhook-signature']}"}
    return [
        (good, BODY, True),
        (rotated, BODY, True),
        (good, BODY + b" ", False),
        (old, BODY, False),
        ({**good, "webhook-id": "msg_2"}, BODY, False),
        (headers(b"another", "msg_1", now_s, BODY), BODY, False),
        ({**good, "webhook-signature": "v1,"}, BODY, False),
    ]


def test_the_python_example(now_s: int) -> None:
    space: dict[str, Any] = {}
    exec(compile(example("python"), "docs/webhooks.md", "exec"), space)
    for sent, body, genuine in cases(now_s):
        if genuine:
            space["verify"](sent, body, SECRET)
        else:
            with pytest.raises(ValueError, match=r"too old|not genuine"):
                space["verify"](sent, body, SECRET)


def test_the_typescript_example(now_s: int) -> None:
    if shutil.which("node") is None:
        pytest.skip("node is not on this machine")
    given = json.dumps([(sent, body.decode(), genuine) for sent, body, genuine in cases(now_s)])
    check = f"""
for (const [headers, body, genuine] of {given}) {{
  let believed = true;
  try {{ verify(headers, Buffer.from(body), "{SECRET}"); }} catch {{ believed = false; }}
  if (believed !== genuine) throw new Error(JSON.stringify(headers));
}}
console.log("checked");"""
    # Without types of its own, the example is JavaScript as well.
    done = subprocess.run(
        ["node", "--input-type=module", "-e", example("ts") + check],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "checked\n", done.stderr


def test_a_tasks_end_is_told_and_the_secret_is_nowhere(impatient_stack: Stack) -> None:
    stack = impatient_stack
    ready = stack.ready
    with receiving() as receiver:
        order = {
            "type": "webhook.set", "webhook_id": "wh_outside", "tenant_id": ready["tenant_id"],
            "url": f"{receiver.url}/told", "events": ["task.succeeded", "kill_switch.engaged"],
        }  # fmt: skip
        said = stack.post("/v1/control", order, key=ready["operator_key"])
        assert said.status_code == 202, said.text
        assert stack.post("/v1/control", order).status_code == 403, "a producer orders nothing"
        stack.until_heard()
        result = stack.run(prompt={"simulated_output_text": "a private answer"})
        (told,) = eventually(lambda: receiver.at("/told") or None, "the message")
        secret = said.json()["secret"]
        assert told.is_signed_by(secret) and told.message["data"]["task_id"] == result["task_id"]
        assert b"private answer" not in told.body
        # Whoever sets it again sees it again; it can be computed, and is written nowhere.
        shown = json.loads(
            stack.cli("webhooks", "set", "--id", "wh_outside", "--url", f"{receiver.url}/told", "--json").stdout
        )
        assert shown["secret"] == secret
        assert "wh_outside: answered 204" in stack.cli("webhooks", "test", "wh_outside").stdout
        assert receiver.at("/told")[-1].is_signed_by(secret)
        written = stack.redis().xrange("skeldir:control")
        assert secret.removeprefix("whsec_") not in f"{written}{stack.logs()}"
        assert "there is no webhook wh_unheard" in stack.refused("webhooks", "test", "wh_unheard")
        listed = json.loads(stack.cli("webhooks", "list", "--json").stdout)
        assert [(one["webhook_id"], one["state"], one["given_up"]) for one in listed] == [("wh_outside", "active", 0)]
        removed = {"type": "webhook.removed", "webhook_id": "wh_outside"}
        assert stack.post("/v1/control", removed, key=ready["operator_key"]).status_code == 202
