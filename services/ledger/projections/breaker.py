"""`llm_breaker_state`: the circuit breaker of a user, as of its newest version."""

from __future__ import annotations

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Register, Table
from shared.events.decisions import BreakerChanged
from shared.events.envelope import Envelope, at

BREAKER = Table(
    "llm_breaker_state",
    key={"tenant_id": Kind.UUID, "user_id": Kind.UUID, "breaker_key": Kind.TEXT},
    registers=(
        Register(
            "breaker_version",
            {
                "state": Kind.TEXT,
                "failure_count": Kind.INTEGER,
                "opened_at": Kind.TIME,
                "last_trip_at": Kind.TIME,
                "reason": Kind.TEXT,
                "updated_at": Kind.TIME,
            },
            Kind.BIGINT,
        ),
    ),
)


def project(event: Envelope) -> list[Patch]:
    """The breaker after a change."""
    data = event.data
    if not isinstance(data, BreakerChanged):
        return []
    row = {
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "breaker_key": storable.text(data.breaker_key),
        "breaker_version": data.version,
        "state": data.state.value,
        "failure_count": data.failure_count,
        "opened_at": None if data.opened_at_ms is None else at(data.opened_at_ms),
        "last_trip_at": None if data.last_trip_at_ms is None else at(data.last_trip_at_ms),
        "reason": storable.text(data.reason),
        "updated_at": event.time,
    }
    return [Patch(BREAKER, row)]
