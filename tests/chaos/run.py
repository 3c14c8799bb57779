"""One chaos run: start everything, load it and break it, heal it, wait until all is quiet, audit, reconcile, audit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from shared.money import to_cents
from tests.chaos.arena import Arena, standing, under_fire
from tests.chaos.audit import Line, audit
from tests.chaos.books import Books, account
from tests.chaos.evidence import Evidence
from tests.chaos.load import Load
from tests.chaos.nemesis import Nemesis
from tests.chaos.schedule import Fault, schedule
from tests.chaos.stops import after_switches

# Half an hour of faults leaves 150,000 events: a minute of verifying, on a quiet machine.
VERIFY_S = 900
QUIET_S = 90.0
LOOK_S = 0.25


@dataclass
class Report:
    """What came of a run."""

    seed: int
    lines: list[Line]
    facts: dict[str, Any]
    faults: list[tuple[Fault, str]]

    @property
    def held(self) -> bool:
        return not any(line.findings for line in self.lines)

    def to_json(self) -> str:
        """For `artifacts/chaos.json`."""
        faults = [{**dataclasses.asdict(fault), "came_to": said} for fault, said in self.faults]
        lines = [dataclasses.asdict(line) for line in self.lines]
        found = {"seed": self.seed, "held": self.held, "facts": self.facts, "audit": lines, "faults": faults}
        return json.dumps(found, indent=1)


class Stopwatch:
    """How many seconds each part took."""

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """The part that ends now was `name`."""
        now = time.monotonic()
        self.laps[name], self._since = round(now - self._since, 1), now


def run(seed: int, seconds: float, every_s: float, folder: Path | None = None) -> Report:
    """Faults for so many seconds, then the audit. Without a `folder`, files stay only where something did not hold."""
    if folder is None:
        made = Path(tempfile.mkdtemp(prefix="skeldir-chaos-"))
        report = run(seed, seconds, every_s, made)
        if report.held:
            shutil.rmtree(made, ignore_errors=True)
        else:
            report.facts["files"] = str(made)
        return report
    watch = Stopwatch()
    with standing(seed, folder) as arena:
        watch.lap("start")
        load, nemesis = asyncio.run(under_fire(arena, schedule(seed, seconds, every_s)))
        watch.lap("under fire")
        books = Books(arena.stack)
        try:
            return _judge(arena, load, nemesis, books, watch)
        finally:
            books.close()


def _judge(arena: Arena, load: Load, nemesis: Nemesis, books: Books, watch: Stopwatch) -> Report:
    unrest = _until_quiet(books)
    watch.lap("until quiet")
    asyncio.run(load.ask_all())
    evidence = _evidence(arena, load, nemesis, books)
    lines = [Line("quiet", "Everything came to rest by itself.", 1, [unrest] if unrest else []), *audit(evidence)]
    watch.lap("audit")
    lines.append(_reconciled(arena, books, evidence))
    watch.lap("reconciliation")
    facts = {**_facts(evidence), "partitions": nemesis.partitions, "seconds": watch.laps}
    return Report(arena.seed, lines, facts, nemesis.done)


def _evidence(arena: Arena, load: Load, nemesis: Nemesis, books: Books) -> Evidence:
    verified = arena.stack.process("ledger", "verify", "--history", seconds=VERIFY_S)
    (arena.folder / "verify.txt").write_text(verified.stdout + verified.stderr)
    return Evidence(
        events=books.events(),
        calls=account(arena.folder / "account.jsonl"),
        requests=list(load.requests.values()),
        rows=books.calls_table(),
        holds=books.holds(),
        switches=nemesis.switches,
        pauses=nemesis.pauses,
        troubles=nemesis.troubles,
        letters=books.letters(),
        poison=frozenset(load.poison),
        commands={"skeldir ledger verify --history": verified.returncode},
    )


def _reconciled(arena: Arena, books: Books, before: Evidence) -> Line:
    """Settle what is uncertain by the provider's account: then the books and the account are one sum."""
    tenants = {decision: allow.tenant for decision, allow in before.allows.items()}
    held = [decision for decision, state in before.holds.items() if state == "held"]
    books.order(
        [
            {
                "type": "attempt.reconciled",
                "tenant_id": tenants[decision],
                "decision_id": decision,
                "cost_cents": str(to_cents(before.charged.get(decision, 0))),
                "reason": "the provider's account",
            }
            for decision in held
        ]
    )
    deadline = time.monotonic() + QUIET_S
    while (books.holds() or books.unrest()) and time.monotonic() < deadline:
        time.sleep(LOOK_S)
    after = Evidence(events=books.events(), calls=account(arena.folder / "account.jsonl"))
    booked = sum(ends[-1].data["settled"] for ends in after.reservations.values() if ends)
    charged = sum(call.charged for call in after.calls)
    findings = [f"{len(left)} reservations are still held"] if (left := books.holds()) else []
    if booked != charged:
        findings.append(f"the provider charged {charged}, the ledger says {booked}")
    if code := arena.stack.process("ledger", "verify", seconds=VERIFY_S).returncode:
        findings.append(f"skeldir ledger verify: exit {code}")
    claim = f"Once {len(held)} uncertain attempts are reconciled, the ledger's sum is the provider's."
    return Line("reconciled", claim, len(after.calls), findings)


def _until_quiet(books: Books) -> str | None:
    """Wait until nothing is under way. What still is when time is up."""
    deadline = time.monotonic() + QUIET_S
    while True:
        try:
            found = books.unrest()
        except (redis.RedisError, psycopg.Error) as error:
            found = f"a server is away: {error}"
        if found is None or time.monotonic() > deadline:
            return found
        time.sleep(LOOK_S)


def _facts(seen: Evidence) -> dict[str, Any]:
    """What happened, in numbers."""
    ends = Counter(end.data.get("reason", "success") for ends in seen.ends.values() for end in ends)
    late = sorted(late for _, _, late in after_switches(seen))
    return {
        "requests": len(seen.requests),
        "submissions": sum(request.sent for request in seen.requests),
        "acknowledged": sum(request.acknowledged for request in seen.requests),
        "ends": dict(ends.most_common()),
        "calls": dict(Counter(call.kind for call in seen.calls).most_common()),
        "charged_cents": float(to_cents(sum(call.charged for call in seen.calls))),
        "attempts": len(seen.attempts),
        "attempts_never_received": len(seen.attempts) - len({call.attempt_id for call in seen.calls}),
        "held": len(seen.holds),
        "switches": len(seen.switches),
        "calls_after_a_switch": len(late),
        "latest_call_after_a_switch_ms": round(late[-1]) if late else 0,
        "dead_letters": len(seen.letters),
        "executors": len({event.data["executor"] for event in seen.attempts.values()}),
    }
