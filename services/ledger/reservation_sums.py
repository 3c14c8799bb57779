"""Where a balance is not the sum over its reservations: of users and tenants, by hour and by month.

A reservation counts in the hour and the month in which it was made, also when it ends in another one.
"""

from __future__ import annotations

from dataclasses import dataclass

LIVE_OR_HELD = ("reserved", "held")


@dataclass(frozen=True, slots=True)
class _Window:
    """A table of balances: whose they are, and how its rows (`b`) name the window that reservations name."""

    table: str
    by_user: bool
    window: str
    start: str
    spent: str
    which: str


_WINDOWS = (
    _Window("llm_monthly_budget_state", True, "month", "b.month", "spent_cents", "month IS NOT NULL"),
    _Window(
        "llm_hourly_shutoff_state",
        True,
        "hour_start",
        "b.hour_start",
        "total_cost_cents",
        "balance_version IS NOT NULL",
    ),
    _Window(
        "tenant_budget_state",
        False,
        "month",
        "(b.window_start AT TIME ZONE 'UTC')::date",
        "spent_cents",
        "budget_window = 'month'",
    ),
    _Window("tenant_budget_state", False, "hour_start", "b.window_start", "spent_cents", "budget_window = 'hour'"),
)


def reserved() -> str:
    """A query for the balances whose reserved is not the sum of live and held reservations."""
    return _union("reserved_cents", LIVE_OR_HELD, "cents reserved, live and held reservations of")


def spent() -> str:
    """A query for the balances whose spent is not the sum of what reservations were settled at."""
    return _union("settled_cents", ("settled",), "cents spent, reservations settled at")


def _union(summed: str, states: tuple[str, ...], words: str) -> str:
    return " UNION ALL ".join(
        _query(one, "reserved_cents" if summed == "reserved_cents" else one.spent, summed, states, words)
        for one in _WINDOWS
    )


def _query(one: _Window, balance: str, summed: str, states: tuple[str, ...], words: str) -> str:
    owner = ("tenant_id", "user_id") if one.by_user else ("tenant_id",)
    same = " AND ".join(f"r.{name} = b.{name}" for name in owner)
    columns = ", ".join(owner)
    names = ", ".join(f"b.{name}" for name in owner)
    among = ", ".join(f"'{state}'" for state in states)
    return f"""
SELECT concat_ws(' ', {names}, {one.start}),
  format('%s {words} %s', trim_scale(b.{balance}), coalesce(r.cents, 0))
FROM {one.table} AS b LEFT JOIN (
  SELECT {columns}, {one.window} AS start, sum({summed}) AS cents FROM llm_budget_reservations
  WHERE state IN ({among}) GROUP BY {columns}, start
) AS r ON {same} AND r.start = {one.start}
WHERE b.{one.which} AND b.{balance} <> coalesce(r.cents, 0)"""
