"""What is spent and reserved against caps: of users and of tenants as a whole, by hour and by month."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from services.ledger.lists import Listing
from services.ledger.looking import Rows
from shared.control_state import Limits
from shared.money import to_cents

Whose = tuple[UUID, UUID | None]
"""A tenant, and the user; None: the tenant as a whole."""

# `start` and `whose` are for the order alone: as the indexes have them.
_BALANCE = "total_calls, updated_at, used_percent"
_CENTS = "spent_cents AS spent, reserved_cents AS reserved, cap_cents AS cap"
_HOURS = (
    "SELECT 'user' AS scope, tenant_id, user_id, 'hour' AS budget_window, hour_start AS window_start, "
    f"total_cost_cents AS spent, reserved_cents AS reserved, threshold_cents AS cap, {_BALANCE}, "
    "(hour_start AT TIME ZONE 'UTC') AS start, user_id AS whose "
    "FROM llm_hourly_shutoff_state WHERE balance_version IS NOT NULL"
)
_MONTHS = (
    "SELECT 'user' AS scope, tenant_id, user_id, 'month' AS budget_window, "
    f"month::timestamp AT TIME ZONE 'UTC' AS window_start, {_CENTS}, {_BALANCE}, "
    "month::timestamp AS start, user_id AS whose FROM llm_monthly_budget_state"
)
_OF_TENANTS = (
    "SELECT 'tenant' AS scope, tenant_id, NULL::uuid AS user_id, budget_window, window_start, "
    f"{_CENTS}, {_BALANCE}, (window_start AT TIME ZONE 'UTC') AS start, tenant_id AS whose FROM tenant_budget_state"
)

# Each cap as of its last change.
SPEND = Listing(
    "spend",
    "scope, tenant_id, user_id, budget_window, window_start, trim_scale(spent) AS spent_cents, "
    "trim_scale(reserved) AS reserved_cents, trim_scale(cap) AS cap_cents, "
    "round(100 * (spent + reserved) / nullif(cap, 0), 2)::float8 AS used_pct, total_calls, updated_at, "
    "coalesce(user_id::text, '*') AS owner",
    (_HOURS, _MONTHS, _OF_TENANTS),
    {
        "window_start": "timestamptz",
        "budget_window": "text",
        "tenant_id": "uuid",
        "coalesce(user_id::text, '*')": "text",
    },
    descending=True,
    filters={"window": "budget_window = {}", "since": "window_start >= {}", "until": "window_start < {}"},
)
_TENANTS_HOURS, _TENANTS_MONTHS = (f"{_OF_TENANTS} WHERE budget_window = '{window}'" for window in ("hour", "month"))
# The same for who sees all tenants: newest windows first, in each those nearest to their caps. Conditions and order are
# those of the indexes; who sees one tenant finds its few rows by their keys.
SPEND_OF_ALL = replace(
    SPEND,
    sources=(_HOURS, _MONTHS, _TENANTS_HOURS, _TENANTS_MONTHS),
    key={
        "start": "timestamp",
        "used_percent": "smallint",
        "tenant_id": "uuid",
        "whose": "uuid",
        "budget_window": "text",
        "scope": "text",
    },
    filters={
        "window": "budget_window = {}",
        "since": "start >= ({}::timestamptz AT TIME ZONE 'UTC')",
        "until": "start < ({}::timestamptz AT TIME ZONE 'UTC')",
    },
)
_HOUR, _MONTH = (f"date_trunc('{window}', now() AT TIME ZONE 'UTC')" for window in ("hour", "month"))
# The windows that are open now, the nearest to their caps first.
SPEND_NOW = replace(
    SPEND_OF_ALL,
    sources=(
        f"{_HOURS} AND (hour_start AT TIME ZONE 'UTC') = {_HOUR}",
        f"{_MONTHS} WHERE month::timestamp = {_MONTH}",
        f"{_TENANTS_HOURS} AND (window_start AT TIME ZONE 'UTC') = {_HOUR}",
        f"{_TENANTS_MONTHS} AND (window_start AT TIME ZONE 'UTC') = {_MONTH}",
    ),
    key={name: kind for name, kind in SPEND_OF_ALL.key.items() if name != "start"},
    # Behind policies the planner does not take "start is this" to say that the rest of the index is in order.
    within=("start",),
)


def in_force(rows: Rows, limits: Mapping[Whose, Limits], now: datetime) -> Rows:
    """These windows; those that are open, under the caps that operators have ordered since their last decision."""
    hour = now.replace(minute=0, second=0, microsecond=0)
    starts = {"hour": hour, "month": hour.replace(day=1, hour=0)}
    return [_under_orders(row, limits) if row["window_start"] == starts[row["budget_window"]] else row for row in rows]


def nearest(rows: Rows, limits: Mapping[Whose, Limits]) -> Rows:
    """Of these windows, which are open, those that have a cap, the nearest to it first.

    The books have the cap of a window's last decision: where one was raised, nobody is near it any more.
    """
    found = (_under_orders(row, limits) for row in rows)
    return sorted((row for row in found if row["cap_cents"]), key=lambda row: float(row["used_pct"]), reverse=True)


def _under_orders(row: dict[str, Any], limits: Mapping[Whose, Limits]) -> dict[str, Any]:
    window, none = "hourly" if row["budget_window"] == "hour" else "monthly", Limits()
    own, of_tenant = (getattr(limits.get((row["tenant_id"], owner), none), window) for owner in (row["user_id"], None))
    if own is None:  # a tenant's cap takes the place of its users' default (`budget.py`)
        return row if of_tenant is None else {**row, "cap_cents": None, "used_pct": None}
    committed = Decimal(row["spent_cents"]) + Decimal(row["reserved_cents"])
    used = round(float(100 * committed / to_cents(own)), 2) if own else None
    return {**row, "cap_cents": to_cents(own), "used_pct": used}
