"""Quotas: limits that operators set on any scope within a tenant, by unit and window. The fold, and the calendar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from uuid import UUID

from shared.events.control import QuotaScope, QuotaSet, QuotaUnset
from shared.events.quotas import Unit, Window
from shared.events.tasks import Task

_FORMATS: dict[Window, str] = {
    "minute": "%Y-%m-%dT%H:%M",
    "hour": "%Y-%m-%dT%H",
    "day": "%Y-%m-%d",
    "month": "%Y-%m",
}
_LENGTHS: dict[Window, timedelta] = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
    "month": timedelta(days=31),
}


@dataclass(frozen=True, slots=True)
class Quota:
    """One limit. `quota_id` is the control entry that first set it: a limit that is changed goes on counting, one that
    was unset and is set again counts from nothing. `limit` in calls, tokens, nanocents, or tasks."""

    quota_id: str
    scope: QuotaScope
    unit: Unit
    window: Window | None
    limit: int
    shadow: bool = False

    @property
    def key(self) -> tuple[QuotaScope, Unit, Window | None]:
        """What it bounds: there is one quota for each."""
        return self.scope, self.unit, self.window

    @property
    def named(self) -> dict[str, str]:
        """The scope as it stands in events, without the tenant: their envelope names it."""
        return self.scope.model_dump(mode="json", exclude_none=True, exclude={"tenant_id"})

    def bounds(self, task: Task) -> bool:
        """Whether the task, of a user that the scope names, is in the scope."""
        scope = self.scope
        return (
            scope.key_id in (None, task.key_id)
            and scope.task_type in (None, task.task_type)
            and scope.model in (None, task.model)
            and scope.provider in (None, task.provider)
        )


@dataclass(frozen=True, slots=True)
class TenantQuotas:
    """The quotas of one tenant, by their id and by the user that they name (None: no user)."""

    by_id: dict[str, Quota] = field(default_factory=dict)
    by_user: dict[UUID | None, tuple[Quota, ...]] = field(default_factory=dict)

    def bounding(self, user_id: UUID, task: Task) -> Iterator[Quota]:
        """Those that a task of this user counts against."""
        for user in (None, user_id):
            for quota in self.by_user.get(user, ()):
                if quota.bounds(task):
                    yield quota


NO_QUOTAS = TenantQuotas()
Quotas = dict[UUID, TenantQuotas]


def quotas_after(before: Quotas, entry_id: str, event: QuotaSet | QuotaUnset) -> Quotas:
    """The quotas after an order."""
    tenant_id = event.scope.tenant_id
    assert tenant_id is not None, "validated when the event was parsed"
    known = before.get(tenant_id, NO_QUOTAS).by_id.values()
    same = next((one for one in known if one.key == (event.scope, event.unit, event.window)), None)
    kept = {one.quota_id: one for one in known if isinstance(event, QuotaSet) or one is not same}
    if isinstance(event, QuotaSet):
        made = same or Quota(entry_id, event.scope, event.unit, event.window, 0)
        kept[made.quota_id] = replace(made, limit=event.limit, shadow=event.mode == "shadow")
    by_user: dict[UUID | None, tuple[Quota, ...]] = {}
    for one in kept.values():
        by_user[one.scope.user_id] = (*by_user.get(one.scope.user_id, ()), one)
    after = {tenant: quotas for tenant, quotas in before.items() if tenant != tenant_id}
    return {**after, tenant_id: TenantQuotas(kept, by_user)} if kept else after


def window_start(window: Window | None, now_ms: int) -> str:
    """The clock minute, clock hour, day or month, UTC; tasks in flight have none."""
    return "" if window is None else datetime.fromtimestamp(now_ms / 1000, UTC).strftime(_FORMATS[window])


@lru_cache(maxsize=64)
def window_end_ms(window: Window | None, start: str) -> int | None:
    """When the window that begins there ends, in milliseconds since the epoch."""
    if window is None:
        return None
    end = datetime.strptime(start, _FORMATS[window]).replace(tzinfo=UTC) + _LENGTHS[window]
    return int((end.replace(day=1) if window == "month" else end).timestamp() * 1000)
