"""Dead letters from outside: what was set aside comes back where it came from, in order, or is given up."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import pytest
from redis.asyncio import Redis

from shared.partitions import partition_for
from shared.settings import Settings
from skeldir.cli import dead_letters
from tests.stack import Stack, eventually


def letters(stack: Stack) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(stack.cli("dead-letters", "list", "--json").stdout)
    return found


def of(stack: Stack, entry_id: bytes) -> list[dict[str, Any]]:
    return [one for one in letters(stack) if one["entry_id"] == entry_id.decode()]


def test_an_inbox_entry_is_retried_or_discarded(stack: Stack) -> None:
    log = stack.redis()
    user = str(uuid4())
    entries = [log.xadd("skeldir:inbox", {"data": "{"}), log.xadd("skeldir:inbox", {"nothing": user})]
    first, second = (eventually(lambda entry=entry: of(stack, entry) or None, "the letter")[0] for entry in entries)  # type: ignore[misc]
    shown = json.loads(stack.cli("dead-letters", "show", second["id"], "--json").stdout)
    assert shown["field:nothing"] == user and "data" in shown["reason"]
    stack.cli("dead-letters", "retry", first["id"])
    ids = [one["id"] for one in letters(stack)]
    assert first["id"] not in ids, "back in the inbox (and soon a letter of another id)"
    stack.cli("dead-letters", "discard", second["id"])
    assert second["id"] not in [one["id"] for one in letters(stack)]
    gone = stack.cli("dead-letters", "retry", second["id"], check=False)
    assert (gone.returncode, len(gone.stderr.strip().splitlines())) == (2, 1)


def test_what_was_put_back_meanwhile_is_not_called_discarded(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = stack.redis().xadd("skeldir:inbox", {"data": "["})
    letter = eventually(lambda: of(stack, entry) or None, "the letter")[0]["id"]
    look = dead_letters._letter

    async def look_and_lose(log: Redis, wanted: str) -> dict[bytes, bytes]:
        fields = await look(log, wanted)
        await dead_letters._put_back(log, wanted, fields)
        return fields

    monkeypatch.setattr(dead_letters, "_letter", look_and_lose)
    assert "was retried or discarded meanwhile" in stack.refused("dead-letters", "discard", letter)


def test_a_letter_that_no_service_has_written_can_be_discarded(stack: Stack) -> None:
    with stack.redis() as log:
        letter = log.xadd("skeldir:dead-letters", {"a": "b"}).decode()
    assert "can only be discarded" in stack.refused("dead-letters", "retry", letter)
    stack.cli("dead-letters", "discard", letter)
    assert "there is no dead letter" in stack.refused("dead-letters", "show", letter)


def test_an_entry_of_an_inner_stream_is_kept_by_policy_until_it_is_given_up(stack: Stack) -> None:
    """As when an executor of tomorrow's release has written an end that today's policy cannot read."""
    log = stack.redis()
    partition = partition_for(UUID(stack.ready["tenant_id"]), Settings().partitions)
    subject = str(uuid4())
    newer = {"type": "task.failed", "dataschema": "urn:skeldir:event:task.failed:99", "subject": subject, "data": {}}
    entries = [log.xadd(partition.outcomes, {"type": "task.failed", "data": json.dumps(newer)}) for _ in range(2)]
    first = eventually(lambda: of(stack, entries[0]) or None, "the letter")[0]
    assert "newer than this release" in first["reason"]
    eventually(lambda: log.hlen(partition.aside) == 2 or None, "both are kept")
    again = stack.cli("dead-letters", "retry", first["id"]).stdout
    assert "set aside again" in again and log.hlen(partition.aside) == 2
    for entry in entries:
        newest = eventually(lambda entry=entry: of(stack, entry) or None, "its letter")[0]  # type: ignore[misc]
        stack.cli("dead-letters", "discard", newest["id"])
    assert log.hlen(partition.aside) == 0
    assert stack.run()["status"] == "success"
