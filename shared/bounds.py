"""Bounds: what each single task of a type may take. Limits and quotas, in contrast, add many tasks up."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from shared.events.bounds import BoundsSet, BoundsUnset
from shared.events.tasks import TaskType
from shared.money import from_cents


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of one task; None where nothing was set. `timeout_ms` of its call, `max_cost` in nanocents."""

    timeout_ms: int | None = None
    max_cost: int | None = None
    max_tool_calls: int | None = None

    def over(self, other: Bounds) -> Bounds:
        """These, and the other's where these say nothing."""
        return Bounds(
            timeout_ms=other.timeout_ms if self.timeout_ms is None else self.timeout_ms,
            max_cost=other.max_cost if self.max_cost is None else self.max_cost,
            max_tool_calls=other.max_tool_calls if self.max_tool_calls is None else self.max_tool_calls,
        )


NO_BOUNDS = Bounds()
TypeBounds = dict[tuple[UUID | None, TaskType], Bounds]
"""By tenant (None: every one) and task type."""


def bounds_of(known: TypeBounds, tenant_id: UUID, task_type: TaskType) -> Bounds:
    """The bounds of a tenant's task: each the tenant's own, else everybody's."""
    if not known:
        return NO_BOUNDS
    return known.get((tenant_id, task_type), NO_BOUNDS).over(known.get((None, task_type), NO_BOUNDS))


def bounds_after(before: TypeBounds, event: BoundsSet | BoundsUnset) -> TypeBounds:
    """The bounds after an order."""
    assert event.scope.task_type is not None, "validated when the event was parsed"
    of = (event.scope.tenant_id, event.scope.task_type)
    if isinstance(event, BoundsUnset):
        return {one: bounds for one, bounds in before.items() if one != of}
    cost = None if event.max_cost_cents is None else from_cents(event.max_cost_cents)
    given = Bounds(event.timeout_ms, cost, event.max_tool_calls)
    return {**before, of: given.over(before.get(of, NO_BOUNDS))}
