"""`skeldir ledger verify --history` on what a running system has written: nothing; and what was doctored since."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg

from tests.stack import Stack, eventually


def verified(stack: Stack) -> tuple[int, dict[str, Any]]:
    """The exit code, and what it says in JSON."""
    done = stack.cli("ledger", "verify", "--history", "--json", check=False)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


def owner(stack: Stack) -> psycopg.Connection[Any]:
    """A connection of the one role that can change what was written, in the ledger's place."""
    return psycopg.connect(stack.ready["admin_database_url"], autocommit=True)


@contextmanager
def doctored(stack: Stack, event_type: str, task_id: str, pattern: str, by: str) -> Iterator[None]:
    """One event of a task with some of its text replaced; until the block ends."""
    mine = "WHERE type = %s AND subject = %s"
    with owner(stack) as connection:
        (body,) = connection.execute(f"SELECT body FROM events {mine}", (event_type, task_id)).fetchone() or ("",)
        connection.execute("ALTER TABLE events DISABLE TRIGGER append_only")
        change = f"UPDATE events SET body = regexp_replace(body, %s, %s) {mine}"
        try:
            connection.execute(change, (pattern, by, event_type, task_id))
            yield
        finally:
            connection.execute(f"UPDATE events SET body = %s {mine}", (body, event_type, task_id))
            connection.execute("ALTER TABLE events ENABLE TRIGGER append_only")


def test_a_running_systems_history_is_sound_and_what_is_doctored_is_found(stack: Stack) -> None:
    task_id = stack.run(prompt={"simulated_cost_cents": 0.5})["task_id"]

    def settled() -> bool:
        with owner(stack) as connection:
            ended = "SELECT FROM events WHERE type = 'reservation.ended' AND subject = %s"
            return connection.execute(ended, (task_id,)).fetchone() is not None

    eventually(settled, "the ledger has the end of the reservation")
    code, report = verified(stack)
    assert (stack.data / "seal-key.pem").stat().st_mode & 0o777 == 0o600
    assert report["chain"]["rows"] >= 5 and not report["chain"]["unchecked_seals"]
    links = report["chain"]["findings"]
    before = report["history"]["findings"]  # of entries that other tests have forged on this system
    assert code == (0 if report["sound"] else 1)
    assert not [one for one in (*before, *report["findings"]) if task_id in one["subject"]]
    assert report["history"]["events"] >= 5
    with doctored(stack, "attempt.started", task_id, '"attempt_no":1', '"attempt_no":2'):
        code, report = verified(stack)
    (link,) = [one for one in report["chain"]["findings"] if one not in links]
    assert "attempt.started" in link["problem"] and "changed" in link["problem"]
    (found,) = [one for one in report["history"]["findings"] if one not in before]
    assert (code, found["check"], found["subject"]) == (1, "history_3_one_answer", f"task {task_id}")
    assert found["expected"] == "attempt 1" and found["found"] == "attempt 2"
    assert found["entries"][0].startswith("outcomes ")
