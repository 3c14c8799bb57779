"""The log, filled again from the books: orders, accounts, reservations, and an end for each task that had none.

What makes a partition whole comes in one step and last: its streams go on behind the books' end, and policy's positions
appear, without which nobody decides anything. So a restoration that dies on the way is simply begun again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from redis.asyncio import Redis

from services.ledger import books
from services.ledger.continuity import Standing, look
from services.ledger.sessions import Connection, keep_events, write_as_ledger
from services.policy.state import Hold
from services.policy.store import encode_account, encode_hold
from shared.control_state import ControlState, evolve, order_of
from shared.events.control import entry_ms, parse_control
from shared.events.envelope import Envelope
from shared.events.results import result_of
from shared.partitions import CONTROL, DEAD_LETTERS, Partition, partition_of
from shared.settings import Settings
from shared.streams.client import LogClient
from skeldir.restoring import reading
from skeldir.restoring.accounts import TenantBooks, accounts
from skeldir.restoring.count import NotNow, restore_count
from skeldir.restoring.ends import Ended, end_of, still_to_settle
from skeldir.restoring.step import Command, Steps, words_of
from skeldir.restoring.survey import Survey, all_of, streams_of, survey

TIMEOUT_S = 3600.0
CHUNK = 500
SERVICES = ("gateway-", "policy-", "executor-", "ledger-")


@dataclass(slots=True)
class Partly:
    """What came back to one partition."""

    accounts: int = 0
    reservations: int = 0
    uncertain: int = 0
    blocked: int = 0
    settling: int = 0


@dataclass(slots=True)
class Report:
    """`orders`: those that the control stream lacked. `partitions`: those that were restored."""

    orders: int = 0
    partitions: dict[int, Partly] = field(default_factory=dict)


async def restore(
    redis: LogClient, database_url: str, settings: Settings, *, replace: bool = False, archive: Path | None = None
) -> Report:
    """Fill what the log has lost; `replace`: also partitions whose end was lost, in place of what they have.

    `archive`: the folder of archived events, for where they are needed.

    Redis as `admin`, the database as the ledger or the owner. Raises NotNow, WrongCount, Unbalanced, ArchiveProblem,
    RedisError, the driver's errors.
    """
    await _nobody_works(redis)
    connection: Any = await asyncpg.connect(database_url, timeout=5.0, command_timeout=TIMEOUT_S)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            await write_as_ledger(connection)
            await keep_events(connection)
            control = await _control(connection)
            number = await restore_count(redis, connection, settings, control.partitions)
            settings = settings.model_copy(update={"partitions": number})
            found = await survey(redis, connection, all_of(number))
            wanted = _wanted(found, replace)
            steps = Steps(redis)
            report = Report(orders=await _restore_orders(redis, steps, connection))
            await _restore_letters(redis, steps, connection)
            work = _Restoration(redis, steps, connection, settings, found, control, archive)
            for number in wanted:
                report.partitions[number] = await work.partition(number)
    finally:
        await connection.close()
    return report


async def _nobody_works(redis: LogClient) -> None:
    connected = [one.get("name", "") for clients in await redis.on_every_server("CLIENT LIST") for one in clients]
    names = sorted({name for name in connected if name.startswith(SERVICES)})
    if names:
        raise NotNow(f"{names[0]} is connected to the log: stop the services first")


def _wanted(found: Survey, replace: bool) -> list[int]:
    standing = {number: found.of(number) for number in found.partitions}
    if behind := [number for number, one in standing.items() if one is Standing.BEHIND and not replace]:
        raise NotNow(f"the log's end was lost, of partitions {behind}, and the books have it: give --replace")
    if gaps := [number for number, one in standing.items() if one is Standing.GAP]:
        raise NotNow(f"it is the books that lack something, of partitions {gaps}: see `skeldir restore gap`")
    return [number for number, one in standing.items() if one is not Standing.WHOLE]


async def _control(connection: Connection) -> ControlState:
    state = ControlState()
    for entry_id, data in await reading.orders(connection):
        state = evolve(state, entry_id, parse_control(data))
    return state


async def _restore_orders(redis: Redis, steps: Steps, connection: Connection) -> int:
    """The orders that the stream lacks, under their own ids: other events name them."""
    there: Any = await redis.xrange(CONTROL)
    entries = {entry_id.decode(): fields for entry_id, fields in there}
    lacking = {entry_id: {b"data": data.encode()} for entry_id, data in await reading.orders(connection)}
    lacking = {entry_id: fields for entry_id, fields in lacking.items() if entry_id not in entries}
    if not lacking:
        return 0
    last = max(entries, key=order_of, default="0-0")
    behind = all(order_of(entry_id) > order_of(last) for entry_id in lacking)
    to_add = lacking if behind else {**entries, **lacking}
    commands: list[Command] = []
    if not behind:  # somebody has given orders on the new log: they stay, behind those of before
        commands.append(("DEL", CONTROL))
    for entry_id in sorted(to_add, key=order_of):
        commands.append(("XADD", CONTROL, entry_id, *words_of(to_add[entry_id])))
    await steps.run([CONTROL], commands)
    return len(lacking)


class _Restoration:
    """One run."""

    def __init__(
        self,
        redis: LogClient,
        steps: Steps,
        connection: Connection,
        settings: Settings,
        found: Survey,
        control: ControlState,
        archive: Path | None,
    ) -> None:
        self._redis = redis
        self._steps = steps
        self._connection = connection
        self._settings = settings
        self._found = found
        self._control = control
        self._archive = archive
        self._tenants: list[UUID] | None = None
        self._pending: Mapping[UUID, list[UUID]] = {}

    async def partition(self, number: int) -> Partly:
        """Restore one."""
        if self._tenants is None:
            self._tenants = await reading.tenants(self._connection)
            self._pending = await reading.pending(self._connection)
        partition, done = Partition(number), Partly()
        await self._clear(partition, lost=self._found.of(number) is Standing.LOST)
        ours = {
            one for one in {*self._tenants, *self._pending} if partition_of(one, self._settings.partitions) == number
        }
        appended: list[tuple[str, Envelope]] = []
        for tenant_id in sorted(ours, key=lambda one: one.bytes):
            last_ms = entry_ms(self._found.floor)
            known = await reading.tenant_books(self._connection, tenant_id, self._control, last_ms, self._archive)
            await self._accounts(partition, known, done)
            appended += await self._ends(partition, known, done)
        await self._go_on(partition, appended)
        return done

    async def _clear(self, partition: Partition, *, lost: bool) -> None:
        """What an earlier run has left; of an older copy all but its cached answers, which are what they were.

        On a log that was lost a gateway may have accepted tasks since: these stay, and are decided.
        """
        tag = partition.tag
        if not lost:
            await self._nothing_is_newer(partition)
        # First what says that the partition is whole: from there on nobody decides, or writes books, as if it were.
        await self._redis.delete(partition.policy, partition.ledger)
        gone = (f"{tag}:account:", partition.reservations, partition.parked, partition.aside)
        kept = (f"{tag}:cache", f"{tag}:lease:", f"{tag}:replies")
        names = [name async for name in self._redis.scan_iter(match=f"{tag}:*", count=1000)]
        for chunk in _chunks(
            [name for name in names if (name.decode().startswith(gone) if lost else not name.decode().startswith(kept))]
        ):
            await self._redis.delete(*chunk)

    async def _nothing_is_newer(self, partition: Partition) -> None:
        for stream in streams_of(partition):
            at = self._found.checkpoints[stream]
            if order_of((await look(self._redis, stream, at)).last) > order_of(at):
                raise NotNow(f"{stream} has entries that the books lack: let the ledger alone catch up first")

    async def _accounts(self, partition: Partition, known: TenantBooks, done: Partly) -> None:
        found = accounts(known)
        stored = {partition.account(*key): encode_account(account) for key, account in found.items()}
        for chunk in _chunks(list(stored)):
            await self._redis.mset({name: stored[name] for name in chunk})
        holds = {str(hold.reservation_id): encode_hold(hold) for hold in known.holds}
        for chunk in _chunks(list(holds)):
            await self._redis.hset(partition.reservations, mapping={one: holds[one] for one in chunk})
        done.accounts += len(stored)
        done.reservations += len(holds)

    async def _ends(self, partition: Partition, known: TenantBooks, done: Partly) -> list[tuple[str, Envelope]]:
        """The end of each task that has none, and what policy has to read again. With it, each such task's record."""
        tenant_id = known.tenant_id
        appended: list[tuple[str, Envelope]] = []
        unended = set(self._pending.get(tenant_id, ()))
        holds = await self._by_task(known.holds)
        events = await reading.events_of(self._connection, tenant_id, unended | holds.keys())
        now_ms = await self._now_ms()
        for task_id in sorted(unended | holds.keys(), key=lambda one: one.bytes):
            of_task = holds.get(task_id, [])
            for hold in of_task:
                again = still_to_settle(events[task_id], hold.reservation_id)
                appended += [(partition.outcomes, event) for event in again]
                done.settling += bool(again)
            if task_id not in unended:
                continue
            live = next((hold.reservation_id for hold in of_task if hold.state == "live"), None)
            ended = end_of(events[task_id], live, self._control.position, now_ms)
            if ended is not None:
                appended.append((getattr(partition, ended.stream), ended.event))
                await self._record(partition, ended)
                done.uncertain += ended.event.type == "task.failed"
                done.blocked += ended.event.type == "task.blocked"
        return appended

    async def _by_task(self, holds: Sequence[Hold]) -> dict[UUID, list[Hold]]:
        found: dict[UUID, list[Hold]] = {}
        rows = await self._connection.fetch(
            "SELECT id, api_call_id FROM llm_budget_reservations WHERE id = ANY ($1)",
            [hold.reservation_id for hold in holds],
        )
        task_of = {row["id"]: row["api_call_id"] for row in rows}
        for hold in holds:
            found.setdefault(task_of[hold.reservation_id], []).append(hold)
        return found

    async def _record(self, partition: Partition, ended: Ended) -> None:
        """As the gateway claimed it and the executor ended it: who submits the task again gets this end."""
        task, event, key = ended.task, ended.event, partition.task(ended.task.task_id)
        record = {
            "fingerprint": task.fingerprint,
            "tenant": str(event.tenantid),
            "user": str(event.userid),
            "request_id": task.request_id,
            "task_type": task.task_type.value,
            "correlation_id": event.correlationid or "",
            "state": "ended",
            "result": result_of(event).model_dump_json(),
            "ender": "restore",
        }
        kept_ms = self._settings.result_ttl_seconds * 1000
        await self._steps.run([key], [("HSET", key, *words_of(record)), ("PEXPIRE", key, kept_ms)])

    async def _go_on(self, partition: Partition, appended: Sequence[tuple[str, Envelope]]) -> None:
        """In one step: the streams, behind the books' end whatever the server's clock says, and policy's positions."""
        checkpoints = self._found.checkpoints
        last = {stream: (await look(self._redis, stream, "0-0")).last for stream in streams_of(partition)}
        commands: list[Command] = []
        for stream, at in last.items():
            if order_of(at) < order_of(self._found.floor):
                commands += _begin_behind(stream, self._found.floor)
        commands += [("XADD", stream, "*", *words_of(event.to_entry())) for stream, event in appended]
        positions = {name: checkpoints[getattr(partition, name)] for name in ("tasks", "outcomes")}
        commands.append(("HSET", partition.policy, *words_of({**positions, "control": "0-0"})))
        await self._steps.run([*last, partition.policy], commands)

    async def _now_ms(self) -> int:
        seconds, micro = await self._redis.time()
        return int(seconds) * 1000 + int(micro) // 1000


async def _restore_letters(redis: Redis, steps: Steps, connection: Connection) -> None:
    """Dead letters go on behind those that the books have, too. What waited there is in the table `dead_letters`."""
    checkpoint = (await books.positions(connection, [DEAD_LETTERS]))[DEAD_LETTERS]
    if order_of((await look(redis, DEAD_LETTERS, "0-0")).last) < order_of(checkpoint):
        await steps.run([DEAD_LETTERS], _begin_behind(DEAD_LETTERS, checkpoint))


def _begin_behind(stream: str, entry_id: str) -> list[Command]:
    """The stream's next entry will have a higher id than this, and it counts as one that has lost nothing."""
    return [
        ("XGROUP", "CREATE", stream, "restore", "0", "MKSTREAM"),
        ("XGROUP", "DESTROY", stream, "restore"),
        ("XSETID", stream, entry_id, "ENTRIESADDED", 0, "MAXDELETEDID", "0-0"),
    ]


def _chunks(names: list[Any]) -> Iterator[list[Any]]:
    return (names[first : first + CHUNK] for first in range(0, len(names), CHUNK))
