"""`quota_use`: what each quota has counted in its newest window. One row a quota, however many windows there were."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from services.ledger.projections.rows import Kind, Patch, Register, Table, order_stamp
from services.ledger.projections.windows import window_start
from shared.events.decisions import ReservationEnded, TaskAllowed
from shared.events.envelope import Envelope
from shared.events.quotas import MeterReading, QuotaBalance

QUOTA_USE = Table(
    "quota_use",
    key={"tenant_id": Kind.UUID, "quota_id": Kind.TEXT},
    constants={"user_id": Kind.UUID},
    registers=(
        Register(
            "use_stamp",
            {
                "window_start": Kind.TIME,
                "spent": Kind.BIGINT,
                "reserved": Kind.BIGINT,
                "spent_cents": Kind.MONEY,
                "reserved_cents": Kind.MONEY,
            },
        ),
    ),
    latest={"updated_at": Kind.TIME},
)


def project(event: Envelope) -> list[Patch]:
    """The readings that the event carries."""
    if not isinstance(event.data, TaskAllowed | ReservationEnded):
        return []
    # What was recorded before readings had a version cannot be put into an order.
    return [_patch(event, reading) for reading in event.data.quotas if reading.version]


def _patch(event: Envelope, reading: MeterReading) -> Patch:
    start = window_start(reading.window_start)
    start_ms = 0 if start is None else int(start.timestamp() * 1000)
    row: dict[str, Any] = {
        "tenant_id": event.tenantid,
        "quota_id": reading.quota,
        # A late end in an older window says nothing about the newest.
        "use_stamp": order_stamp(start_ms, reading.version),
        "window_start": start,
        "updated_at": event.time,
    }
    if isinstance(reading, QuotaBalance) and "user_id" in reading.scope:
        row["user_id"] = UUID(reading.scope["user_id"])
    unit = "_cents" if reading.unit == "money" else ""
    return Patch(QUOTA_USE, {**row, f"spent{unit}": reading.spent, f"reserved{unit}": reading.reserved})
