"""The clients of a chaos run: they submit by HTTP and inbox, twice on purpose, and again until they are answered."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from uuid import UUID, uuid5

import httpx
from redis.asyncio import Redis
from redis.exceptions import RedisError

from shared.events.tasks import TaskType, task_id_of
from shared.streams.connection import connect
from tests.chaos.evidence import POISON, Request

TENANTS = 3
USERS = 3
WAIT_S = 4
PATIENCE_S = 10.0
RETRY_S = 0.25
Way = Callable[[], Awaitable[bool]]
"""One submission; whether it was acknowledged."""

NAMESPACE = UUID("0d9e4f4c-94a8-4b5c-8f2e-6368616f7321")


@dataclass(frozen=True, slots=True)
class Client:
    """One user of a tenant, with a key that may act for any of its users."""

    tenant: str
    user: str
    key: str


@dataclass
class Load:
    """Submits until it is told to stop. `requests` are the clients' notes, by request id."""

    seed: int
    gateway_url: str
    inbox_url: str
    """The log server, in the producer's role."""
    clients: list[Client]
    requests: dict[str, Request] = field(default_factory=dict)
    poison: set[str] = field(default_factory=set)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    def stop(self) -> None:
        """No new requests; what is under way is seen through."""
        self._stop.set()

    async def run(self, clients: int = 12, pause_s: float = 0.3) -> None:
        """So many clients at once, each with about so long a pause between its requests."""
        async with self._connections() as (http, inbox):
            await asyncio.gather(*(self._client(number, pause_s, http, inbox) for number in range(clients)))

    async def ask_all(self) -> None:
        """What the gateway says now of every request that was acknowledged."""
        room = asyncio.Semaphore(16)

        async def ask(request: Request, http: httpx.AsyncClient) -> None:
            async with room:
                headers = {"Authorization": f"Bearer {self._key(request)}"}
                reply = await http.get(f"/v1/tasks/{request.task_id}", headers=headers)
                request.final = reply.json() if reply.status_code == 200 else {"status": str(reply.status_code)}

        async with self._connections() as (http, _):
            await asyncio.gather(*(ask(one, http) for one in self.requests.values() if one.acknowledged))

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[tuple[httpx.AsyncClient, Redis]]:
        limits = httpx.Limits(max_connections=64)
        http = httpx.AsyncClient(base_url=self.gateway_url, timeout=PATIENCE_S, limits=limits, trust_env=False)
        async with http, connect(self.inbox_url, client_name="chaos-load") as inbox:
            yield http, inbox

    async def _client(self, number: int, pause_s: float, http: httpx.AsyncClient, inbox: Redis) -> None:
        chance = random.Random(f"client {self.seed} {number}")
        count = 0
        while not self._stop.is_set():
            count += 1
            if chance.random() < 0.02:
                await self._put_in_poison(f"{POISON}{self.seed}-{number}-{count}", inbox)
            request = self._request(f"r{self.seed}-{number}-{count}", chance)
            self.requests[request.request_id] = request
            ways: list[Way] = [
                partial(self._by_http, request, WAIT_S, http),
                partial(self._by_http, request, 0, http),
                partial(self._by_inbox, request, inbox),
            ]
            # One request in four comes several times, at once, by whatever ways.
            times = chance.choice((1, 1, 1, 1, 1, 1, 2, 3))
            await asyncio.gather(*(self._insist(chance.choice(ways)) for _ in range(times)))
            try:
                await asyncio.wait_for(self._stop.wait(), chance.uniform(0, 2) * pause_s)
            except TimeoutError:
                continue

    def _request(self, request_id: str, chance: random.Random) -> Request:
        client = chance.choice(self.clients)
        task_type = chance.choice(list(TaskType))
        text = f"question {chance.randint(1, 40)}: what did we spend on channel {request_id}, and what did it bring?"
        prompt: dict[str, Any] = {"model": "openai:gpt-4o-mini", "max_tokens": 100}
        prompt["messages"] = [{"role": "user", "content": text}]
        if chance.random() < 0.3:
            prompt["retry_safe"] = True
        if chance.random() < 0.15:  # a question that others ask too
            prompt["messages"] = [
                {"role": "user", "content": f"What is the sum of {chance.randint(1, 9)} channels now?"}
            ]
            prompt["cache_enabled"] = True
        return Request(
            tenant=client.tenant,
            user=client.user,
            request_id=request_id,
            task_type=task_type.value,
            task_id=str(task_id_of(UUID(client.tenant), task_type, request_id)),
            prompt=prompt,
        )

    def _key(self, request: Request) -> str:
        return next(one.key for one in self.clients if one.tenant == request.tenant)

    async def _insist(self, submit: Way) -> None:
        """Submit again until it is acknowledged. Who stops before that does not know."""
        while True:
            try:
                if await submit():
                    return
            except (TimeoutError, httpx.HTTPError, RedisError, OSError):
                pass  # perhaps it arrived: the same request id makes the repetition harmless
            if self._stop.is_set():
                return
            await asyncio.sleep(RETRY_S)

    async def _by_http(self, request: Request, wait_s: int, http: httpx.AsyncClient) -> bool:
        request.sent += 1
        body = {
            "task_type": request.task_type,
            "user_id": request.user,
            "request_id": request.request_id,
            "prompt": request.prompt,
        }
        headers = {"Authorization": f"Bearer {self._key(request)}"}
        if wait_s:
            headers["Prefer"] = f"wait={wait_s}"
        reply = await http.post("/v1/tasks", json=body, headers=headers)
        if reply.status_code == 409:
            request.conflicts += 1
            return True
        if reply.status_code not in (200, 202):
            return False
        request.acknowledged = True
        if reply.json()["status"] != "pending":
            request.answers.append(reply.json())
        return True

    async def _by_inbox(self, request: Request, inbox: Redis) -> bool:
        request.sent += 1
        task = {
            "tenant_id": request.tenant,
            "user_id": request.user,
            "request_id": request.request_id,
            "task_type": request.task_type,
            "prompt": request.prompt,
        }
        await inbox.xadd("skeldir:inbox", {"data": json.dumps(task)})
        request.acknowledged = True
        return True

    async def _put_in_poison(self, name: str, inbox: Redis) -> None:
        try:
            await inbox.xadd("skeldir:inbox", {"data": json.dumps({"task_type": name})})
        except (RedisError, OSError):
            return
        self.poison.add(name)


def clients_of(seed: int, key: Callable[[str], str]) -> list[Client]:
    """Some users of some tenants; `key` makes a tenant's key."""
    found = []
    for tenant_number in range(TENANTS):
        tenant = str(uuid5(NAMESPACE, f"tenant {seed} {tenant_number}"))
        secret = key(tenant)
        found += [Client(tenant, str(uuid5(NAMESPACE, f"user {tenant} {n}")), secret) for n in range(USERS)]
    return found
