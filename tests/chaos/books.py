"""Reading what the audit looks at: the ledger's tables, policy's holds, the dead letters, the provider's account."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psycopg
import redis
from psycopg.rows import dict_row

from services.policy import store
from tests.chaos.evidence import Call, Event, Letter
from tests.stack import Stack

PARTITIONS = 32
"""As many as a run grows to, at the most; those that it does not have are empty."""
STREAMS = tuple(f"{{skeldir:{n}}}:{name}" for n in range(PARTITIONS) for name in ("tasks", "decisions", "outcomes"))


class Books:
    """Reads as the administrator of both servers."""

    def __init__(self, stack: Stack) -> None:
        self._database_url = stack.ready["admin_database_url"]
        self._log = redis.Redis.from_url(stack.ready["redis_url"], socket_timeout=10)

    def close(self) -> None:
        self._log.close()

    def events(self) -> list[Event]:
        """Every event of the inner streams."""
        rows = self._rows("SELECT * FROM events WHERE partition IS NOT NULL ORDER BY seq")
        return [_event(row) for row in rows]

    def calls_table(self) -> list[tuple[str, str, str]]:
        """Tenant, endpoint and request id of every row."""
        rows = self._rows("SELECT tenant_id, endpoint, request_id FROM llm_api_calls")
        return [(str(row["tenant_id"]), row["endpoint"], row["request_id"]) for row in rows]

    def holds(self) -> dict[str, str]:
        """Policy's reservations that have not ended, and whether they are live or held."""
        found: dict[str, str] = {}
        for number in range(PARTITIONS):
            kept: Any = self._log.hgetall(f"{{skeldir:{number}}}:reservations")
            found |= {key.decode(): store.decode_hold(raw).state for key, raw in kept.items()}
        return found

    def letters(self) -> list[Letter]:
        """The dead letters."""
        kept: Any = self._log.xrange("skeldir:dead-letters")
        return [
            Letter(
                *(
                    fields.get(name, b"").decode(errors="replace")
                    for name in (b"origin", b"entry_id", b"reason", b"data")
                )
            )
            for _, fields in kept
        ]

    def unrest(self) -> str | None:
        """What is still under way; None when all is quiet."""
        log: Any = self._log
        if waiting := log.xlen("skeldir:inbox"):
            return f"{waiting} entries in the inbox"
        read = {row["stream"]: row["entry_id"] for row in self._rows("SELECT stream, entry_id FROM checkpoints")}
        for stream in STREAMS:
            last = log.xrevrange(stream, count=1)
            if last and read.get(stream) != last[0][0].decode():
                return f"the ledger is at {read.get(stream)} of {last[0][0].decode()} in {stream}"
            if last and stream.endswith(":decisions") and log.xpending(stream, "executor")["pending"]:
                return f"decisions of {stream} are pending"
        if live := sum(state == "live" for state in self.holds().values()):
            return f"{live} reservations are live"
        open_ = self._rows(
            "SELECT count(*) AS n FROM (SELECT subject FROM events WHERE type = 'task.submitted' EXCEPT "
            "SELECT subject FROM events WHERE type IN ('task.succeeded', 'task.blocked', 'task.failed')) AS open_"
        )
        return f"{open_[0]['n']} tasks have no end" if open_[0]["n"] else None

    def order(self, orders: Sequence[dict[str, Any]]) -> None:
        """Publish control events."""
        for order in orders:
            self._log.xadd("skeldir:control", {"data": json.dumps(order)})

    def _rows(self, query: str) -> list[dict[str, Any]]:
        with psycopg.connect(self._database_url, row_factory=dict_row, connect_timeout=5) as connection:
            return connection.execute(query.encode()).fetchall()


def account(file: Path) -> list[Call]:
    """The provider's account. Each line was written in one piece, before its call was answered."""
    return [
        Call(line["at_ms"], line["task_id"], line["attempt_id"], line["kind"], line["charged"])
        for line in map(json.loads, file.read_text().splitlines())
    ]


def _event(row: dict[str, Any]) -> Event:
    milliseconds, _, number = row["entry_id"].partition("-")
    return Event(
        id=str(row["id"]),
        stream=row["stream"],
        order=(int(milliseconds), int(number)),
        type=row["type"],
        subject=row["subject"],
        tenant=str(row["tenant_id"]) if row["tenant_id"] else None,
        user=str(row["user_id"]) if row["user_id"] else None,
        time_ms=row["time"].timestamp() * 1000,
        data=json.loads(row["body"])["data"],
    )
