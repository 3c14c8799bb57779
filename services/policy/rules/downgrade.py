"""A cheaper model near the end of a budget. It refuses nothing: it says which model all other rules are asked about."""

from __future__ import annotations

from uuid import UUID

from services.policy.budget import current_hour, current_month, hourly_cap, monthly_cap
from services.policy.state import NO_MONEY, Book, Circumstances
from shared.downgrades import Downgrade
from shared.events.decisions import Balance, TaskDowngraded
from shared.events.tasks import Task, moved_to, ref_of


def apply(
    book: Book, task: Task, tenant_id: UUID, user_id: UUID, now: Circumstances
) -> tuple[Task, TaskDowngraded | None]:
    """The task as it is to be decided, and what moved it. A task that was moved by a decision that has expired is
    looked at as it was asked for: the budget may be another's now."""
    if task.requested_model is not None:
        task = moved_to(task, task.requested_model, tenant_id, user_id)
    for rule in now.control.downgrades.get(tenant_id, ()):
        if rule.concerns(user_id, task) and (near := _near_the_end(rule, book, tenant_id, user_id, now)):
            moved = task if rule.shadow else moved_to(task, rule.to, tenant_id, user_id)
            about = {"order": rule.order, "percent": rule.percent, "shadow": rule.shadow}
            return moved, TaskDowngraded(task=ref_of(moved), to=rule.to, balance=near, **about)
    return task, None


def _near_the_end(rule: Downgrade, book: Book, tenant_id: UUID, user_id: UUID, now: Circumstances) -> Balance | None:
    """The budget, of the user or of the tenant, that is used up so far; None where none is."""
    monthly = rule.window == "month"
    cap_of, start_of = (monthly_cap, current_month) if monthly else (hourly_cap, current_hour)
    start = start_of(book.tenant, now.now_ms)
    for scope, account, one in (("user", book.user, user_id), ("tenant", book.tenant, None)):
        cap = cap_of(now, tenant_id, one)
        bucket = (account.months if monthly else account.hours).get(start, NO_MONEY)
        if cap is not None and bucket.committed * 100 >= cap * rule.percent:
            return Balance(
                scope=scope,
                window=rule.window,
                window_start=start,
                spent=bucket.spent,
                reserved=bucket.reserved,
                cap=cap,
                calls=bucket.calls,
                version=account.version,
            )
    return None
