"""Orders that policy carries out once, each at its place in the control stream (a switch, in contrast, is a state)."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Reconciliation:
    """What an operator found out about an uncertain attempt. `cost` in nanocents."""

    position: str
    tenant_id: UUID
    decision_id: UUID
    cost: int
    actor: str


@dataclass(frozen=True, slots=True)
class LetterReturned:
    """An entry that was set aside is to be taken in again, or given up (`discard`), and those behind it with it."""

    position: str
    origin: str
    entry_id: str
    discard: bool


Act = Reconciliation | LetterReturned
