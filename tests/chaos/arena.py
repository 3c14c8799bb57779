"""The arena of a chaos run: what is started, and the time under fire."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import processes
from tests.chaos.books import Books, account
from tests.chaos.load import Client, Load, clients_of
from tests.chaos.nemesis import Nemesis
from tests.chaos.processes import Companion, Processes
from tests.chaos.proxy import Link
from tests.chaos.schedule import PROXIED, Fault
from tests.stack import Stack

SETTINGS = {
    "OPENAI_API_KEY": "sk-chaos-0000000000",
    "NO_PROXY": "127.0.0.1",
    "SKELDIR_PROVIDER_TIMEOUT_MS": "2000",
    "SKELDIR_LATE_RESULT_SECONDS": "3",
    "SKELDIR_BREAKER_OPEN_SECONDS": "0.5",
    "SKELDIR_DECISION_TTL_MS": "10000",
    "SKELDIR_CONTROL_STALENESS_MS": "2000",  # as it is by itself: how soon a stop holds is one of the claims
}
# A reservation here is about 0.015 cents, a call some 0.004.
TIGHT = ({"hourly_cents": "0.1"}, {"monthly_cents": "0.2"})
LOOK_S = 0.25
CALLS_OVER_S = 6.0
"""Time-out and late result: after this no call of before can change anything."""


@dataclass
class Arena:
    """All that is running."""

    seed: int
    folder: Path
    stack: Stack
    clients: list[Client]
    companions: dict[str, Companion]


@contextlib.contextmanager
def standing(seed: int, folder: Path) -> Iterator[Arena]:
    """The provider, `skeldir up` on it, and clients with their keys and limits."""
    companions = {"provider": processes.provider(folder / "account.jsonl", seed, folder / "provider.log")}
    port = companions["provider"].command[-1]
    settings = {**SETTINGS, "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
    try:
        with Stack(folder, settings) as stack:
            clients = clients_of(seed, stack.key)
            _set_limits(stack, clients)
            yield Arena(seed, folder, stack, clients, companions)
    finally:
        for companion in companions.values():
            companion.stop()


def _set_limits(stack: Stack, clients: list[Client]) -> None:
    """Some users may spend little."""
    with contextlib.closing(Books(stack)) as books:
        for client, limits in zip(clients, TIGHT, strict=False):
            scope = {"tenant_id": client.tenant, "user_id": client.user}
            books.order([{"type": "limits.set", "scope": scope, **limits}])
    stack.key(clients[-1].tenant)  # usable once the orders before it are read


async def under_fire(arena: Arena, faults: list[Fault]) -> tuple[Load, Nemesis]:
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
        while time.time() * 1000 < _last_call_ms(arena) + CALLS_OVER_S * 1000:
            await asyncio.sleep(LOOK_S)
    finally:
        submitting.cancel()
        for service in PROXIED:
            arena.companions.pop(f"second {service}").stop()
        for link in links:
            await link.stop()
    return load, nemesis


def _last_call_ms(arena: Arena) -> float:
    return max((call.at_ms for call in account(arena.folder / "account.jsonl")), default=0.0)
