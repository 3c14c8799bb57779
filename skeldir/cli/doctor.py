"""`doctor`: says what is wrong, and what to do about it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Any

import asyncpg
import httpx
import typer
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from services.gateway.capacity import is_full
from services.ledger import migrate
from services.ledger.continuity import Standing
from services.ledger.lag import lags
from shared.partitions import DEAD_LETTERS, Partition
from shared.settings import Settings
from shared.streams.client import LogClient
from shared.streams.connection import connect, replicas_wanted
from shared.streams.partition_count import WrongCount, look, recorded
from skeldir.cli.context import (
    CommandError,
    Json,
    database_url,
    find_running,
    load_settings,
    out,
    print_json,
    redis_url,
    told_of_settings,
)
from skeldir.cli.findings import Finding, judged, summed_up, table
from skeldir.restoring.survey import ADVICE, how_it_stands
from skeldir.running import Running

# As the alert rules have them (`deploy/prometheus/alerts.yaml`): SkeldirReaderBehind, SkeldirWorkStuck.
BEHIND_S = 30.0
# So far behind, executors are what policy may be waiting for (`services/policy/ahead.py`).
WAITED_FOR_S = 10.0
HELD_S = 300.0
SKEW_BOUND_MS = 500

SERVERS = "first-traffic.md#the-servers"
ROLES = "first-traffic.md#the-roles"
CAPACITY = "capacity.md"
PARTITIONS = "capacity.md#more-partitions"
UPGRADE = "upgrade.md"
RESTORE = "restore.md"
AWAY = "incidents.md#a-log-server-is-away"
STALLED = "incidents.md#a-consumer-is-stalled"
LETTERS = "incidents.md#dead-letters"
SEPARATION = "incidents.md#row-level-security-is-in-doubt"


def doctor(as_json: Json = False) -> None:
    """Servers, migrations, roles, row-level security, lag, pending, clock. Exit 1 when something is wrong."""
    settings = load_settings()
    findings = asyncio.run(_examine(settings))
    if as_json:
        print_json({"ok": all(one.ok for one in findings), "checks": [asdict(one) for one in findings]})
    else:
        out.print(table(summed_up(findings)))
    raise typer.Exit(0 if all(one.ok for one in findings) else 1)


async def _examine(settings: Settings) -> list[Finding]:
    findings = [Finding("settings", True, line) for line in told_of_settings()]
    running = find_running(settings)
    try:
        redis = connect(redis_url(settings), client_name="skeldir-doctor", min_replicas=settings.min_replicas)
    except CommandError as error:
        return [*findings, judged("system", False, str(error), "start `skeldir up`", SERVERS)]
    try:
        # First what each server says by itself: one that is away is not to hide what the others say.
        findings += await _servers(redis, replicas_wanted(redis_url(settings), settings.min_replicas))
        settings, said = await _count(redis, settings)
        findings += [said, *await _log(redis, settings)]
        findings += await _log_and_books(redis, settings)
    except (RedisError, OSError) as error:
        advice = "check SKELDIR_REDIS_URL and that the server runs"
        findings.append(judged("log server", False, str(error), advice, AWAY))
    finally:
        await redis.aclose()
    findings += await _database(settings)
    if running is not None:
        findings += await _services(running)
    return findings


async def _count(redis: Redis, settings: Settings) -> tuple[Settings, Finding]:
    """The settings with the number of partitions that the log has, and what is to be said of it."""
    try:
        number = await look(redis, settings)
    except WrongCount as error:
        known = await recorded(redis)
        number = settings.partitions if known is None else known.number
        said = judged("partitions", False, str(error), "no service starts with it", PARTITIONS)
    else:
        closed = [one for one in range(number) if await redis.get(Partition(one).fence) == b"closed"]
        growing = "the log is being grown, or was: if no `skeldir partitions grow` runs, run it again"
        said = judged(
            "partitions", not closed, f"{number}" + ("; new tasks wait" if closed else ""), growing, PARTITIONS
        )
    return settings.model_copy(update={"partitions": number}), said


async def _servers(redis: LogClient, min_replicas: int) -> list[Finding]:
    return [finding for info in await redis.on_every_server("INFO") for finding in _server(info, min_replicas)]


async def _log(redis: LogClient, settings: Settings) -> list[Finding]:
    asked_ms = time.time() * 1000
    seconds, micro = await redis.time()
    now_ms = seconds * 1000 + micro // 1000
    skew_ms = skew_of(asked_ms, now_ms, time.time() * 1000)
    follow = "services follow the server's clock; mend NTP all the same"
    letters = await redis.xlen(DEAD_LETTERS)
    return [
        judged("clock", skew_ms < SKEW_BOUND_MS, f"{skew_ms:.0f} ms from this machine's", follow, SERVERS),
        await _durability(redis, settings),
        judged("dead letters", letters == 0, str(letters), "look: skeldir dead-letters list", LETTERS),
        *await _partitions(redis, settings, now_ms),
    ]


def skew_of(asked_ms: float, said_ms: float, heard_ms: float) -> float:
    """How far another clock's reading is at least from this machine's: the way there and back is no skew."""
    return max(asked_ms - said_ms, said_ms - heard_ms, 0.0)


def _server(info: dict[str, Any], min_replicas: int) -> list[Finding]:
    """What one of the log's servers says of itself; `min_replicas` that it has to have."""
    version = str(info.get("valkey_version") or info.get("redis_version"))
    policy, aof = str(info.get("maxmemory_policy")), bool(info.get("aof_enabled"))
    replicas = int(info.get("connected_slaves", 0))
    fewer = f"appends wait for {min_replicas} (SKELDIR_MIN_REPLICAS): bring the replicas back"
    never = "set maxmemory-policy noeviction: policy's state must never be evicted"
    forgets = "set appendonly yes: without it a restart forgets"
    return [
        Finding("log server", True, f"{info.get('server_name', 'redis')} {version}, port {info.get('tcp_port')}"),
        judged("replicas", replicas >= min_replicas, str(replicas), fewer, AWAY),
        judged("eviction", policy == "noeviction", policy, never, SERVERS),
        judged("append-only file", aof, "on" if aof else "off", forgets, SERVERS),
        _memory(info),
    ]


