"""An operator's hourly shutoff of one user: blocks with the operator's own reason until its end."""

from __future__ import annotations

from services.policy.rules import Book, Circumstances, Refusal, Request


def check(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse while a manual shutoff of this user holds."""
    shutoff = now.control.shutoff_for(request.tenant_id, request.user_id, now.now_ms)
    if shutoff is None:
        return None
    return Refusal(shutoff.reason, {"actor": shutoff.actor, "since_ms": shutoff.since_ms, "until_ms": shutoff.until_ms})
