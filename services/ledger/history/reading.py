"""The shell of the history checker: the books in the order of the log, partition by partition, on one snapshot.

The server sorts (on its disk, where the books are large); here is one page, one window of `order.py`, and what is live.
Processes share the partitions.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from services.ledger import event_pages
from services.ledger.archive.record import Archive, find
from services.ledger.families import Family, families
from services.ledger.history.checker import PENDING_MS, STOP_BOUND_MS, HistoryChecker
from services.ledger.history.entry import Entry, Finding, Stream
from services.ledger.history.order import View
from services.ledger.history.orders import Orders
from services.ledger.processes import WORTH_A_PROCESS, Progress, Tell, piles, shared
from services.ledger.sessions import export, snapshot
from shared.control_state import order_of
from shared.events.control import parse_control
from shared.events.registry import EVENTS
from shared.partitions import Partition

TIMEOUT_S = 24 * 3600.0
MAX_FINDINGS = 1000

_LENGTHS = "SELECT partition, count(*) AS events FROM events WHERE partition IS NOT NULL GROUP BY partition"


@dataclass(frozen=True, slots=True)
class Bounds:
    """What is asked of a history. `whole`: it begins with the system. Bounds in milliseconds."""

    whole: bool = True
    stop_ms: int = STOP_BOUND_MS
    pending_ms: int = PENDING_MS


@dataclass(slots=True)
class HistoryReport:
    """What was checked and found. `findings` are the first `MAX_FINDINGS`; `checks` counts all of them.

    `live`: tasks that had not come to their end. `unjudged`: how often something was unknown that may be from before
    the beginning, or not in the books yet.
    """

    checks: dict[str, int]
    findings: list[Finding] = field(default_factory=list)
    events: int = 0
    partitions: int = 0
    live: int = 0
    unjudged: int = 0
    seconds: float = 0.0

    @property
    def sound(self) -> bool:
        return not any(self.checks.values())

    def add(self, findings: Iterable[Finding]) -> None:
        """Count what was found."""
        for one in findings:
            self.checks[one.check] += 1
            if len(self.findings) < MAX_FINDINGS:
                self.findings.append(one)

    def join(self, other: HistoryReport) -> None:
        """Add what another process has found."""
        for name, count in other.checks.items():
            self.checks[name] += count
        self.findings += other.findings[: max(0, MAX_FINDINGS - len(self.findings))]
        self.events += other.events
        self.partitions += other.partitions
        self.live += other.live
        self.unjudged += other.unjudged

    def close(self, run: _Run, before_ms: int) -> None:
        """A family of partitions has come to its end."""
        self.add(run.end(before_ms))
        self.live += len(run.checker.live.tasks)
        self.unjudged += run.checker.live.unjudged


async def verify_history(
    database_url: str, bounds: Bounds, progress: Progress | None = None, *, archive: Path | None = None
) -> HistoryReport:
    """Check the whole history. The URL is the ledger's, or the owner's. `archive`: the folder of archived events.

    Raises ArchiveProblem, UndecodableEvent, the driver's errors.
    """
    began = time.perf_counter()
    async with snapshot(database_url, timeout_s=TIMEOUT_S) as connection:
        files = await find(connection, archive)
        lengths = Counter({row["partition"]: row["events"] for row in await connection.fetch(_LENGTHS)})
        for one in files.files:
            lengths[one.chain] += one.rows
        work = partial(_check, database_url, await export(connection), bounds, files)
        orders = [parse_control(body) for _, body in await event_pages.of_control(connection)]
        weights = {one: sum(lengths[number] for number in one) for one in families(lengths, orders)}
        pieces = [sorted(pile) for pile in piles(weights, WORTH_A_PROCESS)]
        parts = await shared(work, pieces, sum(lengths.values()), progress)
    report = HistoryReport(checks=dict.fromkeys(names(), 0))
    for part in parts:
        report.join(part)
    report.seconds = time.perf_counter() - began
    return report


async def _check(
    database_url: str, exported: str, bounds: Bounds, archive: Archive, pile: Sequence[Family], tell: Tell
) -> HistoryReport:
    """Some families of partitions, one after another."""
    report = HistoryReport(checks=dict.fromkeys(names(), 0))
    async with snapshot(database_url, exported, timeout_s=TIMEOUT_S) as connection:
        orders = Orders((name, parse_control(body)) for name, body in await event_pages.of_control(connection))
        checkpoints = {row["stream"]: row["entry_id"] for row in await connection.fetch("SELECT * FROM checkpoints")}
        before_ms = max((order_of(one)[0] for one in checkpoints.values()), default=0) - bounds.pending_ms
        for family in pile:
            run = _Run(orders, bounds, checkpoints)
            async for page in event_pages.in_order(connection, family, archive):
                for row in page:
                    report.add(run.take(row))
                report.events += len(page)
                tell(len(page))
            report.close(run, before_ms)
            report.partitions += len(family)
    return report


def names() -> dict[str, str]:
    """The checks, and what each claims."""
    return {check.name: check.claim for check in HistoryChecker(Orders()).checks}


class _Run:
    """One family of partitions: rows in, through the window, under the checks."""

    def __init__(self, orders: Orders, bounds: Bounds, checkpoints: dict[str, str]) -> None:
        self._checkpoints = checkpoints
        self._partition: int | None = None
        self._stages: dict[str, Stream] = {}
        self._view = View()
        self.checker = HistoryChecker(orders, whole=bounds.whole, stop_bound_ms=bounds.stop_ms)

    def take(self, row: Any) -> list[Finding]:
        found = self._enter(row["partition"]) if row["partition"] != self._partition else []
        entry = Entry(self._stages[row["stream"]], order_of(row["entry_id"]), EVENTS.decode(row["body"]))
        return [*found, *(one for ready in self._view.pass_through(entry) for one in self.checker.take(ready))]

    def end(self, before_ms: int) -> list[Finding]:
        return [*self._rest(), *self.checker.finish(before_ms)]

    def _enter(self, partition: int) -> list[Finding]:
        """Go on with another partition. A tenant that is in both had ended everything in the one before."""
        found, self._view = self._rest(), View()
        known = Partition(partition)
        streams: dict[str, Stream] = {
            known.tasks: "tasks",
            known.decisions: "decisions",
            known.outcomes: "outcomes",
        }
        self._partition, self._stages = partition, streams
        self.checker.live.taken_in = {
            name: order_of(self._checkpoints[stream])[0]
            for stream, name in streams.items()
            if stream in self._checkpoints
        }
        return found

    def _rest(self) -> list[Finding]:
        return [one for entry in self._view.rest() for one in self.checker.take(entry)]
