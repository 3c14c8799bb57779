"""Projections: pure functions from an event to patches of rows. One file for each table, or small family of them."""

from __future__ import annotations

from services.ledger.projections import (
    balances,
    breaker,
    calls,
    hourly_shutoff,
    materialisations,
    monthly_costs,
    quota_use,
    reservations,
    rules,
)
from services.ledger.projections.control import KEYS, KILL_SWITCHES, LIMITS
from services.ledger.projections.rows import Patch, Table
from shared.events.envelope import Envelope

_PROJECTIONS = (
    calls.project,
    monthly_costs.project,
    balances.project,
    hourly_shutoff.project,
    breaker.project,
    reservations.project,
    quota_use.project,
    materialisations.project,
)

# In the order in which every writer locks them.
TABLES: tuple[Table, ...] = (
    calls.CALLS,
    monthly_costs.MONTHLY_COSTS,
    balances.MONTHLY_BUDGET,
    balances.TENANT_BUDGET,
    hourly_shutoff.HOURLY_SHUTOFF,
    breaker.BREAKER,
    reservations.RESERVATIONS,
    materialisations.INVESTIGATIONS,
    materialisations.BUDGET_JOBS,
    KILL_SWITCHES,
    LIMITS,
    KEYS,
    rules.QUOTAS,
    rules.BOUNDS,
    rules.DOWNGRADES,
    quota_use.QUOTA_USE,
)


def project(event: Envelope) -> list[Patch]:
    """What the event says about rows. Raises ValueError for an event that names no tenant and user."""
    if event.tenantid is None or event.userid is None:
        raise ValueError(f"{event.type} names no tenant and user")
    return [patch for projection in _PROJECTIONS for patch in projection(event)]
