"""Quotas on the command line: from options to an order, and from what policy has counted to a table."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from redis.asyncio import Redis
from rich.table import Table

from services.policy.state import Account, Meter
from services.policy.store import decode_account
from shared.control_state import ControlState
from shared.money import to_cents
from shared.partitions import partition_for
from shared.quotas import NO_QUOTAS, Quota, window_end_ms, window_start
from shared.settings import Settings
from shared.streams.partition_count import look
from skeldir.cli.context import CommandError, as_text
from skeldir.cli.control import control_state

UNITS = {"calls": "calls", "tokens": "tokens", "cents": "money", "max_in_flight": "in_flight"}
NAMES = {unit: name for name, unit in UNITS.items()}


async def seen(redis: Redis, settings: Settings, tenant_id: UUID, user_id: UUID | None) -> tuple[ControlState, Any]:
    """The orders, and the accounts of the tenant and of the user as policy last wrote them."""
    partition = partition_for(tenant_id, await look(redis, settings))
    stored = [await redis.get(partition.account(tenant_id, one)) for one in (None, user_id)]
    return await control_state(redis, settings), (decode_account(stored[0]), decode_account(stored[1]))


def order(scope: dict[str, str], given: dict[str, Any], per: str | None, shadow: bool, reason: str) -> dict[str, Any]:
    """The order that sets one quota. `given`: the units' options, those that were not given as None."""
    event = {"type": "quota.set", "scope": scope, "reason": reason, "mode": "shadow" if shadow else "enforce"}
    window = {} if per is None else {"window": per}
    return {**event, **window, **{name: value for name, value in given.items() if value is not None}}


def rows(control: ControlState, tenant: Account, tenant_id: UUID, user_id: UUID | None, now_ms: int) -> list[Any]:
    """The quotas of a tenant, or those that can bound this user; what each has spent, holds, and has left now."""
    found = control.quotas.get(tenant_id, NO_QUOTAS)
    wanted = found.by_id.values() if user_id is None else [q for u in (None, user_id) for q in found.by_user.get(u, ())]
    return [_row(one, tenant, now_ms) for one in wanted]


def _row(quota: Quota, tenant: Account, now_ms: int) -> dict[str, Any]:
    windows = tenant.meters.get(quota.quota_id, {})
    start = max([window_start(quota.window, now_ms), *windows])
    meter = windows.get(start, Meter())
    end_ms = window_end_ms(quota.window, start)
    shown = _cents if quota.unit == "money" else int
    return {
        "scope": quota.named,
        "limit": NAMES[quota.unit],
        "per": quota.window,
        "value": shown(quota.limit),
        "mode": "shadow" if quota.shadow else "enforce",
        "spent": shown(meter.spent),
        "held": shown(meter.reserved),
        "free": shown(max(0, quota.limit - meter.spent - meter.reserved)),
        "resets_at": None if end_ms is None else datetime.fromtimestamp(end_ms / 1000, UTC).isoformat(),
    }


def table(found: list[dict[str, Any]]) -> Table:
    """The rows for a person."""
    shown = Table("scope", "limit", "value", "spent", "held", "free", "resets", "mode")
    for row in found:
        scope = " ".join(f"{name}={value}" for name, value in row["scope"].items()) or "the tenant"
        per = "" if row["per"] is None else f" {'an' if row['per'] == 'hour' else 'a'} {row['per']}"
        counts = [str(row[name]) for name in ("value", "spent", "held", "free")]
        shown.add_row(as_text(scope), row["limit"] + per, *counts, row["resets_at"] or "", row["mode"])
    return shown


def unit_of(name: str) -> str:
    """The unit that an option's name stands for. Raises CommandError."""
    unit = UNITS.get(name.replace("-", "_"))
    if unit is None:
        raise CommandError(f"--limit is one of calls, tokens, cents, max-in-flight, not {name!r}")
    return unit


def _cents(nanocents: int) -> str:
    return f"{to_cents(nanocents):f}"
