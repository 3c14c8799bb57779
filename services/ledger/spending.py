"""What is spent and reserved against caps: of users and of tenants as a whole, by hour and by month."""

from __future__ import annotations

from dataclasses import replace

from services.ledger.lists import Listing

_BALANCE = "total_calls, updated_at, used_percent"
_CENTS = "spent_cents AS spent, reserved_cents AS reserved, cap_cents AS cap"
_HOURS = (
    "SELECT 'user' AS scope, tenant_id, user_id, 'hour' AS budget_window, hour_start AS window_start, "
    f"total_cost_cents AS spent, reserved_cents AS reserved, threshold_cents AS cap, {_BALANCE} "
    "FROM llm_hourly_shutoff_state WHERE balance_version IS NOT NULL"
)
_MONTHS = (
    "SELECT 'user' AS scope, tenant_id, user_id, 'month' AS budget_window, "
    f"month::timestamp AT TIME ZONE 'UTC' AS window_start, {_CENTS}, {_BALANCE} FROM llm_monthly_budget_state"
)
_OF_TENANTS = (
    "SELECT 'tenant' AS scope, tenant_id, NULL::uuid AS user_id, budget_window, window_start, "
    f"{_CENTS}, {_BALANCE} FROM tenant_budget_state"
)
_WHOSE = {"budget_window": "text", "tenant_id": "uuid", "coalesce(user_id::text, '*')": "text"}

# Each cap as of its last change.
SPEND = Listing(
    "spend",
    "scope, tenant_id, user_id, budget_window, window_start, trim_scale(spent) AS spent_cents, "
    "trim_scale(reserved) AS reserved_cents, trim_scale(cap) AS cap_cents, "
    "round(100 * (spent + reserved) / nullif(cap, 0), 2)::float8 AS used_pct, total_calls, updated_at, "
    "coalesce(user_id::text, '*') AS owner",
    (_HOURS, _MONTHS, _OF_TENANTS),
    {"window_start": "timestamptz", **_WHOSE},
    descending=True,
    filters={"window": "budget_window = {}", "since": "window_start >= {}", "until": "window_start < {}"},
)
_HOUR, _MONTH = (f"date_trunc('{window}', now() AT TIME ZONE 'UTC')" for window in ("hour", "month"))
# The windows that are open now, those nearest to their caps first. Conditions and order are those of the indexes.
SPEND_NOW = replace(
    SPEND,
    sources=(
        f"{_HOURS} AND (hour_start AT TIME ZONE 'UTC') = {_HOUR}",
        f"{_MONTHS} WHERE month = {_MONTH}::date",
        f"{_OF_TENANTS} WHERE budget_window = 'hour' AND (window_start AT TIME ZONE 'UTC') = {_HOUR}",
        f"{_OF_TENANTS} WHERE budget_window = 'month' AND (window_start AT TIME ZONE 'UTC') = {_MONTH}",
    ),
    key={"used_percent": "smallint", **_WHOSE},
)
