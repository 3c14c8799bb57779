"""What the ledger service measures of the whole system, on real servers and in its own roles."""

from __future__ import annotations

import time
from typing import Any
from uuid import uuid4

import pytest

from services.ledger import metrics, sessions
from services.ledger.measures import Measures
from services.ledger.trim import EXECUTOR_GROUP
from shared.partitions import DEAD_LETTERS, Partition
from shared.streams.control_reader import ControlReader
from shared.streams.growing import Partitions
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import Bench

LATER_MS = 60_000
GAUGES = ("DEAD_LETTERS", "SPENT", "RESERVED", "UNCERTAIN", "UNCERTAIN_CENTS", "OPEN_BREAKERS")


class LaterClock:
    """A minute ahead, so that what was written just now is a minute old."""

    def now_ms(self) -> int:
        return int(time.time() * 1000) + LATER_MS


def value(name: str, *labels: str) -> float:
    """A gauge as it stands."""
    gauge: Any = getattr(metrics, name)
    return float((gauge.labels(*labels) if labels else gauge)._value.get())


async def test_gauges_say_what_the_streams_and_the_books_hold(
    bench: Bench, postgres: EmbeddedPostgres, as_superuser: Any
) -> None:
    control = ControlReader(bench.redis_as("ledger"), 60_000)
    async with sessions.pool(postgres.url("skeldir_ledger"), name="measures", size=1) as pool:
        admin = bench.redis_as("admin")
        await admin.delete(Partition(0).decisions)  # other tests of this server may have left a group in it
        measures = Measures(pool, bench.redis_as("ledger"), control, LaterClock(), Partitions(1))
        await measures.look()
        before = {name: value(name) for name in GAUGES}
        pending = value("PENDING", "0")

        tenant, user, first = uuid4(), uuid4(), Partition(0)
        await as_superuser.execute(
            "INSERT INTO llm_monthly_budget_state (tenant_id, user_id, month, spent_cents, reserved_cents, updated_at) "
            "VALUES ($1, $2, date_trunc('month', now() AT TIME ZONE 'UTC'), 3, 0.5, now()), "
            # The next month, too: it may have begun when it is looked at.
            "($1, $2, date_trunc('month', now() AT TIME ZONE 'UTC') + interval '1 month', 3, 0.5, now()), "
            "($1, $2, '2020-01-01', 100, 100, now())",
            tenant,
            user,
        )
        await as_superuser.execute(
            "INSERT INTO llm_budget_reservations "
            "(id, tenant_id, user_id, api_call_id, request_id, endpoint, reserved_cents, state) "
            "SELECT gen_random_uuid(), $1, $2, gen_random_uuid(), state, 'e', 1.25, state "
            "FROM unnest(ARRAY['held', 'settled']) AS state",
            tenant,
            user,
        )
        await as_superuser.execute(
            "INSERT INTO llm_breaker_state (tenant_id, user_id, breaker_key, state, failure_count, updated_at) "
            "SELECT $1, $2, state, state, 3, now() FROM unnest(ARRAY['open', 'closed']) AS state",
            tenant,
            user,
        )
        letter = await admin.xadd(DEAD_LETTERS, {"origin": "a test", "entry_id": "1-1", "reason": "a test"})
        await admin.xgroup_create(first.decisions, EXECUTOR_GROUP, id="$", mkstream=True)
        held = await admin.xadd(first.decisions, {"data": "a test"})
        await admin.xreadgroup(EXECUTOR_GROUP, "a test", {first.decisions: ">"})
        try:
            await measures.look()
        finally:
            await admin.xgroup_destroy(first.decisions, EXECUTOR_GROUP)
            await admin.xdel(first.decisions, held)
            await admin.xdel(DEAD_LETTERS, letter)
            for table in ("llm_monthly_budget_state", "llm_budget_reservations", "llm_breaker_state"):
                await as_superuser.execute(f"DELETE FROM {table} WHERE tenant_id = $1", tenant)

    more = {name: value(name) - before[name] for name in GAUGES}
    expected = {
        "DEAD_LETTERS": 1, "SPENT": 3, "RESERVED": 0.5, "UNCERTAIN": 1, "UNCERTAIN_CENTS": 1.25, "OPEN_BREAKERS": 1,
    }  # fmt: skip
    assert more == pytest.approx(expected), "a gauge is a float, and so is what others have spent before"
    assert value("PENDING", "0") == pending + 1
    assert LATER_MS / 1000 <= value("OLDEST_PENDING", "0") < LATER_MS / 1000 + 30
    assert value("READER_LAG", "0", "ledger") >= LATER_MS / 1000, "nobody takes partition 0 into the books here"
    assert time.time() - value("MEASURED") < 30
