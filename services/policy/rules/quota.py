"""Quotas: calls, tokens and money in a window, and tasks in flight, on any scope within a tenant."""

from __future__ import annotations

from services.policy.rules import Book, Circumstances, Refusal, Request
from shared.events.decisions import BlockReason


def check(_: Book, request: Request, __: Circumstances) -> Refusal | None:
    """Refuse what does not fit into each quota that is enforced. One in shadow mode refuses nothing."""
    for one in request.wanted:
        if not one.quota.shadow and not one.fits:
            return Refusal(BlockReason.QUOTA, one.explanation())
    return None