async def _durability(redis: LogClient, settings: Settings) -> Finding:
    """Whether each server writes to the disk as often as is configured. Only some users may ask it."""
    if settings.durability == "fsync":
        wanted: tuple[str, ...] = ("always",)
    else:
        # The embedded server writes before it answers, and its guardian syncs (`skeldir/embedded/valkey.py`).
        wanted = ("everysec", "always") if settings.redis_url else ("no", "always")
    try:
        given = {str(one["appendfsync"]) for one in await redis.on_every_server("CONFIG GET", "appendfsync")}
    except ResponseError:
        known_enough = settings.durability != "fsync"
        advice = "SKELDIR_DURABILITY is fsync: ask who runs the server for appendfsync always"
        return judged("durability", known_enough, "not known: this user may not ask", advice, SERVERS)
    advice = f"SKELDIR_DURABILITY is {settings.durability}: set appendfsync {wanted[0]}"
    found = f"appendfsync {', '.join(sorted(given))}"
    if given == {"no"} and "no" in wanted:
        found += "; its guardian syncs, twice a second"
    return judged("durability", given <= set(wanted), found, advice, SERVERS)


def _memory(info: dict[str, Any]) -> Finding:
    bound = int(info.get("maxmemory", 0))
    of = f"of {bound >> 20} MiB" if bound else "used; no maxmemory: the machine's memory is the bound"
    advice = "the gateway takes no new work: look at the lag, or give the server more"
    return judged("memory", not is_full(info), f"{int(info.get('used_memory', 0)) >> 20} MiB {of}", advice, CAPACITY)


async def _partitions(redis: Redis, settings: Settings, now_ms: int) -> list[Finding]:
    findings = []
    for lag in await lags(redis, settings.partitions, now_ms):
        findings.append(await _writer(redis, Partition(lag["partition"]), now_ms))
        findings += _readers(lag)
    return findings


