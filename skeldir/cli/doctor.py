"""`doctor`: says what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import Any

import asyncpg
import httpx
import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError
from rich.table import Table

from services.gateway.capacity import is_full
from services.ledger import migrate
from shared.partitions import DEAD_LETTERS, Partition
from shared.settings import Settings
from shared.streams.connection import connect
from skeldir.cli.context import (
    CommandError,
    Json,
    database_url,
    find_running,
    load_settings,
    out,
    print_json,
    redis_url,
)
from skeldir.running import Running

LAG_BOUND = 10_000
SKEW_BOUND_MS = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `advice` says what to do where it is not well."""

    check: str
    ok: bool
    found: str
    advice: str = ""


Check = Callable[[], Awaitable[list[Finding]]]


def doctor(as_json: Json = False) -> None:
    """Servers, migrations, roles, row-level security, lag, pending, clock. Exit 1 when something is wrong."""
    settings = load_settings()
    findings = asyncio.run(_examine(settings))
    if as_json:
        print_json({"ok": all(one.ok for one in findings), "checks": [asdict(one) for one in findings]})
    else:
        table = Table("", "check", "found", "what to do")
        for one in findings:
            table.add_row("[green]ok[/green]" if one.ok else "[red]!![/red]", one.check, one.found, one.advice)
        out.print(table)
    raise typer.Exit(0 if all(one.ok for one in findings) else 1)


async def _examine(settings: Settings) -> list[Finding]:
    findings: list[Finding] = []
    running = find_running(settings)
    try:
        redis = connect(redis_url(settings), client_name="skeldir-doctor")
    except CommandError as error:
        return [Finding("system", False, str(error), "start `skeldir up`")]
    try:
        findings += await _log(redis, settings)
    except (RedisError, OSError) as error:
        findings.append(Finding("log server", False, str(error), "check SKELDIR_REDIS_URL and that the server runs"))
    finally:
        await redis.aclose()
    findings += await _database(settings)
    if running is not None:
        findings += await _services(running)
    return findings


async def _log(redis: Redis, settings: Settings) -> list[Finding]:
    info: dict[str, Any] = await redis.info()
    version = str(info.get("valkey_version") or info.get("redis_version"))
    seconds, micro = await redis.time()
    skew_ms = abs(time.time() * 1000 - (seconds * 1000 + micro / 1000))
    policy = str(info.get("maxmemory_policy"))
    findings = [
        Finding("log server", True, f"{info.get('server_name', 'redis')} {version}"),
        Finding(
            "eviction",
            policy == "noeviction",
            policy,
            "" if policy == "noeviction" else "set maxmemory-policy noeviction: policy's state must never be evicted",
        ),
        Finding(
            "append-only file",
            bool(info.get("aof_enabled")),
            "on" if info.get("aof_enabled") else "off",
            "" if info.get("aof_enabled") else "set appendonly yes: without it a restart forgets",
        ),
        Finding(
            "clock",
            skew_ms < SKEW_BOUND_MS,
            f"{skew_ms:.0f} ms from this machine's",
            "" if skew_ms < SKEW_BOUND_MS else "services follow the server's clock; mend NTP all the same",
        ),
    ]
    findings += [await _durability(redis, settings), _memory(info)]
    letters = await redis.xlen(DEAD_LETTERS)
    findings.append(
        Finding("dead letters", letters == 0, str(letters), "" if not letters else "look: skeldir dead-letters list")
    )
    for number in range(settings.partitions):
        findings += await _partition(redis, Partition(number))
    return findings


async def _durability(redis: Redis, settings: Settings) -> Finding:
    """Whether the server writes to the disk as often as is configured. Only some users may ask it."""
    if settings.durability == "fsync":
        wanted: tuple[str, ...] = ("always",)
    else:
        # The embedded server writes before it answers, and its guardian syncs (`skeldir/embedded/valkey.py`).
        wanted = ("everysec", "always") if settings.redis_url else ("no", "always")
    try:
        given = str((await redis.config_get("appendfsync"))["appendfsync"])
    except ResponseError:
        known_enough = settings.durability != "fsync"
        advice = "" if known_enough else "SKELDIR_DURABILITY is fsync: ask who runs the server for appendfsync always"
        return Finding("durability", known_enough, "not known: this user may not ask", advice)
    ok = given in wanted
    advice = "" if ok else f"SKELDIR_DURABILITY is {settings.durability}: set appendfsync {wanted[0]}"
    return Finding("durability", ok, f"appendfsync {given}", advice)


