"""What policy saw at a moment that is over: the fold of orders, breakers and trips that are in the books up to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from services.ledger.archive.parquet import Wanted
from services.ledger.archive.reading import pages
from services.ledger.archive.record import Archive, find_whole
from services.ledger.sessions import keep_events, write_as_ledger
from services.policy.decide import Owner
from shared.control_state import ControlState, Shutoff, evolve, order_of
from shared.events.control import ControlEvent, entry_ms, parse_control
from shared.events.decisions import BreakerChanged, ShutoffTripped
from shared.events.envelope import Payload, at
from shared.events.registry import EVENTS

TIMEOUT_S = 600.0

_ORDERS = "SELECT entry_id, body FROM events WHERE partition IS NULL AND time <= $1"
# The log's order within a partition, in which a user is; `time` is that of policy's clock.
_LATEST = """
SELECT DISTINCT ON (tenant_id, user_id) tenant_id, user_id, entry_id, body FROM events
WHERE type = $2 AND time <= $1 AND ($3::uuid IS NULL OR tenant_id = $3)
ORDER BY tenant_id, user_id, split_part(entry_id, '-', 1)::bigint DESC, split_part(entry_id, '-', 2)::bigint DESC
"""


@dataclass(frozen=True, slots=True)
class Past:
    """The orders' fold, the breakers that are not as new, and users who had spent their hour."""

    control: ControlState
    breakers: dict[Owner, BreakerChanged]
    tripped: dict[Owner, ShutoffTripped]


async def state_at(
    database_url: str, at_ms: int, tenant_id: UUID | None = None, *, archive: Path | None = None
) -> Past:
    """As of then, milliseconds since the epoch. The URL is the ledger's, or the owner's. `archive`: its folder.
    Raises ArchiveProblem, the driver's errors."""
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            await keep_events(connection)
            files = await find_whole(connection, archive)
            orders = await connection.fetch(_ORDERS, at(at_ms))
            of = {
                kind: await connection.fetch(_LATEST, at(at_ms), kind.event_type, tenant_id)
                for kind in (BreakerChanged, ShutoffTripped)
            }
    finally:
        await connection.close()
    found: dict[type, dict[Owner, Any]] = {
        kind: {owner: EVENTS.payload(body) for owner, body in _latest(rows, files, kind, at_ms, tenant_id).items()}
        for kind, rows in of.items()
    }
    control = fold(((row["entry_id"], parse_control(row["body"])) for row in orders), at_ms)
    breakers = {
        owner: one for owner, one in found[BreakerChanged].items() if one.state != "closed" or one.failure_count
    }
    tripped = {owner: one for owner, one in found[ShutoffTripped].items() if at_ms < one.until_ms}
    return Past(of_tenant(control, tenant_id), breakers, tripped)


def _latest(
    rows: Iterable[Any], files: Archive, kind: type[Payload], at_ms: int, tenant_id: UUID | None
) -> dict[Owner, str]:
    """The last body of each owner, of the tables' last ones and of all that are in files."""
    newest: dict[Owner, tuple[tuple[int, int], str]] = {}
    wanted = Wanted(
        ("tenant_id", "user_id", "entry_id", "time", "body"),
        types=frozenset([kind.event_type]),
        tenants=None if tenant_id is None else frozenset([tenant_id]),
    )
    archived = (row for page in pages(files, wanted) for row in page if row["time"] <= at(at_ms))
    for row in chain(rows, archived):
        owner, place = Owner(row["tenant_id"], row["user_id"]), order_of(row["entry_id"])
        if owner not in newest or place > newest[owner][0]:
            newest[owner] = place, row["body"]
    return {owner: body for owner, (_, body) in newest.items()}


def fold(orders: Iterable[tuple[str, ControlEvent]], at_ms: int) -> ControlState:
    """The state after the orders up to a moment, without switches and shutoffs that had ended by themselves."""
    state = ControlState()
    for entry_id, order in sorted(orders, key=lambda one: order_of(one[0])):
        if entry_ms(entry_id) <= at_ms:
            state = evolve(state, entry_id, order)
    switches = {scope: one for scope, one in state.switches.items() if one.until_ms is None or at_ms < one.until_ms}
    shutoffs: dict[tuple[UUID, UUID], Shutoff] = {
        user: one for user, one in state.shutoffs.items() if at_ms < one.until_ms
    }
    return replace(state, switches=switches, shutoffs=shutoffs)


def of_tenant(state: ControlState, tenant_id: UUID | None) -> ControlState:
    """What concerns one tenant: its own, and what is for everybody."""
    if tenant_id is None:
        return state
    return replace(
        state,
        switches={scope: one for scope, one in state.switches.items() if scope.tenant_id in (None, tenant_id)},
        shutoffs={user: one for user, one in state.shutoffs.items() if user[0] == tenant_id},
        limits={owner: one for owner, one in state.limits.items() if owner[0] == tenant_id},
        quotas={tenant: quotas for tenant, quotas in state.quotas.items() if tenant == tenant_id},
        bounds={of: one for of, one in state.bounds.items() if of[0] in (None, tenant_id)},
        downgrades={tenant: rules for tenant, rules in state.downgrades.items() if tenant == tenant_id},
        prices={of: one for of, one in state.prices.items() if of[0] in (None, tenant_id)},
    )
