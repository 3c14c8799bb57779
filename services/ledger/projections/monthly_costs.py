"""`llm_monthly_costs`: what a user's answered and attempted calls cost in a month, also by model.

Calls are counted at their end; costs where policy settles them, which it does once for each reservation: at the end, or
later for an attempt whose end nobody knew. So the total is what the monthly cap was held against.
"""

from __future__ import annotations

from datetime import date

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Table
from services.ledger.projections.windows import month_of, month_start
from shared.events.decisions import ReservationEnded
from shared.events.envelope import Envelope
from shared.events.outcomes import TaskFailed, TaskSucceeded
from shared.events.tasks import TaskRef

MONTHLY_COSTS = Table(
    "llm_monthly_costs",
    key={"tenant_id": Kind.UUID, "user_id": Kind.UUID, "month": Kind.DATE},
    sums={"total_cost_cents": Kind.MONEY, "total_calls": Kind.BIGINT, "model_breakdown": Kind.BREAKDOWN},
    latest={"updated_at": Kind.TIME},
)


def project(event: Envelope) -> list[Patch]:
    """One call more, or its cost."""
    match event.data:
        case TaskSucceeded() as data:
            return [_patch(event, data.task, month_of(event.time), calls=1, cost=0)]
        case TaskFailed(provider_attempted=True) as data:
            return [_patch(event, data.task, month_of(event.time), calls=1, cost=0)]
        case ReservationEnded(how="settled") as data:
            return [_patch(event, data.task, _reserved_month(event, data), calls=0, cost=data.settled)]
        case _:
            return []


def _reserved_month(event: Envelope, data: ReservationEnded) -> date:
    """The month whose cap paid for it, also when the month has turned since."""
    for balance in data.balances:
        if balance.scope == "user" and balance.window == "month":
            return month_start(balance.window_start)
    return month_of(event.time)


def _patch(event: Envelope, task: TaskRef, month: date, *, calls: int, cost: int) -> Patch:
    row = {
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "month": month,
        "total_cost_cents": cost,
        "total_calls": calls,
        "model_breakdown": {storable.text(f"{task.provider}:{task.model}"): (calls, cost)},
        "updated_at": event.time,
    }
    return Patch(MONTHLY_COSTS, row)
