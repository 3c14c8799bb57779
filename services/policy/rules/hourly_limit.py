"""The hourly limit: once it is spent nothing goes out until the hour ends; before, reservations must fit under it."""

from __future__ import annotations

from services.policy.budget import end_of_hour_ms, fits, hourly_cap
from services.policy.rules import Book, Circumstances, Refusal, Request
from services.policy.state import NO_MONEY
from shared.events.decisions import BlockReason


def check_shutoff(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse everything, cached answers too, once the user's threshold is spent."""
    cap = hourly_cap(now, request.tenant_id, request.user_id)
    spent = book.user.hours.get(request.hour, NO_MONEY).spent
    # A threshold of 0 allows what costs nothing; the reservation below refuses the rest.
    if cap is None or cap == 0 or spent < cap:
        return None
    return Refusal(
        BlockReason.HOURLY_THRESHOLD, {"spent": spent, "threshold": cap, "resets_at_ms": end_of_hour_ms(request.hour)}
    )


def check(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse a reservation that does not fit, for the user or for the tenant as a whole."""
    for scope, account, user_id in (("user", book.user, request.user_id), ("tenant", book.tenant, None)):
        bucket = account.hours.get(request.hour, NO_MONEY)
        cap = hourly_cap(now, request.tenant_id, user_id)
        if not fits(bucket, request.amount, cap):
            seen = {"scope": scope, "spent": bucket.spent, "reserved": bucket.reserved, "threshold": cap}
            free = {"wanted": request.amount, "resets_at_ms": end_of_hour_ms(request.hour)}
            return Refusal(BlockReason.HOURLY_THRESHOLD, {**seen, **free})
    return None
