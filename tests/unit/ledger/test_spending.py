"""Windows under the caps that operators have ordered since their last decision."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

from services.ledger.spending import in_force, nearest
from shared.control_state import Limits
from shared.money import from_cents

TENANT, ANN, BEN = uuid4(), uuid4(), uuid4()


def row(user: UUID | None, spent: str, cap: str | None, window: str = "month") -> dict[str, Any]:
    used = None if cap is None else round(float(100 * Decimal(spent) / Decimal(cap)), 2)
    cents = {"spent_cents": Decimal(spent), "reserved_cents": Decimal(0), "cap_cents": cap and Decimal(cap)}
    return {"tenant_id": TENANT, "user_id": user, "budget_window": window, **cents, "used_pct": used}


def test_without_orders_rows_stay_as_they_are_and_those_without_a_cap_go() -> None:
    near, far, unbound = row(ANN, "2", "2.5"), row(BEN, "1", "100"), row(None, "3", None)
    assert nearest([near, far, unbound], {}) == [near, far]


def test_a_cap_that_was_raised_or_lowered_counts_at_once() -> None:
    limits: dict[tuple[UUID, UUID | None], Limits] = {
        (TENANT, ANN): Limits(monthly=from_cents(2500)),
        (TENANT, BEN): Limits(monthly=from_cents("1.25")),
    }
    rows = nearest([row(ANN, "2", "2.5"), row(BEN, "1", "100"), row(ANN, "2", "500", "hour")], limits)
    assert [(one["user_id"], one["cap_cents"], one["used_pct"]) for one in rows] == [
        (BEN, Decimal("1.25"), 80.0),
        (ANN, Decimal(500), 0.4),
        (ANN, Decimal(2500), 0.08),
    ]


def test_a_tenants_cap_takes_the_place_of_its_users_default_but_not_of_their_own() -> None:
    limits = {(TENANT, None): Limits(monthly=from_cents(40)), (TENANT, BEN): Limits(monthly=from_cents(8))}
    rows = nearest([row(ANN, "2", "2500"), row(BEN, "4", "2500"), row(None, "6", None)], limits)
    assert [(one["user_id"], one["used_pct"]) for one in rows] == [(BEN, 50.0), (None, 15.0)]


def test_an_open_window_is_under_the_cap_that_holds_and_a_past_one_under_its_last() -> None:
    now, month = datetime(2026, 11, 30, 4, 7, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)
    limits = {(TENANT, None): Limits(hourly=0, monthly=from_cents(40)), (TENANT, BEN): Limits(monthly=from_cents(8))}
    rows = [
        {**row(BEN, "4", "2500"), "window_start": month},
        {**row(BEN, "4", "2500"), "window_start": datetime(2026, 10, 1, tzinfo=UTC)},
        {**row(ANN, "2", "2500"), "window_start": month},
        {**row(None, "6", "100", "hour"), "window_start": datetime(2026, 11, 30, 4, tzinfo=UTC)},
        {**row(None, "6", "100", "hour"), "window_start": datetime(2026, 11, 30, 3, tzinfo=UTC)},
    ]
    assert [(one["cap_cents"], one["used_pct"]) for one in in_force(rows, limits, now)] == [
        (Decimal(8), 50.0),
        (Decimal(2500), 0.16),
        (None, None),
        (Decimal(0), None),
        (Decimal(100), 6.0),
    ]
    assert in_force(rows, {}, now) == rows
