"""The writer of one partition: under its lease it reads a batch, decides, and commits, until it is fenced off."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from uuid import UUID

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from services.policy import store
from services.policy.ahead import Ahead
from services.policy.commit import commands
from services.policy.desk import AccountKey, Changes, Desk
from services.policy.inputs import PASSED_OVER, Input, Unreadable, owner_of, read
from services.policy.metrics import AHEAD, COMMIT_SECONDS, DECISIONS, DOWNGRADED, PARKED, SHADOWED, TURN_SIZE
from services.policy.rules.idempotency import TaskRecord
from services.policy.spans import record_turn
from services.policy.state import Circumstances, PolicyConfig
from services.policy.turn import Turn
from shared.clock import Clock
from shared.control_acts import Act, LetterReturned, Reconciliation
from shared.control_state import ControlState, order_of
from shared.events.decisions import TaskAllowed, TaskBlocked, TaskDowngraded
from shared.events.outcomes import AttemptResolved, AttemptStarted, DecisionExpired, TaskFailed, TaskSucceeded
from shared.events.tasks import TaskSubmitted
from shared.partitions import Partition, partition_of
from shared.settings import Settings
from shared.streams.control_reader import ControlReader
from shared.streams.dead_letters import dead_letter
from shared.streams.growing import Partitions
from shared.streams.lease import Command, Fenced, Lease
from shared.streams.read import BLOCK_MS, Entry, read_after
from shared.streams.spread import Spread

# With tasks held back the writer looks up this often, so that an operator's stop reaches them too.
PARKED_BLOCK_MS = 20
NO_TASKS_BLOCK_MS = 50
# Ends alone wait so long for company. A task ends this at once, and finds what they freed; without it each event of a
# quiet partition would be a turn of its own, beside the services that the same task needs next.
GATHER_MS = 10
MAX_ACCOUNTS_IN_MEMORY = 50_000
RETRY_S = 0.1
FAILED_S = 1.0
INPUTS = ("tasks", "outcomes", "control")
ENDS = (TaskSucceeded, TaskFailed, TaskBlocked, AttemptResolved, DecisionExpired)

log = structlog.get_logger(__name__)


class PartitionWriter:
    """Wants the lease of one partition, and decides while it has it."""

    def __init__(
        self,
        redis: Redis,
        partition: Partition,
        owner: str,
        control: ControlReader,
        clock: Clock,
        settings: Settings,
        partitions: Partitions | None = None,
        spread: Spread | None = None,
    ) -> None:
        """`partitions`: how many there are; None: whatever is here is at home here. `spread`: of this process's
        leases."""
        self._redis = redis
        self._partitions = partitions
        self._partition = partition
        self._control = control
        self._clock = clock
        self._settings = settings
        self._config = PolicyConfig.from_settings(settings)
        self._lease = Lease(redis, partition.lease("policy"), owner, settings.lease_ttl_ms, spread)
        self._streams = (partition.tasks, partition.outcomes)
        self.ahead = Ahead(redis, partition, clock, settings.decision_ttl_ms)
        self._desk = Desk()
        self._positions = dict.fromkeys(INPUTS, "0-0")
        self._moved: dict[str, str] = {}
        """Positions that the next commit writes: nothing was to be done for what they have passed."""
        self._control_seen = ""
        self.token = 0
        self.problem: str | None = "has not tried to take its lease yet"

    async def run(self) -> None:
        """Lead whenever the lease can be had, until cancelled."""
        log_ = log.bind(partition=self._partition.number)
        while True:
            rest_ms = self._settings.lease_ttl_ms / 4
            try:
                self.problem = await self._unknown()
                self.token = 0 if self.problem else await self._lease.take(wanted=not self._control.is_stale)
                if self.token:
                    log_.info("leads", token=self.token)
                    await self._lead()
                    await self._lease.give_back()
                    log_.info("lets go, to a process that leads fewer")
                    rest_ms = self._settings.lease_ttl_ms  # so that the other one takes it
            except Fenced:
                log_.warning("fenced off: another writer has the lease")
            except RedisError as error:
                self.problem = f"the log cannot be reached: {error}"
                log_.warning("lost the log", error=str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:  # a fault of ours: this partition stands still and says so, the others go on
                self.problem = f"policy failed here: {type(error).__name__}: {error}"
                log_.error("failed, and begins again", exc_info=error)
                with suppress(RedisError):
                    await self._lease.give_back()  # to a process that has no such fault, where there is one
                await asyncio.sleep(FAILED_S)
            self.token = 0
            await asyncio.sleep(rest_ms / 1000)

    async def _unknown(self) -> str | None:
        """Why nothing may be decided here: there is no state, and no ledger has said that there need not be.

        A log that was lost looks like a new one: caps would begin at nothing. The ledger, which has the books, tells
        them apart (`services/ledger/continuity.py`).
        """
        if await self._redis.hlen(self._partition.policy) or await self._redis.hlen(self._partition.ledger):
            return None
        return "the partition has no state, and no ledger has vouched for that: see `skeldir doctor`"

    async def stop(self) -> None:
        """Give the lease back, so that the next writer need not wait for its end."""
        await self._lease.give_back()

    async def _lead(self) -> None:
        """Take turns, until another process is to have the lease. Raises Fenced, RedisError."""
        await self._load()
        renewal = asyncio.create_task(self._lease.keep(self.token))
        try:
            while not renewal.done():
                await self._take_turn()
        finally:
            renewal.cancel()
        await renewal

    async def _load(self) -> None:
        """Take over the state as the last commit left it."""
        stored = await self._redis.hgetall(self._partition.policy)
        self._desk = Desk(probes=store.decode_probes(stored.get(store.PROBES.encode())))
        self._positions = {name: stored.get(name.encode(), b"0-0").decode() for name in INPUTS}
        self._moved = {}
        waiting = await self._redis.hgetall(self._partition.parked)
        for one in _stored(waiting):
            assert isinstance(one, Input), "only what was read is held back"
            self._desk.park(owner_of(one.event), one)
        for one in _stored(await self._redis.hgetall(self._partition.aside)):
            self._desk.set_aside(one)
        await self._look_up(
            {key for owner in self._desk.parked for key in _accounts_of(owner.tenant_id, owner.user_id)}
        )
        self._control_seen = ""

    async def _take_turn(self) -> None:
        """Read, decide, commit."""
        stale = self._control.is_stale
        self.problem = "the control stream cannot be read: no task is decided" if stale else None
        ahead = not stale and await self.ahead.look()
        AHEAD.labels(self._partition.number).set(ahead)
        entries = await self._read(tasks_too=not stale and not ahead)
        inputs = _read(entries)
        positions = {name: page[-1][0].decode() for name, page in entries.items()}
        control = self._control.state
        acts = [] if stale else self._acts(control)
        idle = control.position == self._control_seen or not self._desk.parked or stale
        if not inputs and not acts and idle:
            self._control_seen = self._control_seen if stale else control.position
            if entries:
                self._positions |= positions
                self._moved |= positions
            elif self._moved:
                await self._commit(Changes(), {})
            return
        began_ns = time.time_ns()
        await self._fetch(inputs, acts)
        now = Circumstances(self._clock.now_ms(), self._config, control)
        turn = Turn(self._desk, now, self._settings.max_parked)
        turn.outcomes(one for one in inputs if one.stream == "outcomes")
        turn.act(acts)
        if not stale:
            if control.position != self._control_seen:
                turn.reconsider(list(self._desk.parked))
                self._control_seen = control.position
            turn.tasks(one for one in inputs if one.stream == "tasks")
        if acts:
            positions["control"] = acts[-1].position
        await self._commit(turn.changes, positions)
        self._count(turn.changes, len(inputs))
        record_turn(turn.changes.events, began_ns)

    async def _read(self, *, tasks_too: bool) -> dict[str, list[Entry]]:
        wanted = {"outcomes": self._partition.outcomes}
        block = NO_TASKS_BLOCK_MS
        if tasks_too:
            wanted["tasks"] = self._partition.tasks
            block = PARKED_BLOCK_MS if self._desk.parked else BLOCK_MS
        after = {stream: self._positions[name] for name, stream in wanted.items()}
        pages = await read_after(self._redis, after, self._settings.batch_size, block)
        few = sum(map(len, pages.values())) < self._settings.batch_size
        if tasks_too and few and pages and self._partition.tasks not in pages and not self._desk.parked:
            await self._gather(pages, after)
        return {name: pages[stream] for name, stream in wanted.items() if pages.get(stream)}

    async def _gather(self, pages: dict[str, list[Entry]], after: dict[str, str]) -> None:
        """Add to these ends a task that comes within a moment, and whatever has come with it."""
        tasks = self._partition.tasks
        pages |= await read_after(self._redis, {tasks: after[tasks]}, 1, GATHER_MS)
        behind = after | {stream: page[-1][0].decode() for stream, page in pages.items()}
        for stream, page in (await read_after(self._redis, behind, self._settings.batch_size, None)).items():
            pages[stream] = pages.get(stream, []) + page

    def _acts(self, control: ControlState) -> list[Act]:
        """What operators have ordered to be done since this partition last took such an order in.

        Reconciliations of all partitions: there are few, and those that hold nothing here change nothing.
        """
        if control.position == self._control_seen:
            return []
        found = control.acts_since(self._positions["control"])
        return [one for one in found if not isinstance(one, LetterReturned) or one.origin in self._streams]

    async def _fetch(self, inputs: Sequence[Input | Unreadable], acts: Sequence[Act]) -> None:
        """Load the accounts, holds and records that these inputs concern and that are not in memory."""
        accounts: set[AccountKey] = set()
        reconciled = [act.decision_id for act in acts if isinstance(act, Reconciliation)]
        holds: set[UUID] = set()
        records: set[UUID] = set()
        again = [one for act in acts if isinstance(act, LetterReturned) for one in self._desk.with_letter(act)]
        for one in (*inputs, *again):
            if isinstance(one, Unreadable) or isinstance(one.event.data, AttemptStarted):
                continue  # it changes nothing here
            owner, data = owner_of(one.event), one.event.data
            accounts.update(_accounts_of(owner.tenant_id, owner.user_id))
            if isinstance(data, TaskSubmitted):
                records.add(data.task.task_id)
            elif isinstance(data, ENDS) and data.decision_id is not None and data.decision_id not in self._desk.holds:
                holds.add(data.decision_id)
        if reconciled:
            await self._look_up(holds={one for one in reconciled if one not in self._desk.holds})
            found = [hold for one in reconciled if (hold := self._desk.holds.get(one)) is not None]
            accounts.update(key for hold in found for key in _accounts_of(hold.tenant_id, hold.user_id))
        self._desk.records = await self._look_up(accounts, holds, records)

    async def _look_up(
        self, accounts: Collection[AccountKey] = (), holds: Collection[UUID] = (), records: Collection[UUID] = ()
    ) -> dict[UUID, TaskRecord]:
        """Load these accounts and holds into memory, in one round trip; the records."""
        missing, ids, tasks = self._missing(accounts), list(holds), list(records)
        commands: list[Command] = [
            ("HMGET", self._partition.task(task_id), "fingerprint", "state") for task_id in tasks
        ]
        if missing:
            commands.append(("MGET", *(self._partition.account(*key) for key in missing)))
        if ids:
            commands.append(("HMGET", self._partition.reservations, *map(str, ids)))
        if not commands:
            return {}
        replies = await self._redis.together(commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        if ids:
            found = [(one, store.decode_hold(raw)) for one, raw in zip(ids, replies.pop(), strict=True) if raw]
            self._desk.holds.update((one, hold) for one, hold in found if self._is_home_of(hold.tenant_id))
        if missing:
            self._desk.accounts.update(zip(missing, map(store.decode_account, replies.pop()), strict=True))
        return {
            task_id: TaskRecord(*(value.decode() if value is not None else None for value in reply))
            for task_id, reply in zip(tasks, replies, strict=True)
        }

    def _missing(self, wanted: Collection[AccountKey]) -> list[AccountKey]:
        """Those that are not in memory. Where it would hold too many, all are forgotten but these, and what waits."""
        missing = [key for key in wanted if key not in self._desk.accounts]
        if len(self._desk.accounts) + len(missing) <= MAX_ACCOUNTS_IN_MEMORY:
            return missing
        self._desk.accounts = {key: value for key, value in self._desk.accounts.items() if key in wanted}
        parked = {key for owner in self._desk.parked for key in _accounts_of(owner.tenant_id, owner.user_id)}
        return [key for key in {*wanted, *parked} if key not in self._desk.accounts]

    def _is_home_of(self, tenant_id: UUID) -> bool:
        """False for a tenant that went to another partition when the log grew: what is left of it here is a copy."""
        return self._partitions is None or partition_of(tenant_id, self._partitions.number) == self._partition.number

    async def _commit(self, changes: Changes, positions: dict[str, str]) -> None:
        if changes.dead and await self._lease.renew() != self.token:
            # A stale writer finds poison where there is none: what it knows is older than what it reads.
            raise Fenced("the lease went to another writer")
        for one, reason in changes.dead:
            origin = self._partition.tasks if one.stream == "tasks" else self._partition.outcomes
            await self._redis.execute_command(*dead_letter(origin, one.entry_id, _fields(one), reason))
        positions = self._moved | positions
        batch, keys = commands(self._partition, changes, positions, self._settings.result_ttl_seconds * 1000)
        with COMMIT_SECONDS.time():
            await self._lease.commit(self.token, batch, keys)
        self._positions |= positions
        self._moved = {}

    def _count(self, changes: Changes, size: int) -> None:
        TURN_SIZE.observe(size)
        PARKED.labels(self._partition.number).set(self._desk.parked_count)
        decided: Counter[tuple[str, str]] = Counter()
        for event in changes.events:
            if isinstance(event.data, TaskAllowed):
                self.ahead.added()
                decided["allowed", ""] += 1
                for one in event.data.shadowed:
                    SHADOWED.labels(one.unit).inc()
            elif isinstance(event.data, TaskDowngraded):
                DOWNGRADED.labels("shadow" if event.data.shadow else "enforce").inc()
            elif isinstance(event.data, TaskBlocked):
                # An operator's words are no label: there is no end to them.
                known = event.data.rule != "manual_shutoff"
                decided["blocked", event.data.reason if known else "manual_shutoff"] += 1
        for labels, times in decided.items():
            DECISIONS.labels(*labels).inc(times)


def _read(entries: dict[str, list[Entry]]) -> list[Input | Unreadable]:
    return [
        read("tasks" if name == "tasks" else "outcomes", entry_id.decode(), fields.get(b"data"))
        for name, page in entries.items()
        for entry_id, fields in page
        if fields.get(b"type") not in PASSED_OVER
    ]


def _stored(kept: dict[bytes, bytes]) -> list[Input | Unreadable]:
    """What was held back or set aside, in its order."""
    found = []
    for key, data in kept.items():
        entry_id, _, stream = key.decode().partition("/")
        found.append(read("tasks" if stream == "tasks" else "outcomes", entry_id, data))
    return sorted(found, key=lambda one: order_of(one.entry_id))


def _fields(one: Input | Unreadable) -> dict[bytes, bytes]:
    known = {b"type": one.event.type.encode()} if isinstance(one, Input) else {}
    return {**known, b"data": one.data}


def _accounts_of(tenant_id: UUID, user_id: UUID) -> tuple[AccountKey, AccountKey]:
    return (tenant_id, user_id), (tenant_id, None)
