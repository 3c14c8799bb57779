"""The monthly cap: a reservation must fit under it, for the user and for the tenant as a whole."""

from __future__ import annotations

from services.policy.budget import fits, monthly_cap
from services.policy.rules import Book, Circumstances, Refusal, Request
from services.policy.state import NO_MONEY
from shared.events.decisions import BlockReason
from shared.quotas import window_end_ms


def check(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse a reservation that does not fit."""
    for scope, account, user_id in (("user", book.user, request.user_id), ("tenant", book.tenant, None)):
        bucket = account.months.get(request.month, NO_MONEY)
        cap = monthly_cap(now, request.tenant_id, user_id)
        if not fits(bucket, request.amount, cap):
            seen = {"scope": scope, "spent": bucket.spent, "reserved": bucket.reserved, "cap": cap}
            free = {"wanted": request.amount, "resets_at_ms": window_end_ms("month", request.month)}
            return Refusal(BlockReason.MONTHLY_CAP, {**seen, **free})
    return None
