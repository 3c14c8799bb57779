"""What a month cost, and how its calls ended: by tenant, user, provider, model or task type, the dearest first.

From the rollups, by the month in which a call was accepted. A statement goes by the month whose cap paid.
"""

from __future__ import annotations

from typing import Literal

from services.ledger.keys import Refused, View
from services.ledger.lists import Listing

By = Literal["tenant", "user", "provider", "model", "task_type"]

_WHAT: dict[str, str] = {
    "user": "user_id::text",
    "provider": "provider",
    "model": "provider || ':' || model",
    "task_type": "task_type",
}
_ENDS = ", ".join(f"coalesce(sum(calls) FILTER (WHERE status = '{end}'), 0)::bigint AS {end}" for end in (
    "success", "blocked", "failed"
))  # fmt: skip
_TOTALS = "(SELECT *, tenant_id::text AS name FROM call_totals_of_tenants) AS costs"
_OF_USERS = "(SELECT *, span_start AS month FROM call_sums_of_users WHERE span = 'month')"
_OF_TENANTS = "(SELECT *, span_start AS month FROM call_sums_of_tenants WHERE span = 'month')"


def costs(view: View, by: By) -> Listing:
    """The list for a view, which narrows it by its own eyes. Raises Refused where it would be too long."""
    if by == "user" and view.is_of_all:
        raise Refused(422, "missing_tenant", "narrow it to a tenant: give tenant_id")
    return Listing(
        "costs",
        f"name AS {by}, success + blocked + failed AS calls, success, blocked, failed, "
        "trim_scale(cost_cents) AS cost_cents",
        _TOTALS if by == "tenant" else _grouped(view, by),
        {"cost_cents": "numeric", "name": "text"},
        descending=True,
        filters={"month": "month = {}"},
        narrow=(),
    )


def _grouped(view: View, by: By) -> str:
    return (
        f"(SELECT month, {_WHAT[by]} AS name, {_ENDS}, sum(cost_cents) AS cost_cents "
        f"FROM {_sums(view, by)} AS sums GROUP BY 1, 2 HAVING sum(calls) > 0) AS costs"
    )


def _sums(view: View, by: By) -> str:
    if by == "user" or view.user_ids:
        return _OF_USERS
    return "call_sums_of_all" if view.is_of_all else _OF_TENANTS
