"""What is restored of policy's state is what policy itself had: held against its own rules, over made-up histories."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from random import Random
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
from msgspec.structs import replace

from services.ledger import books
from services.policy.decide import Owner
from services.policy.state import Breaker, Bucket, Hold, Meter
from shared.events.decisions import BreakerState, TaskAllowed
from shared.events.envelope import at
from skeldir.embedded import EmbeddedPostgres
from skeldir.restoring import reading
from skeldir.restoring.accounts import Unbalanced, accounts
from tests.unit.ledger.history import HOUR_MS, NAMES, START_MS, History, play


@pytest.fixture
async def scratch(postgres: EmbeddedPostgres) -> AsyncIterator[Any]:
    """A connection as the ledger, in a transaction that is rolled back."""
    connection = await asyncpg.connect(postgres.url("skeldir_ledger"))
    transaction = connection.transaction()
    await transaction.start()
    yield connection
    await transaction.rollback()
    await connection.close()


def history(seed: int) -> History:
    """With reservations that are live, held, settled and released; quotas; hours and months that turn."""
    dice, tenant = Random(seed), uuid4()
    owners = (Owner(tenant, uuid4()), Owner(tenant, uuid4()))
    ops = [(dice.choice([*NAMES, "submit"]), dice.randrange(2), dice.randrange(25)) for _ in range(120)]
    # By hours; a wait of weeks only now and then, since after it the windows of before are forgotten.
    ops = [op if op[0] != "wait" else ("wait", int(dice.random() < 0.9), op[2]) for op in ops]
    ops[::30] = [("order", 0, 12 + dice.randrange(5)) for _ in ops[::30]]
    start_ms = START_MS - (tenant.int % 19_000) * 24 * HOUR_MS
    return play([("order", 0, 12), ("order", 0, 15), ("order", 1, 13), *ops], owners, start_ms)


def assert_same_windows(restored: Mapping[str, Any], known: Mapping[str, Bucket] | Mapping[str, Meter]) -> None:
    """Each that counts, as it was. Policy may still have one that nothing can change any more."""
    counts = {start: one for start, one in known.items() if start == max(known) or one.holds}
    assert restored == counts


@pytest.mark.parametrize("seed", range(8))
async def test_accounts_and_reservations_are_as_policy_had_them(seed: int, scratch: Any) -> None:
    played = history(seed)
    await books.take_in(scratch, played.records())
    tenant = played.owners[0].tenant_id
    found = await reading.tenant_books(scratch, tenant, played.control, played.now_ms)
    restored = accounts(found)
    known = {key: account for key, account in played.desk.accounts.items() if account.version}
    assert restored.keys() == known.keys()
    for key, account in known.items():
        assert (restored[key].version, restored[key].in_flight) == (account.version, account.in_flight)
        assert_same_windows(restored[key].hours, account.hours)
        assert_same_windows(restored[key].months, account.months)
        assert as_said(restored[key].breaker) == as_said(account.breaker)
        assert (restored[key].breaker.proven, restored[key].breaker.probes) == (0, 0)
    meters = known[tenant, None].meters
    for quota in restored[tenant, None].meters.keys() | counting(played):
        assert_same_windows(restored[tenant, None].meters[quota], meters[quota])
    assert {one.reservation_id: one for one in found.holds} == {
        one: without_probe(hold) for one, hold in played.desk.holds.items()
    }


def counting(played: History) -> set[str]:
    """Quotas that are in force and have counted something in the longest window; and those that reservations hold."""
    tenant, since = played.owners[0].tenant_id, at(played.now_ms) - reading.LONGEST_WINDOW
    in_force = set(played.control.quotas[tenant].by_id if tenant in played.control.quotas else ())
    of_late = [event.data for _, _, event in played.entries if event.time >= since]
    counted = {one.quota for data in of_late if isinstance(data, TaskAllowed) for one in data.quotas}
    return (in_force & counted) | {take.quota_id for hold in played.desk.holds.values() for take in hold.takes}


def as_said(breaker: Breaker) -> tuple[BreakerState, int, int | None, int | None]:
    """What events say of a breaker."""
    return breaker.state, breaker.failures, breaker.opened_at_ms, breaker.last_trip_at_ms


def without_probe(hold: Hold) -> Hold:
    """A probe whose end is not known says nothing: its place is free again."""
    return replace(hold, probe_of_ms=None)


async def test_the_histories_have_what_is_hard() -> None:
    """Held and live reservations, several windows at once, quotas with something taken, breakers that are open."""
    played = [history(seed) for seed in range(8)]
    holds = [hold for one in played for hold in one.desk.holds.values()]
    assert {hold.state for hold in holds} == {"live", "held"}
    assert any(hold.takes for hold in holds if hold.state == "held")
    all_accounts = [account for one in played for account in one.desk.accounts.values()]
    assert any(len([1 for bucket in account.hours.values() if bucket.holds]) > 1 for account in all_accounts)
    assert any(account.meters for account in all_accounts)
    assert any(account.breaker.state is not BreakerState.CLOSED for account in all_accounts)


async def test_books_that_do_not_balance_restore_nothing(scratch: Any) -> None:
    played = next(one for one in map(history, range(8)) if any(hold.amount for hold in one.desk.holds.values()))
    await books.take_in(scratch, played.records())
    await scratch.execute(
        "UPDATE llm_monthly_budget_state SET reserved_cents = reserved_cents + 1 WHERE tenant_id = $1",
        played.owners[0].tenant_id,
    )
    found = await reading.tenant_books(scratch, played.owners[0].tenant_id, played.control, played.now_ms)
    with pytest.raises(Unbalanced):
        accounts(found)
