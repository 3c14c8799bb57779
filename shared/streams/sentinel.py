"""A log on a primary with replicas that sentinels watch: each connection asks them which server is the primary.

Sentinels close the connections of a server that they demote; so who is connected to it asks again. A primary that is
cut off from them takes writes until it is demoted: `SKELDIR_MIN_REPLICAS` keeps those from counting (ADR 25).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from redis.exceptions import ConnectionError as ConnectionLost
from redis.exceptions import ReadOnlyError, RedisError

from shared.log_address import Host
from shared.streams.client import LogClient
from shared.streams.direct import DirectConnection, DirectPool, DirectTLSConnection

ANSWER_S = 0.5


class Sentinels:
    """Those who know which server is the primary of `service`."""

    def __init__(self, clients: Iterable[LogClient], service: str) -> None:
        self._clients = list(clients)
        self._service = service

    async def primary(self) -> Host:
        """The first answer counts; who gave it is asked first the next time. Raises ConnectionLost."""
        problem: object = f"no sentinel knows {self._service!r}"
        for client in list(self._clients):
            try:
                async with asyncio.timeout(ANSWER_S):
                    found = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._service)
            except (RedisError, OSError, TimeoutError) as error:
                problem = error or type(error).__name__
                continue
            if found:
                self._clients.remove(client)
                self._clients.insert(0, client)
                return found[0].decode(), int(found[1])
        raise ConnectionLost(f"the sentinels name no primary: {problem}")

    async def aclose(self) -> None:
        """Close the connections to them."""
        await asyncio.gather(*(client.aclose() for client in self._clients), return_exceptions=True)


class _Followed(DirectConnection):
    """A connection to whichever server is the primary at the time."""

    def __init__(self, *, sentinels: Sentinels, **options: Any) -> None:
        self._sentinels = sentinels
        super().__init__(**options)

    async def _connect(self) -> None:
        self.host, self.port = await self._sentinels.primary()
        await super()._connect()

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        await super().on_connect_check_health(check_health)
        await self.send_command("ROLE")
        role = await self.read_response()
        if role[0] not in (b"master", b"primary"):
            raise ConnectionLost("the sentinels name a server as the primary that is a replica")

    async def replies(self, number: int) -> list[Any]:
        found = await super().replies(number)
        if any(isinstance(one, ReadOnlyError) for one in found):
            await self.disconnect(nowait=True)
            raise ConnectionLost("the server was the primary, and is none any more")
        return found


class _FollowedTLS(_Followed, DirectTLSConnection):
    """The same, encrypted."""


class FollowedPool(DirectPool):
    """Connections to the primary; `sentinels` among its options, which are theirs too."""

    plain = _Followed
    encrypted = _FollowedTLS

    async def aclose(self) -> None:
        await super().aclose()
        await self.connection_kwargs["sentinels"].aclose()
