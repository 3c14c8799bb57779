"""One chaos run: start everything, load it and break it, heal it, wait until all is quiet, audit, reconcile, audit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import redis

from shared.money import to_cents
from tests.chaos import processes
from tests.chaos.audit import Line, audit
from tests.chaos.books import Books, account
from tests.chaos.evidence import Evidence
from tests.chaos.load import Client, Load, clients_of
from tests.chaos.nemesis import Nemesis
from tests.chaos.processes import Companion, Processes
from tests.chaos.proxy import Link
from tests.chaos.schedule import PROXIED, Fault, schedule
from tests.chaos.stops import after_switches
from tests.stack import Stack

SETTINGS = {
    "OPENAI_API_KEY": "sk-chaos-0000000000",
    "NO_PROXY": "127.0.0.1",
    "SKELDIR_PROVIDER_TIMEOUT_MS": "2000",
    "SKELDIR_LATE_RESULT_SECONDS": "3",
    "SKELDIR_BREAKER_OPEN_SECONDS": "0.5",
    "SKELDIR_DECISION_TTL_MS": "10000",
}
# A reservation here is about 0.015 cents, a call some 0.004.
TIGHT = (("--hourly-cents", "0.1"), ("--monthly-cents", "0.2"))
QUIET_S = 90.0
LOOK_S = 0.25
CALLS_OVER_S = 6.0
"""Time-out and late result: after this no call of before can change anything."""


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


@dataclass
class Arena:
    """All that is running."""

    seed: int
    folder: Path
    stack: Stack
    clients: list[Client]
    companions: dict[str, Companion]


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
    with _arena(seed, folder) as arena:
        load, nemesis = asyncio.run(_under_fire(arena, schedule(seed, seconds, every_s)))
        books = Books(arena.stack)
        try:
            return _judge(arena, load, nemesis, books)
        finally:
            books.close()


@contextmanager
def _arena(seed: int, folder: Path) -> Iterator[Arena]:
    companions = {"provider": processes.provider(folder / "account.jsonl", seed, folder / "provider.log")}
    port = companions["provider"].command[-1]
    settings = {**SETTINGS, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    try:
        with Stack(folder, settings) as stack:
            clients = clients_of(seed, stack.key)
            for client, limits in zip(clients, TIGHT, strict=False):
                stack.cli("limits", "set", "--tenant", client.tenant, "--user", client.user, *limits)
            yield Arena(seed, folder, stack, clients, companions)
    finally:
        for companion in companions.values():
            companion.stop()


async def _under_fire(arena: Arena, faults: list[Fault]) -> tuple[Load, Nemesis]:
    """Load and nemesis at once, until the schedule is over. The second processes end with their links."""
    stack = arena.stack
    links = [Link(processes.log_port(stack)) for _ in PROXIED]
    for service, link in zip(PROXIED, links, strict=True):
        await link.start()
        log = arena.folder / f"second-{service}.log"
        arena.companions[f"second {service}"] = processes.second(service, stack, link.port, log)
    ready = stack.ready
    nemesis = Nemesis(
        processes=Processes(stack, arena.companions),
        links=links,
        gateway_url=ready["gateway_url"],
        operator_key=ready["operator_key"],
        provider_url=stack.environment["OPENAI_BASE_URL"].removesuffix("/v1"),
        tenants=sorted({client.tenant for client in arena.clients}),
    )
    load = Load(arena.seed, ready["gateway_url"], processes.role_url(stack, "producer"), arena.clients)
    submitting = asyncio.create_task(load.run())
    try:
        await nemesis.run(faults)
        load.stop()
        await submitting
        # Their calls and late results are seen through before their links go.
        await asyncio.sleep(CALLS_OVER_S)
    finally:
        submitting.cancel()
        for service in PROXIED:
            arena.companions.pop(f"second {service}").stop()
        for link in links:
            await link.stop()
    return load, nemesis


def _judge(arena: Arena, load: Load, nemesis: Nemesis, books: Books) -> Report:
    unrest = _until_quiet(books)
    asyncio.run(load.ask_all())
    evidence = _evidence(arena, load, nemesis, books)
    lines = [Line("quiet", "Everything came to rest by itself.", 1, [unrest] if unrest else []), *audit(evidence)]
    lines.append(_reconciled(arena, books, evidence))
    return Report(arena.seed, lines, _facts(evidence), nemesis.done)


def _evidence(arena: Arena, load: Load, nemesis: Nemesis, books: Books) -> Evidence:
    verified = arena.stack.cli("ledger", "verify", check=False)
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
        commands={"skeldir ledger verify": verified.returncode},
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
    if code := arena.stack.cli("ledger", "verify", check=False).returncode:
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
