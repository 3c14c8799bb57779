"""A client of the log, as the address says where it is."""

from __future__ import annotations

from typing import Any

from shared.log_address import several_servers
from shared.streams.client import LogClient
from shared.streams.cluster import ClusterClient
from shared.streams.direct import DirectPool, pool
from shared.streams.replicated import replicated
from shared.streams.sentinel import FollowedPool, Sentinels

# To one server. A service has a few for each partition that it works on, and the log may grow.
MAX_CONNECTIONS = 1280


def replicas_wanted(url: str, min_replicas: int | None) -> int:
    """How many replicas must have an append before it counts. None: one, where another server may take over, else none.

    Raises InvalidAddress.
    """
    return int(several_servers(url) is not None) if min_replicas is None else min_replicas


def connect(
    url: str, *, client_name: str, max_connections: int = MAX_CONNECTIONS, min_replicas: int | None = None
) -> LogClient:
    """A client of the log: on one server, a cluster, or behind sentinels, as the URL says (`shared/log_address.py`).

    An append counts once `min_replicas` have it (`replicas_wanted`).
    `max_connections` are to each server. Raises InvalidAddress.
    """
    own = {"client_name": client_name}

    def server(url: str, pool_class: type[DirectPool] = DirectPool, **more: Any) -> LogClient:
        connections = pool(url, pool_class, max_connections=max_connections, **own, **more)
        return replicated(connections, wanted) if wanted else LogClient.from_pool(connections)

    address = several_servers(url)
    wanted = replicas_wanted(url, min_replicas)
    if address is None:
        return server(url)
    if address.kind == "cluster":
        return ClusterClient(address.hosts, lambda host, port: server(address.server(host, port)))
    watchers = [LogClient.from_pool(pool(address.sentinel(*host), DirectPool, **own)) for host in address.hosts]
    sentinels = Sentinels(watchers, address.service)
    return server(address.server(*address.hosts[0]), FollowedPool, sentinels=sentinels)
