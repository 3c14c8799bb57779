"""`llm_hourly_shutoff_state`: a user's clock hour. Policy's trips here; its balances in `balances.py`, operators'
manual shutoffs in `control.py`. Each writer has its own columns, and `is_shutoff` is generated from all of them."""

from __future__ import annotations

from services.ledger.projections.rows import Kind, Patch, Register, Table
from services.ledger.projections.windows import hour_start
from shared.events.decisions import ShutoffTripped
from shared.events.envelope import Envelope, at

HOURLY_SHUTOFF = Table(
    "llm_hourly_shutoff_state",
    key={"tenant_id": Kind.UUID, "user_id": Kind.UUID, "hour_start": Kind.TIME},
    registers=(
        Register(
            "balance_version",
            {
                "threshold_cents": Kind.MONEY,
                "total_cost_cents": Kind.MONEY,
                "reserved_cents": Kind.MONEY,
                "total_calls": Kind.BIGINT,
            },
            Kind.BIGINT,
        ),
        Register("trip_version", {"tripped_until": Kind.TIME}, Kind.BIGINT),
        Register(
            "manual_stamp",
            {
                "manual_engaged": Kind.BOOLEAN,
                "manual_reason": Kind.TEXT,
                "manual_actor": Kind.TEXT,
                "manual_until": Kind.TIME,
            },
        ),
    ),
    latest={"updated_at": Kind.TIME},
    defaults={"total_cost_cents": "0", "reserved_cents": "0", "total_calls": "0", "manual_engaged": "false"},
)


def project(event: Envelope) -> list[Patch]:
    """The trip of an hour whose threshold is spent."""
    if not isinstance(event.data, ShutoffTripped):
        return []
    row = {
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "hour_start": hour_start(event.data.hour),
        "trip_version": event.data.version,
        "tripped_until": at(event.data.until_ms),
        "updated_at": event.time,
    }
    return [Patch(HOURLY_SHUTOFF, row)]
