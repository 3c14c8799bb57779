"""Which keys are whose, and where they go when the log has more partitions. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from shared.partitions import Partition

MOST = 256

Kind = Literal["account", "task", "cached", "other"]

_KEY = re.compile(rb"\{skeldir:([0-9]{1,4})\}:([a-z-]+)(?::(.*))?", re.DOTALL)
_TENANT = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a partition. `tenant_id`: whose it is, where its name says that."""

    name: bytes
    partition: Partition
    kind: Kind
    tenant_id: UUID | None = None

    def in_partition(self, other: Partition) -> bytes:
        """What the same key is called there."""
        return other.tag.encode() + self.name.removeprefix(self.partition.tag.encode())


def read_key(name: bytes) -> Key | None:
    """What a name says; None for one of no partition."""
    found = _KEY.fullmatch(name)
    if found is None:
        return None
    partition, kind = Partition(int(found[1])), found[2].decode()
    first = (found[3] or b"").decode(errors="replace").partition(":")[0]
    tenant_id = UUID(first) if _TENANT.fullmatch(first) else None
    if kind == "task" and tenant_id is not None:
        return Key(name, partition, "task")  # named by the task's id
    if kind == "account" and tenant_id is not None:
        return Key(name, partition, "account", tenant_id)
    if kind == "cached" and tenant_id is not None:
        return Key(name, partition, "cached", tenant_id)
    return Key(name, partition, "other")


def problem_of(number: int, present: int) -> str | None:
    """Why the log cannot grow from `present` partitions to `number`; None: it can."""
    if number < present:
        return f"the log has {present} partitions, and their number does not shrink"
    if number % present:
        return f"{number} is no multiple of {present}, the number that the log has: try {_next(number, present)}"
    if number > MOST:
        return f"{number} partitions are more than {MOST}"
    return None


def _next(number: int, present: int) -> int:
    return min(-(-number // present) * present, MOST // present * present)
