"""Operators' orders over time: which kill switch was engaged when, and which limits policy had applied."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from uuid import UUID

from shared.control_state import ControlState, Limits, Switch, evolve, order_of
from shared.events.control import (
    ControlEvent,
    KillSwitchEngaged,
    KillSwitchReleased,
    LimitsSet,
    QuotaSet,
    QuotaUnset,
    entry_ms,
)
from shared.events.tasks import TaskRef
from shared.quotas import NO_QUOTAS, TenantQuotas

Place = tuple[int, int]


@dataclass(slots=True)
class Engagement:
    """A kill switch from its engagement to its release, or to the next engagement of the same scope."""

    switch: Switch
    entry_id: str
    ended_ms: int | None = None

    def holds(self, from_ms: int, to_ms: int) -> bool:
        """Whether it held all the time from one moment to another."""
        until = min(one for one in (self.ended_ms, self.switch.until_ms, to_ms + 1) if one is not None)
        return self.switch.since_ms <= from_ms and to_ms < until


class Orders:
    """The control stream's orders, each with its entry id. There are few: an order is a person's act."""

    def __init__(self, orders: Iterable[tuple[str, ControlEvent]] = ()) -> None:
        self.engagements: list[Engagement] = []
        self._limits: dict[tuple[UUID, UUID | None], list[tuple[Place, Limits]]] = {}
        self._quotas: dict[UUID, list[tuple[Place, TenantQuotas]]] = {}
        self.last: Place = (0, 0)
        state = ControlState()
        for entry_id, order in sorted(orders, key=lambda one: order_of(one[0])):
            self.last = order_of(entry_id)
            if isinstance(order, KillSwitchEngaged | KillSwitchReleased | LimitsSet | QuotaSet | QuotaUnset):
                state = evolve(state, entry_id, order)
                self._remember(state, entry_id, order)

    def stopping(self, tenant_id: UUID, user_id: UUID, task: TaskRef, from_ms: int, to_ms: int) -> Engagement | None:
        """A switch with this task in its scope that held all the time from one moment to another."""
        for one in self.engagements:
            if one.holds(from_ms, to_ms) and one.switch.stops(tenant_id, user_id, task, from_ms):
                return one
        return None

    def limits(self, tenant_id: UUID, user_id: UUID | None, position: str) -> Limits | None:
        """The limits of a user or tenant at this position of the control stream; None where none were set till then."""
        known = self._limits.get((tenant_id, user_id), [])
        at = bisect_right(known, order_of(position), key=lambda one: one[0])
        return known[at - 1][1] if at else None

    def quotas(self, tenant_id: UUID, position: str) -> TenantQuotas:
        """The quotas of a tenant at this position of the control stream."""
        known = self._quotas.get(tenant_id, [])
        at = bisect_right(known, order_of(position), key=lambda one: one[0])
        return known[at - 1][1] if at else NO_QUOTAS

    def _remember(self, state: ControlState, entry_id: str, order: ControlEvent) -> None:
        match order:
            case KillSwitchEngaged() | KillSwitchReleased():
                for one in self.engagements:
                    if one.ended_ms is None and one.switch.scope == order.scope:
                        one.ended_ms = entry_ms(entry_id)
                if isinstance(order, KillSwitchEngaged):
                    self.engagements.append(Engagement(state.switches[order.scope], entry_id))
            case LimitsSet(scope=scope):
                assert scope.tenant_id is not None, "validated when it was parsed"
                owner = (scope.tenant_id, scope.user_id)
                self._limits.setdefault(owner, []).append((order_of(entry_id), state.limits[owner]))
            case QuotaSet(scope=scope) | QuotaUnset(scope=scope):
                assert scope.tenant_id is not None, "validated when it was parsed"
                quotas = state.quotas.get(scope.tenant_id, NO_QUOTAS)
                self._quotas.setdefault(scope.tenant_id, []).append((order_of(entry_id), quotas))
