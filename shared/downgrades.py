"""Downgrades: which calls go to a cheaper model near the end of a budget, as operators set it. The fold."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from uuid import UUID

from shared.events.downgrades import BudgetWindow, DowngradeSet, DowngradeUnset
from shared.events.scope import Scope
from shared.events.tasks import Task


@dataclass(frozen=True, slots=True)
class Downgrade:
    """One rule: from `percent` of the cap of `window` on, calls to models like `model` go to `to` (`provider:model`).
    `order` is the control entry that set it."""

    order: str
    scope: Scope
    model: str
    window: BudgetWindow
    to: str
    percent: int
    shadow: bool = False

    def concerns(self, user_id: UUID, task: Task) -> bool:
        """Whether a task of this user, as it was asked for, may be moved by it.

        An embedding of another model is no cheaper one of the same, and not every provider has the Responses API.
        """
        scope, named = self.scope, f"{task.provider}:{task.model}"
        if scope.user_id not in (None, user_id) or scope.task_type not in (None, task.task_type) or named == self.to:
            return False
        if task.operation == "embeddings" or (
            task.operation == "responses" and not self.to.startswith(f"{task.provider}:")
        ):
            return False
        return fnmatchcase(named if ":" in self.model else task.model, self.model)


Downgrades = dict[UUID, tuple[Downgrade, ...]]
"""By tenant, those of the highest percentage first: the last rule on the way to a budget's end holds. Those in shadow
mode come after all others, so that they change nothing."""


def downgrades_after(before: Downgrades, entry_id: str, event: DowngradeSet | DowngradeUnset) -> Downgrades:
    """The downgrades after an order."""
    tenant_id = event.scope.tenant_id
    assert tenant_id is not None, "validated when the event was parsed"
    same = (event.scope, event.model, event.window)
    kept = [one for one in before.get(tenant_id, ()) if (one.scope, one.model, one.window) != same]
    if isinstance(event, DowngradeSet):
        kept.append(Downgrade(entry_id, *same, event.to, event.percent, event.mode == "shadow"))
    ordered = tuple(sorted(kept, key=lambda one: (one.shadow, -one.percent)))
    others = {tenant: rules for tenant, rules in before.items() if tenant != tenant_id}
    return {**others, tenant_id: ordered} if ordered else others
