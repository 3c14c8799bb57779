"""One file for each rule that can refuse a task. `judge.py` asks them in order; the first refusal counts."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from msgspec import Struct

from services.policy.meters import Wanted
from services.policy.state import Book, Circumstances
from shared.bounds import NO_BOUNDS, Bounds
from shared.events.tasks import Task


class Request(Struct, frozen=True):
    """The task that is being decided, and whose it is."""

    task: Task
    tenant_id: UUID
    user_id: UUID
    hour: str
    month: str
    amount: int = 0
    """Worst-case cost in nanocents, once it is known."""
    bounds: Bounds = NO_BOUNDS
    """What a single task of its type may take."""
    wanted: tuple[Wanted, ...] = ()
    """What it would take of each quota, once its worst case is known."""


class Refusal(Struct, frozen=True):
    """Why not. `explanation` is what the rule saw, for the person who asks."""

    reason: str
    explanation: dict[str, Any] = {}


__all__ = ["Book", "Circumstances", "Refusal", "Request"]
