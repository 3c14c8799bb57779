"""The nemesis: carries a schedule of faults out, and notes what it did that the audit must know."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import psutil

from tests.chaos import books
from tests.chaos.evidence import Pause, Switch
from tests.chaos.processes import Processes
from tests.chaos.proxy import Link, State
from tests.chaos.schedule import Fault

RETRY_S = 0.1
LOOK_S = 0.1
BACK_MS = 3000.0
RECORDED_S = 60.0
PARTITIONS, MOST_PARTITIONS = 4, books.PARTITIONS
DRAIN_S = 15.0
GROWTH_LINES = 8
"""That the command says, each after a step."""
PATIENCE_S = 30.0
"""Longer than any pause: an order that we had given up and sent again could else be carried out long after its time."""


@dataclass
class Nemesis:
    """Breaks things, and mends them."""

    processes: Processes
    links: list[Link]
    gateway_url: str
    operator_key: str
    provider_url: str
    tenants: list[str]
    pauses: list[Pause] = field(default_factory=list)
    troubles: list[tuple[float, float]] = field(default_factory=list)
    """When the log server was away or stopped, or a link to it was not open; until its readers had time to be back."""
    switches: list[Switch] = field(default_factory=list)
    done: list[tuple[Fault, str]] = field(default_factory=list)
    partitions: int = PARTITIONS
    _half_grown: bool = False
    """A growth has not said that it came to its end."""
    _growing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _stopped: set[psutil.Process] = field(default_factory=set)
    _one_switch: asyncio.Lock = field(default_factory=asyncio.Lock)
    """A release ends what was engaged with the same scope, whoever engaged it."""

    async def run(self, faults: Sequence[Fault]) -> None:
        """The whole schedule, and everything whole again at its end. Companions that die are started again."""
        began = time.monotonic()
        keeper = asyncio.create_task(self._keep_companions())
        async with httpx.AsyncClient(timeout=PATIENCE_S, trust_env=False) as http:
            try:
                async with asyncio.TaskGroup() as group:
                    for fault in faults:
                        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
                        group.create_task(self._inflict(fault, http))
            finally:
                keeper.cancel()
                await self._heal(http)

    async def _keep_companions(self) -> None:
        while True:
            self.processes.revive()
            await asyncio.sleep(LOOK_S)

    async def _heal(self, http: httpx.AsyncClient) -> None:
        for process in self._stopped:
            with contextlib.suppress(psutil.Error):
                process.resume()
        for link in self.links:
            link.turn("open")
        self.processes.revive()
        await self._mood("calm", http)
        await self._finish_growing()

    async def _inflict(self, fault: Fault, http: httpx.AsyncClient) -> None:
        match fault.kind:
            case "kill":
                said = self._kill(fault.target)
            case "pause":
                said = await self._pause(fault.target, fault.lasts_s)
            case "link":
                said = await self._link(fault)
            case "mood":
                await self._mood(fault.target, http)
                await asyncio.sleep(fault.lasts_s)
                await self._mood("calm", http)
                said = "done"
            case "grow":
                said = await self._grow(fault)
            case _:
                said = await self._switch(fault, http)
        self.done.append((fault, said))

    def _kill(self, target: str) -> str:
        process = self.processes.find(target)
        if process is None:
            return "was away"
        if target == "valkey":
            self._trouble(_now_ms())
        with contextlib.suppress(psutil.Error):
            process.kill()
        return "done"

    def _trouble(self, since_ms: float) -> None:
        self.troubles.append((since_ms, _now_ms() + BACK_MS))

    async def _pause(self, target: str, lasts_s: float) -> str:
        process = self.processes.find(target)
        if process is None or process in self._stopped:
            return "was away"
        since_ms = _now_ms()
        try:
            process.suspend()
            self._stopped.add(process)
            await asyncio.sleep(lasts_s)
            process.resume()
        except psutil.Error:
            return "died"
        finally:
            self._stopped.discard(process)
            self.pauses.append(Pause(process.pid, since_ms, _now_ms()))
            if target == "valkey":
                self._trouble(since_ms)
        return "done"

    async def _link(self, fault: Fault) -> str:
        link = self.links[int(fault.chance * len(self.links))]
        state: State = "cut" if fault.target == "cut" else "slow" if fault.target == "slow" else "silent"
        since_ms = _now_ms()
        link.turn(state)
        await asyncio.sleep(fault.lasts_s)
        link.turn("open")
        self._trouble(since_ms)
        return "done"

    async def _grow(self, fault: Fault) -> str:
        """Twice as many partitions. What is killed on the way, or not drained in time, the next one begins again."""
        if self._growing.locked() or self.partitions == MOST_PARTITIONS:
            return "was away"
        lines = 1 + int(fault.chance * GROWTH_LINES) if fault.target == "killed" else None
        return await self._double(DRAIN_S, lines)

    async def _double(self, drain_s: float, lines: int | None = None) -> str:
        async with self._growing:
            self._half_grown = True
            wanted = str(2 * self.partitions)
            code, said = await self.processes.command(
                "partitions", "grow", wanted, "--timeout", f"{drain_s:g}", lines=lines
            )
            if code == 0:
                self.partitions, self._half_grown = 2 * self.partitions, False
        return f"{code}: {said}"

    async def _finish_growing(self) -> None:
        """As the runbook says: a growth that died is run again."""
        deadline = time.monotonic() + RECORDED_S
        while self._half_grown:
            said = await self._double(RECORDED_S)
            if self._half_grown and time.monotonic() > deadline:
                raise TimeoutError(f"the log does not grow, though all is well: {said}")

    async def _mood(self, mood: str, http: httpx.AsyncClient) -> None:
        await self._insist(http, f"{self.provider_url}/mood", {"mood": mood}, {})

    async def _switch(self, fault: Fault, http: httpx.AsyncClient) -> str:
        """Engage, wait, release; between the acknowledgement and the release no call may start."""
        tenant = None if fault.target == "everything" else self.tenants[int(fault.chance * len(self.tenants))]
        scope = {"tenant_id": tenant} if tenant else {}
        order: dict[str, Any] = {"scope": scope, "reason": "chaos", "actor": "nemesis"}
        headers = {"Authorization": f"Bearer {self.operator_key}"}
        url = f"{self.gateway_url}/v1/control"
        async with self._one_switch:
            await self._insist(http, url, {**order, "type": "kill_switch.engaged"}, headers)
            since_ms = _now_ms()
            await asyncio.sleep(fault.lasts_s)
            self.switches.append(Switch(tenant, since_ms, _now_ms()))
            await self._insist(http, url, {**order, "type": "kill_switch.released"}, headers)
        return "done"

    async def _insist(self, http: httpx.AsyncClient, url: str, body: dict[str, Any], headers: dict[str, str]) -> None:
        """Send until it is acknowledged: a system under fire may be away."""
        deadline = time.monotonic() + RECORDED_S
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await http.post(url, json=body, headers=headers)).status_code < 300:
                    return
            if time.monotonic() > deadline:
                raise TimeoutError(f"{url} did not take {body} within {RECORDED_S:g} s")
            await asyncio.sleep(RETRY_S)


def _now_ms() -> float:
    return time.time() * 1000
