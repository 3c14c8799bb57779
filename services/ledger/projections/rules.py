"""What operators set beside limits: `tenant_quotas`, `task_bounds`, `downgrades`; each as its last order left it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Register, Table
from shared.bounds import Bounds, bounds_after
from shared.control_state import ControlState
from shared.events.bounds import BoundsSet, BoundsUnset
from shared.events.control import QuotaSet, QuotaUnset
from shared.events.downgrades import DowngradeSet, DowngradeUnset

_ORDERED = {"actor": Kind.TEXT, "reason": Kind.TEXT, "changed_at": Kind.TIME}
QUOTAS = Table(
    "tenant_quotas",
    key={"quota_key": Kind.TEXT},
    constants={
        "tenant_id": Kind.UUID,
        "user_id": Kind.UUID,
        "key_id": Kind.TEXT,
        "provider": Kind.TEXT,
        "model": Kind.TEXT,
        "task_type": Kind.TEXT,
        "unit": Kind.TEXT,
        "quota_window": Kind.TEXT,
    },
    registers=(
        Register(
            "set_stamp",
            {
                "in_force": Kind.BOOLEAN,
                "most": Kind.BIGINT,
                "most_cents": Kind.MONEY,
                "shadow": Kind.BOOLEAN,
                **_ORDERED,
            },
        ),
    ),
)
BOUNDS = Table(
    "task_bounds",
    key={"bounds_key": Kind.TEXT},
    constants={"tenant_id": Kind.UUID, "task_type": Kind.TEXT},
    registers=(
        Register(
            "set_stamp",
            {
                "in_force": Kind.BOOLEAN,
                "timeout_ms": Kind.BIGINT,
                "max_cost_cents": Kind.MONEY,
                "max_tool_calls": Kind.BIGINT,
                **_ORDERED,
            },
        ),
    ),
)
DOWNGRADES = Table(
    "downgrades",
    key={"downgrade_key": Kind.TEXT},
    constants={
        "tenant_id": Kind.UUID,
        "user_id": Kind.UUID,
        "task_type": Kind.TEXT,
        "model_pattern": Kind.TEXT,
        "budget_window": Kind.TEXT,
    },
    registers=(
        Register(
            "set_stamp",
            {
                "in_force": Kind.BOOLEAN,
                "to_model": Kind.TEXT,
                "from_percent": Kind.INTEGER,
                "shadow": Kind.BOOLEAN,
                **_ORDERED,
            },
        ),
    ),
)

Rule = QuotaSet | QuotaUnset | BoundsSet | BoundsUnset | DowngradeSet | DowngradeUnset


def project(before: ControlState, event: Rule, order: UUID, now: datetime) -> Patch:
    """The row that an order about a rule writes."""
    ordered = {
        "set_stamp": order,
        "in_force": not isinstance(event, QuotaUnset | BoundsUnset | DowngradeUnset),
        "actor": storable.text(event.actor),
        "reason": storable.text(event.reason),
        "changed_at": now,
    }
    scope = {name: _text(value) for name, value in event.scope if name not in ("tenant_id", "user_id")}
    whose = {"tenant_id": event.scope.tenant_id, "user_id": event.scope.user_id}
    if isinstance(event, QuotaSet | QuotaUnset):
        what: dict[str, Any] = {"unit": event.unit, "quota_window": event.window}
        row: dict[str, Any] = {"quota_key": _key(event.scope, what), **whose, **scope, **what, **ordered}
        if isinstance(event, QuotaSet):
            row |= {"most_cents" if event.unit == "money" else "most": event.limit, "shadow": event.mode == "shadow"}
        return Patch(QUOTAS, row)
    if isinstance(event, BoundsSet | BoundsUnset):
        assert event.scope.task_type is not None, "validated when the event was parsed"
        of = (event.scope.tenant_id, event.scope.task_type)
        now_are = bounds_after(before.bounds, event).get(of, Bounds())
        row = {"bounds_key": _key(event.scope, {}), "tenant_id": event.scope.tenant_id, "task_type": scope["task_type"]}
        row |= {"timeout_ms": now_are.timeout_ms, "max_cost_cents": now_are.max_cost}
        return Patch(BOUNDS, {**row, "max_tool_calls": now_are.max_tool_calls, **ordered})
    what = {"model_pattern": storable.text(event.model), "budget_window": event.window}
    row = {"downgrade_key": _key(event.scope, what), **whose, "task_type": scope["task_type"], **what, **ordered}
    if isinstance(event, DowngradeSet):
        row |= {"to_model": storable.text(event.to), "from_percent": event.percent, "shadow": event.mode == "shadow"}
    return Patch(DOWNGRADES, row)


def _key(scope: BaseModel, what: dict[str, Any]) -> str:
    """What there is one rule for, as JSON that is the same for equal ones."""
    said = {**scope.model_dump(mode="json"), **what}
    given = {name: value for name, value in said.items() if value is not None}
    return storable.text(orjson.dumps(given, option=orjson.OPT_SORT_KEYS).decode())


def _text(value: Any) -> str | None:
    return None if value is None else storable.text(str(value))
