"""What may not stand in a prompt: a detector's finding blocks the task, where the tenant has asked for that."""

from __future__ import annotations

from services.policy.rules import Book, Circumstances, Refusal, Request
from shared.detectors import found_in


def check(_: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse a prompt in which one of the tenant's detectors finds something. What it found is said nowhere.

    Costs nothing for a tenant without detectors, else time in proportion to the prompt.
    """
    privacy = now.control.privacy.get(request.tenant_id)
    if privacy is None or not privacy.block:
        return None
    found = found_in(request.task.prompt, privacy.block)
    if not found:
        return None
    first = min(found)
    return Refusal(f"guard_{first}", {"detectors": dict(sorted(found.items()))})
