"""What quotas have counted in the windows that are open now: from the books, against the limits that hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Self
from uuid import UUID

from services.ledger.keys import View
from services.ledger.lists import QUOTAS, Page, read
from services.ledger.looking import NARROW, Rows, narrowing
from services.ledger.projections.windows import window_start as named_start
from services.ledger.sessions import Connection
from shared.events.control import QuotaScope
from shared.events.envelope import at
from shared.events.quotas import Unit, Window
from shared.money import to_cents
from shared.quotas import NO_QUOTAS, Quota, Quotas, window_end_ms, window_start

# A quota that none of so many others have been used after is not looked at for the overview.
MOST_LOOKED_AT = 5000

_COLUMNS = "tenant_id, quota_id, window_start, spent, reserved, spent_cents, reserved_cents"
_OF_THESE = f"""
SELECT {_COLUMNS} FROM quota_use
WHERE (tenant_id, quota_id) IN (SELECT * FROM unnest($1::uuid[], $2::text[]))
"""
_NEWEST = f"SELECT {_COLUMNS} FROM quota_use WHERE {NARROW} ORDER BY updated_at DESC LIMIT {MOST_LOOKED_AT}"


@dataclass(frozen=True, slots=True)
class Use:
    """What a quota has counted in the window that is open: in its unit, money in cents. None: nobody knows."""

    spent: int | Decimal | None
    reserved: int | Decimal | None
    used_pct: float | None
    resets_at: datetime | None

    @classmethod
    def of(cls, quota: Quota | None, row: Mapping[str, Any] | None, now_ms: int) -> Self:
        """By the row of `quota_use`, which has the newest window that there was."""
        if quota is None or row is None:
            return cls(None, None, None, None)
        start = window_start(quota.window, now_ms)
        spent, reserved = (row[name + ("_cents" if quota.unit == "money" else "")] for name in ("spent", "reserved"))
        opened = named_start(start)
        if opened is not None and row["window_start"] < opened:
            spent = reserved = 0
        limit = to_cents(quota.limit) if quota.unit == "money" else quota.limit
        used = round(float(100 * (spent + reserved) / limit), 2) if limit else None
        end_ms = window_end_ms(quota.window, start)
        return cls(spent, reserved, used, None if end_ms is None else at(end_ms))

    @property
    def shown(self) -> dict[str, Any]:
        """As columns of a list."""
        return {name: getattr(self, name) for name in ("spent", "reserved", "used_pct", "resets_at")}


async def page(
    connection: Connection, view: View, quotas: Quotas, now_ms: int, *, limit: int, before: str | None
) -> Page:
    """A page of the quotas in force, each with its use."""
    found = await read(connection, view, QUOTAS, limit=limit, before=before)
    # As the orders have them; the books may be a moment behind those.
    tenants = {row["tenant_id"] for row in found.rows}
    by_key = {one.key: one for tenant in tenants for one in quotas.get(tenant, NO_QUOTAS).by_id.values()}
    known = [by_key.get(_key(row)) for row in found.rows]
    ids = [(row["tenant_id"], one.quota_id) for row, one in zip(found.rows, known, strict=True) if one is not None]
    rows = await connection.fetch(_OF_THESE, [tenant for tenant, _ in ids], [quota for _, quota in ids])
    used = {(row["tenant_id"], row["quota_id"]): row for row in rows}

    def use(tenant_id: UUID, quota: Quota | None) -> Use:
        return Use.of(quota, None if quota is None else used.get((tenant_id, quota.quota_id)), now_ms)

    shown = [{**row, **use(row["tenant_id"], one).shown} for row, one in zip(found.rows, known, strict=True)]
    return Page(shown, found.next)


async def nearest(connection: Connection, view: View, quotas: Quotas, now_ms: int, most: int) -> Rows:
    """The quotas of which most is used, the nearest to their limits first."""
    found = []
    for row in await connection.fetch(_NEWEST, *narrowing(view)):
        quota = quotas.get(row["tenant_id"], NO_QUOTAS).by_id.get(row["quota_id"])
        use = Use.of(quota, row, now_ms)
        if quota is not None and use.used_pct:
            found.append((use, row["tenant_id"], quota))
    found.sort(key=lambda one: -(one[0].used_pct or 0.0))
    return [{"tenant_id": tenant_id, **_shown(quota), **use.shown} for use, tenant_id, quota in found[:most]]


def _shown(quota: Quota) -> dict[str, Any]:
    scope = {name: value for name, value in quota.scope if name != "tenant_id"}
    limit = to_cents(quota.limit) if quota.unit == "money" else quota.limit
    return {**scope, "unit": quota.unit, "window": quota.window, "limit": limit, "shadow": quota.shadow}


def _key(row: Mapping[str, Any]) -> tuple[QuotaScope, Unit, Window | None]:
    """Of the quota that a row of the list is about."""
    return QuotaScope.model_validate({name: row[name] for name in QuotaScope.model_fields}), row["unit"], row["window"]
