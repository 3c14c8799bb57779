"""Where the log's servers are, as `SKELDIR_REDIS_URL` says it.

    redis://user:password@host:port/0                        one server
    redis+cluster://user:password@host:port,host:port        a cluster: some of its nodes, who know the others
    redis+sentinel://user:password@host:port,host:port/name  sentinels, and the name by which they know the servers

`rediss` in place of `redis`: encrypted. What stands behind a `?` holds for each connection.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

SENTINEL_PORT, SERVER_PORT = 26379, 6379
_KINDS: dict[str, Literal["cluster", "sentinel"]] = {"cluster": "cluster", "sentinel": "sentinel"}

Host = tuple[str, int]


class InvalidAddress(ValueError):
    """The URL names no log server; the text says why, without a credential."""


@dataclass(frozen=True, slots=True)
class LogAddress:
    """Several servers, and how to make a URL of each."""

    kind: Literal["cluster", "sentinel"]
    hosts: tuple[Host, ...]
    service: str
    _scheme: str
    _credentials: str
    _query: tuple[tuple[str, str], ...]

    def server(self, host: str, port: int) -> str:
        """The URL of a server that holds the log."""
        options = [(name, value) for name, value in self._query if not name.startswith("sentinel_")]
        return self._url(self._credentials, host, port, options)

    def sentinel(self, host: str, port: int) -> str:
        """The URL of a sentinel. They have users of their own: `sentinel_username`, `sentinel_password`."""
        given = dict(self._query)
        password = quote(given.get("sentinel_password", ""), safe="")
        credentials = f"{quote(given.get('sentinel_username', ''), safe='')}:{password}@" if password else ""
        options = [(name, value) for name, value in self._query if not name.startswith("sentinel_")]
        return self._url(credentials, host, port, options)

    def _url(self, credentials: str, host: str, port: int, options: list[tuple[str, str]]) -> str:
        shown = f"[{host}]" if ":" in host else host
        return f"{self._scheme}://{credentials}{shown}:{port}/0" + (f"?{urlencode(options)}" if options else "")


def several_servers(url: str) -> LogAddress | None:
    """The address of a cluster, or of sentinels; None for the URL of one server. Raises InvalidAddress."""
    scheme, _, rest = url.partition("://")
    transport, _, kind = scheme.partition("+")
    if not kind:
        if transport not in ("redis", "rediss", "unix") or not rest:
            raise InvalidAddress("a log server's URL begins with redis:// or rediss://, or with redis+cluster:// or so")
        return None
    if kind not in _KINDS or transport not in ("redis", "rediss"):
        raise InvalidAddress(f"{scheme}:// is unknown: redis+cluster, rediss+cluster, redis+sentinel, rediss+sentinel")
    before, _, options = rest.partition("?")
    authority, _, path = before.partition("/")
    credentials, at, hosts = authority.rpartition("@")
    service = path.strip("/")
    if kind == "sentinel" and (not service or "/" in service):
        raise InvalidAddress("redis+sentinel://host:port,host:port/NAME: the name of the servers is missing")
    if kind == "cluster" and service not in ("", "0"):
        raise InvalidAddress("a cluster has only database 0")
    found = _hosts(hosts, SENTINEL_PORT if kind == "sentinel" else SERVER_PORT)
    return LogAddress(_KINDS[kind], found, service, transport, credentials + at, tuple(parse_qsl(options)))


def _hosts(text: str, default_port: int) -> tuple[Host, ...]:
    found = []
    for one in text.split(","):
        try:
            parsed = urlsplit(f"//{one}")
            host, port = parsed.hostname, parsed.port
        except ValueError as error:
            raise InvalidAddress(f"{one!r} is no host and port: {error}") from error
        if not host:
            raise InvalidAddress("a host is missing between the commas")
        found.append((host, port or default_port))
    return tuple(found)
