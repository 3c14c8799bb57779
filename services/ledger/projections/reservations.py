"""`llm_budget_reservations`: each reservation, from its allow to its end. One that is held (perhaps spent) may still be
settled or released; that then stands."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Register, Table, stamp
from services.ledger.projections.windows import hour_start, month_start
from shared.events.decisions import ReservationEnded, TaskAllowed
from shared.events.envelope import Envelope
from shared.events.tasks import TaskRef

RESERVATIONS = Table(
    "llm_budget_reservations",
    key={"id": Kind.UUID},
    constants={
        "tenant_id": Kind.UUID,
        "user_id": Kind.UUID,
        "api_call_id": Kind.UUID,
        "request_id": Kind.TEXT,
        "endpoint": Kind.TEXT,
        "reserved_cents": Kind.MONEY,
    },
    registers=(
        Register("reserved_stamp", {"hour_start": Kind.TIME, "month": Kind.DATE, "reserved_at": Kind.TIME}),
        Register(
            "ended_stamp",
            {"state": Kind.TEXT, "settled_cents": Kind.MONEY, "overrun_cents": Kind.MONEY, "ended_at": Kind.TIME},
        ),
    ),
    defaults={"state": "'reserved'"},
)


def project(event: Envelope) -> list[Patch]:
    """The reservation that an allow makes, or its end."""
    match event.data:
        case TaskAllowed() as data:
            made = data.reservation
            when = {
                "reserved_stamp": stamp(event),
                "hour_start": hour_start(made.hour),
                "month": month_start(made.month),
                "reserved_at": event.time,
            }
            return [_patch(event, data.task, made.reservation_id, made.amount, when)]
        case ReservationEnded() as data:
            how = {
                "ended_stamp": stamp(event, 0 if data.how == "held" else 1),
                "state": data.how,
                "settled_cents": data.settled,
                "overrun_cents": data.overrun,
                "ended_at": event.time,
            }
            return [_patch(event, data.task, data.reservation_id, data.reserved, how)]
        case _:
            return []


def _patch(event: Envelope, task: TaskRef, reservation_id: UUID, amount: int, written: dict[str, Any]) -> Patch:
    row = {
        "id": reservation_id,
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "api_call_id": task.task_id,
        "request_id": storable.text(task.request_id),
        "endpoint": task.task_type.endpoint,
        "reserved_cents": amount,
    }
    return Patch(RESERVATIONS, {**row, **written})