def _memory(info: dict[str, Any]) -> Finding:
    bound = int(info.get("maxmemory", 0))
    full = is_full(info)
    of = f"of {bound >> 20} MiB" if bound else "used; no maxmemory: the machine's memory is the bound"
    advice = "the gateway takes no new work: look at the lag, or give the server more" if full else ""
    return Finding("memory", not full, f"{int(info.get('used_memory', 0)) >> 20} MiB {of}", advice)


async def _partition(redis: Redis, partition: Partition) -> list[Finding]:
    name = f"partition {partition.number}"
    lease = await redis.hgetall(partition.lease("policy"))
    seconds, _ = await redis.time()
    led = bool(lease) and int(lease.get(b"expires_ms", b"0")) > seconds * 1000 - 1000
    owner = lease.get(b"owner", b"nobody").decode() if lease else "nobody"
    findings = [
        Finding(f"{name} writer", led, owner, "" if led else "no policy service leads it: start one (`serve policy`)")
    ]
    positions = await redis.hgetall(partition.policy)
    for stream, key in (("tasks", partition.tasks), ("outcomes", partition.outcomes)):
        after = positions.get(stream.encode(), b"0-0").decode()
        behind = len(await redis.xrange(key, min=f"({after}", count=LAG_BOUND))
        advice = "" if behind < LAG_BOUND else "policy is behind: add a policy service, or look at its log"
        findings.append(Finding(f"{name} policy lag, {stream}", behind < LAG_BOUND, str(behind), advice))
    try:
        groups: list[dict[str, Any]] = await redis.xinfo_groups(partition.decisions)
    except RedisError:
        groups = []
    for group in groups:
        lag = int(group.get("lag") or 0)
        found = f"lag {lag}, pending {group.get('pending')}"
        advice = "" if lag < LAG_BOUND else "the executor is behind: add one, or raise its concurrency"
        findings.append(Finding(f"{name} executor", lag < LAG_BOUND, found, advice))
    return findings


async def _database(settings: Settings) -> list[Finding]:
    try:
        connection = await asyncpg.connect(database_url(settings), timeout=5)
    except CommandError as error:
        return [Finding("database", False, str(error), "set SKELDIR_DATABASE_URL")]
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        return [Finding("database", False, str(error), "check SKELDIR_DATABASE_URL and that the server runs")]
    try:
        version = await connection.fetchval("SHOW server_version")
        revision = await connection.fetchval("SELECT schema_version()")
        role = await connection.fetchrow(
            "SELECT rolname, rolsuper, rolbypassrls FROM pg_roles WHERE rolname = current_user"
        )
        open_tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace "
            "AND NOT (relrowsecurity AND relforcerowsecurity) ORDER BY relname"
        )
    except asyncpg.PostgresError as error:
        return [Finding("database", False, str(error), "migrate it: skeldir migrate")]
    finally:
        await connection.close()
    assert role is not None, "every connection has a role"
    plain = not role["rolsuper"] and not role["rolbypassrls"]
    wanted = migrate.newest()
    names = ", ".join(row["relname"] for row in open_tables)
    return [
        Finding("database", True, f"PostgreSQL {version}"),
        Finding("migrations", revision == wanted, revision, "" if revision == wanted else "run skeldir migrate"),
        Finding("role", plain, role["rolname"], "" if plain else "connect as app_user: this role sees every tenant"),
        Finding(
            "row-level security", not open_tables, names or "forced on every table", names and "run skeldir migrate"
        ),
    ]


async def _services(running: Running) -> list[Finding]:
    findings = []
    async with httpx.AsyncClient(timeout=3, trust_env=False) as client:
        for name, url in (("gateway", running.gateway_url), ("ledger", running.ledger_url)):
            try:
                reply = await client.get(f"{url}/readyz")
                problems = {check: what for check, what in reply.json()["checks"].items() if what}
                found = "ready" if not problems else "; ".join(f"{check}: {what}" for check, what in problems.items())
                findings.append(Finding(name, not problems, found, "" if not problems else "look at its log"))
            except (httpx.HTTPError, ValueError, KeyError) as error:
                findings.append(Finding(name, False, str(error), f"it does not answer at {url}"))
    return findings
