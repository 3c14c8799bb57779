"""An operator's kill switch in whose scope the task lies, or the task's own flag."""

from __future__ import annotations

from services.policy.rules import Book, Circumstances, Refusal, Request
from shared.events.decisions import BlockReason


def check(book: Book, request: Request, now: Circumstances) -> Refusal | None:
    """Refuse while a switch holds. It stands first: a stop must not depend on anything else."""
    if request.task.kill_switch:
        return Refusal(BlockReason.KILL_SWITCH, {"asked_by": "the task's own prompt"})
    switch = now.control.switch_for(request.tenant_id, request.user_id, request.task, now.now_ms)
    if switch is None:
        return None
    scope = switch.scope.model_dump(mode="json", exclude_none=True)
    seen = {"scope": scope, "reason": switch.reason, "actor": switch.actor, "since_ms": switch.since_ms}
    return Refusal(BlockReason.KILL_SWITCH, seen)
