"""What each cap looked like last: `llm_monthly_budget_state`, `tenant_budget_state`, and the balance of
`llm_hourly_shutoff_state`. Policy numbers the versions of an account; the highest is the newest."""

from __future__ import annotations

from typing import Any

from services.ledger.projections.hourly_shutoff import HOURLY_SHUTOFF
from services.ledger.projections.rows import Kind, Patch, Register, Table
from services.ledger.projections.windows import hour_start, month_start
from shared.events.decisions import Balance, ReservationEnded, TaskAllowed
from shared.events.envelope import Envelope

_BALANCE = Register(
    "balance_version",
    {
        "cap_cents": Kind.MONEY,
        "spent_cents": Kind.MONEY,
        "reserved_cents": Kind.MONEY,
        "total_calls": Kind.BIGINT,
    },
    Kind.BIGINT,
)

MONTHLY_BUDGET = Table(
    "llm_monthly_budget_state",
    key={"tenant_id": Kind.UUID, "user_id": Kind.UUID, "month": Kind.DATE},
    registers=(_BALANCE,),
    latest={"updated_at": Kind.TIME},
)
TENANT_BUDGET = Table(
    "tenant_budget_state",
    key={"tenant_id": Kind.UUID, "budget_window": Kind.TEXT, "window_start": Kind.TIME},
    registers=(_BALANCE,),
    latest={"updated_at": Kind.TIME},
)

TABLES = (MONTHLY_BUDGET, TENANT_BUDGET, HOURLY_SHUTOFF)


def project(event: Envelope) -> list[Patch]:
    """The balances that the event carries."""
    if not isinstance(event.data, TaskAllowed | ReservationEnded):
        return []
    return [_patch(event, balance) for balance in event.data.balances]


def _patch(event: Envelope, balance: Balance) -> Patch:
    seen: dict[str, Any] = {
        "balance_version": balance.version,
        "reserved_cents": balance.reserved,
        "total_calls": balance.calls,
        "tenant_id": event.tenantid,
        "updated_at": event.time,
    }
    caps = {"cap_cents": balance.cap, "spent_cents": balance.spent}
    if balance.scope == "tenant":
        start = balance.window_start if balance.window == "hour" else f"{balance.window_start}-01T00"
        of_tenant = {"budget_window": balance.window, "window_start": hour_start(start)}
        return Patch(TENANT_BUDGET, {**seen, **caps, **of_tenant})
    if balance.window == "month":
        month = month_start(balance.window_start)
        return Patch(MONTHLY_BUDGET, {**seen, **caps, "user_id": event.userid, "month": month})
    hour = {"threshold_cents": balance.cap, "total_cost_cents": balance.spent}
    start_of_hour = hour_start(balance.window_start)
    return Patch(HOURLY_SHUTOFF, {**seen, **hour, "user_id": event.userid, "hour_start": start_of_hour})
