"""Do the books balance? Each check looks for what must not be; it reads as the ledger, and changes nothing.

Some ask the tables. Others read events: all of these in one reading, which processes share by tenants, on the same
snapshot of the books.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.ledger import event_pages, joined, reservation_sums, rollups, same_rows
from services.ledger.archive.record import Archive, find, problems
from services.ledger.event_pages import Share
from services.ledger.processes import WORTH_A_PROCESS, Progress, Tell, shared
from services.ledger.projections import balances
from services.ledger.projections.rows import Table
from services.ledger.same_rows import EventReader, Found, SameRows
from services.ledger.sessions import Connection, export, snapshot
from shared.events.decisions import ReservationEnded, TaskAllowed
from shared.events.envelope import Envelope
from shared.events.registry import EVENTS
from shared.money import to_cents

TIMEOUT_S = 24 * 3600.0
MAX_EXAMPLES = 5


Search = Callable[[Connection, Archive], Awaitable[list[Found]]]


@dataclass(frozen=True, slots=True)
class Check:
    """A name, what it claims of sound books, and the search for what contradicts it: in the tables (`find`), or by
    reading the events of a share (`read`), of some types or of all."""

    name: str
    claim: str
    find: Search | None = None
    read: Callable[[Connection, Share], Awaitable[EventReader]] | None = None
    types: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """What contradicts a check."""

    check: str
    subject: str
    problem: str


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """How many findings each check has, and some of them."""

    checks: dict[str, int]
    findings: Sequence[Finding]

    @property
    def sound(self) -> bool:
        return not any(self.checks.values())


async def verify(
    database_url: str,
    checks: Sequence[Check] | None = None,
    progress: Progress | None = None,
    *,
    archive: Path | None = None,
    keys: Mapping[str, Ed25519PublicKey] | None = None,
) -> VerifyReport:
    """Make the checks (default: `CHECKS`) on one snapshot of the books. The URL is the ledger's, or the owner's.

    `archive`: the folder of archived events, where there are some; `keys`: the public keys that their seals are held
    against, by their ids. Where a file is not what it was, that is found, and the other checks are not made.
    Raises ArchiveProblem, UndecodableEvent, the driver's errors.
    """
    wanted = CHECKS if checks is None else checks
    async with snapshot(database_url, timeout_s=TIMEOUT_S) as connection:
        files = await find(connection, archive)
        broken = [(one.file, problem) for one, problem in problems(files, keys)]
        if broken:
            return VerifyReport({FILES.name: len(broken)}, [Finding(FILES.name, *one) for one in broken])
        exported = await export(connection)
        reading = [one for one in wanted if one.read]
        found = await _read(database_url, exported, connection, reading, progress, files)
        found |= await _ask_all(database_url, exported, [one for one in wanted if one.find], files)
    if files.files:
        found, wanted = {**found, FILES.name: []}, (FILES, *wanted)
    examples = [Finding(one.name, *each) for one in wanted for each in found[one.name][:MAX_EXAMPLES]]
    return VerifyReport({one.name: len(found[one.name]) for one in wanted}, examples)


async def _read(
    database_url: str,
    exported: str,
    connection: Connection,
    checks: Sequence[Check],
    progress: Progress | None,
    archive: Archive,
) -> dict[str, list[Found]]:
    """What the checks find that read events, in one reading."""
    if not checks:
        return {}
    events = await connection.fetchval("SELECT coalesce(sum(length + unchained), 0)::bigint FROM event_chains")
    readers = (os.cpu_count() or 1) if events >= WORTH_A_PROCESS else 1
    pieces = [Share(number, readers, archive) for number in range(readers)]
    work = partial(_read_share, database_url, exported, [one.name for one in checks])
    parts = await shared(work, pieces, events * readers, progress)
    return {one.name: [each for part in parts for each in part[one.name]] for one in checks}


async def _read_share(
    database_url: str, exported: str, names: Sequence[str], share: Share, tell: Tell
) -> dict[str, list[Found]]:
    checks = [one for one in (*CHECKS, SAME_ROWS) if one.name in names]
    types = [name for one in checks for name in one.types or ()]
    async with snapshot(database_url, exported, timeout_s=TIMEOUT_S) as connection:
        readers = {one.name: await one.read(connection, share) for one in checks if one.read}
        before = 0
        every = all(one.types for one in checks)
        async for seen, page in event_pages.of_share(connection, share, types if every else None):
            events = [EVENTS.decode(body) for body in page]
            for reader in readers.values():
                await reader.take(events)
            tell(seen - before)
            before = seen
        return {name: await reader.finish() for name, reader in readers.items()}


async def _ask_all(
    database_url: str, exported: str, checks: Sequence[Check], archive: Archive
) -> dict[str, list[Found]]:
    """What the checks find that ask the tables: as many at a time as there are processors."""
    many = os.cpu_count() or 1
    columns = [checks[first::many] for first in range(many)]

    async def ask(some: Sequence[Check]) -> dict[str, list[Found]]:
        async with snapshot(database_url, exported, timeout_s=TIMEOUT_S) as connection:
            return {one.name: await one.find(connection, archive) for one in some if one.find}

    return {
        name: found for part in await asyncio.gather(*map(ask, filter(None, columns))) for name, found in part.items()
    }


def _sql(question: str) -> Search:
    async def find(connection: Connection, _: Archive) -> list[Found]:
        return await joined.ask(connection, question)

    return find


async def _rollups(connection: Connection, _: Archive) -> list[Found]:
    return await rollups.differences(connection)


class CapsHeld:
    """At each allow that reserved money: what was spent and reserved then, against the cap of then."""

    def __init__(self) -> None:
        self._found: list[Found] = []

    async def take(self, events: Sequence[Envelope]) -> None:
        for event in events:
            data = event.data
            if not isinstance(data, TaskAllowed) or not data.reservation.amount:
                continue
            for one in data.balances:
                if one.cap is not None and one.spent + one.reserved > one.cap:
                    committed, cap = to_cents(one.spent + one.reserved), to_cents(one.cap)
                    self._found.append(
                        (str(data.task.task_id), f"allowed at {committed} of {cap} cents a {one.window}")
                    )

    async def finish(self) -> list[Found]:
        return self._found


async def _caps_held(_: Connection, __: Share) -> EventReader:
    return CapsHeld()


async def _balances(connection: Connection, share: Share) -> EventReader:
    """Of the tables of balances the columns that policy numbers the versions of, and the rows that have one."""
    tables = [
        Table(table.name, table.key, registers=tuple(one for one in table.registers if one.order == "balance_version"))
        for table in balances.TABLES
    ]
    return SameRows(connection, share, tables, balances.project, which="balance_version IS NOT NULL")


_COST = """
SELECT concat_ws(' ', tenant_id, user_id, month),
  format('cost of %s cents, %s spent', trim_scale(c.total_cost_cents), coalesce(b.spent_cents, 0))
