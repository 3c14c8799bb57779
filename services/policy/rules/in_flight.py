"""How many allowed tasks of one tenant (or user) may be without an end at once."""

from __future__ import annotations

from services.policy.rules import Book, Circumstances, Refusal, Request
from shared.events.decisions import BlockReason


def check(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse when the tenant's bound is reached, or the user's own where an operator set one."""
    of_tenant = now.control.limits.get((request.tenant_id, None))
    of_user = now.control.limits.get((request.tenant_id, request.user_id))
    tenant_bound = of_tenant.max_in_flight if of_tenant else None
    bounds = (
        ("tenant", book.tenant, now.config.max_in_flight if tenant_bound is None else tenant_bound),
        ("user", book.user, of_user.max_in_flight if of_user else None),
    )
    for scope, account, bound in bounds:
        if bound is not None and account.in_flight >= bound:
            return Refusal(BlockReason.IN_FLIGHT, {"scope": scope, "in_flight": account.in_flight, "bound": bound})
    return None