async def _writer(redis: Redis, partition: Partition, now_ms: int) -> Finding:
    lease = await redis.hgetall(partition.lease("policy"))
    led = bool(lease) and int(lease.get(b"expires_ms", b"0")) > now_ms - 1000
    owner = lease.get(b"owner", b"nobody").decode() if lease else "nobody"
    advice = "no policy service leads it: start one (`serve policy`)"
    found = owner if led or not lease else f"{owner}, until {(now_ms - int(lease[b'expires_ms'])) / 1000:.0f} s ago"
    return judged(f"partition {partition.number} writer", led, found, advice, STALLED, of="writer")


def _readers(lag: dict[str, Any]) -> list[Finding]:
    """How long each reader of a partition has left its oldest entry unread, and executors theirs without an end."""
    name = f"partition {lag['partition']}"
    advice = {
        "policy": "policy is behind: look at its log, or add one"
        if lag["executor_s"] < WAITED_FOR_S
        else "policy waits for the executors, which are behind: it decides no further ahead of them",
        "executor": "the executors are behind: look at their logs, add one, or raise their concurrency",
        "ledger": "the ledger is behind: what dashboards show is that old; look at its log, and at the database",
    }
    found = []
    for who, what in advice.items():
        late = lag[f"{who}_s"]
        behind = f"{late:.1f} s behind"
        found.append(judged(f"{name} {who}", late < BEHIND_S, behind, what, STALLED, of=who, seconds=late))
    held = f"{lag['in_flight']} decisions, the oldest for {lag['oldest_s']:.1f} s"
    stuck = "an executor holds a decision and does not end it: look at its log, or restart it"
    oldest = lag["oldest_s"]
    return [*found, judged(f"{name} held", oldest < HELD_S, held, stuck, STALLED, of="held", seconds=oldest)]


async def _log_and_books(redis: Redis, settings: Settings) -> list[Finding]:
    """Whether each goes on where the other ends. Only who may act for the ledger can ask."""
    try:
        url = database_url(settings, "admin_database_url")
        standing = await how_it_stands(redis, url, settings.partitions)
    except (CommandError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError):
        return []  # what is wrong with the database is said below
    found = {Standing.WHOLE: "the log goes on where the books end"}.get(standing, standing.name.lower())
    return [judged("log and books", standing is Standing.WHOLE, found, ADVICE.get(standing, ""), RESTORE)]


async def _database(settings: Settings) -> list[Finding]:
    try:
        connection = await asyncpg.connect(database_url(settings), timeout=5)
    except CommandError as error:
        return [judged("database", False, str(error), "set SKELDIR_DATABASE_URL", SERVERS)]
    except (asyncpg.PostgresError, OSError, TimeoutError) as error:
        advice = "check SKELDIR_DATABASE_URL and that the server runs"
        return [judged("database", False, str(error) or type(error).__name__, advice, SERVERS)]
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
        return [judged("database", False, str(error), "migrate it: skeldir migrate", UPGRADE)]
    finally:
        await connection.close()
    assert role is not None, "every connection has a role"
    plain = not role["rolsuper"] and not role["rolbypassrls"]
    names = ", ".join(row["relname"] for row in open_tables) or "forced on every table"
    sees_all = "connect as app_user: this role sees every tenant"
    return [
        Finding("database", True, f"PostgreSQL {version}"),
        judged("migrations", revision == migrate.newest(), revision, "run skeldir migrate", UPGRADE),
        judged("role", plain, role["rolname"], sees_all, ROLES),
        judged("row-level security", not open_tables, names, "run skeldir migrate", SEPARATION),
    ]


async def _services(running: Running) -> list[Finding]:
    findings = []
    async with httpx.AsyncClient(timeout=3, trust_env=False) as client:
        for name, url in (("gateway", running.gateway_url), ("ledger", running.ledger_url)):
            try:
                reply = await client.get(f"{url}/readyz")
                problems = {check: what for check, what in reply.json()["checks"].items() if what}
                found = "ready" if not problems else "; ".join(f"{check}: {what}" for check, what in problems.items())
                findings.append(judged(name, not problems, found, "look at its log", STALLED))
            except (httpx.HTTPError, ValueError, KeyError) as error:
                findings.append(judged(name, False, str(error), f"it does not answer at {url}", STALLED))
    return findings