FROM llm_monthly_costs AS c FULL JOIN llm_monthly_budget_state AS b USING (tenant_id, user_id, month)
WHERE coalesce(c.total_cost_cents, 0) <> coalesce(b.spent_cents, 0)
"""

CHECKS = (
    Check("one_end", "No task ends twice.", joined.one_end),
    Check("allowed_before_attempt", "Each attempt has an allow from before it.", joined.allowed_before),
    Check("caps_held", "No allow reserved more than a cap left.", read=_caps_held, types=(TaskAllowed.event_type,)),
    Check(
        "balances_are_the_fold",
        "The balances are the fold of the events.",
        read=_balances,
        types=(TaskAllowed.event_type, ReservationEnded.event_type),
    ),
    Check(
        "reserved_is_held",
        "Reserved is the sum of live and held reservations.",
        _sql(reservation_sums.reserved()),
    ),
    Check("spent_is_settled", "Spent is the sum of what was settled.", _sql(reservation_sums.spent())),
    Check("cost_is_spent", "The monthly cost is what was spent.", _sql(_COST)),
    Check("rollups_are_the_calls", "The dashboards' rollups are the sums of the calls.", _rollups),
)

FILES = Check("archive_is_whole", "Each file of the archive is as it was recorded.")
"""Made where there is an archive."""

SAME_ROWS = Check("tables_are_the_fold", "Every row of every table is what the events give.", read=same_rows.every_row)
"""Reads all events: made with the history."""
