"""From what a turn changed to the commands of its one atomic commit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

from services.policy.desk import Changes
from services.policy.store import PROBES, encode_account, encode_hold, encode_probes
from shared.partitions import Partition
from shared.streams.lease import Command

T = TypeVar("T")

MAX_AT_ONCE = 1000


def commands(
    partition: Partition, changes: Changes, positions: Mapping[str, str], result_ttl_ms: int
) -> tuple[list[Command], list[str]]:
    """The commands, and the keys that they touch beside the lease."""
    found: list[Command] = []
    keys = [partition.decisions, partition.policy, partition.reservations, partition.parked, partition.aside]
    decisions = partition.decisions
    for event in changes.events:
        found.append(("XADD", decisions, "*", "type", event.type, "data", event.to_json()))
    for (tenant_id, user_id), account in changes.accounts.items():
        key = partition.account(tenant_id, user_id)
        keys.append(key)
        found.append(("SET", key, encode_account(account)))
    made = [(str(one), encode_hold(hold)) for one, hold in changes.holds.items() if hold is not None]
    for some in _pages(made):
        found.append(("HSET", partition.reservations, *(word for pair in some for word in pair)))
    for gone in _pages([str(one) for one, hold in changes.holds.items() if hold is None]):
        found.append(("HDEL", partition.reservations, *gone))
    for task_id, (task, decision_id) in changes.allowed.items():
        key = partition.task(task_id)
        keys.append(key)
        state = ("state", "allowed", "decision", str(decision_id), "fingerprint", task.fingerprint)
        found.append(("HSET", key, *state))
    for task_id, (fingerprint, result) in changes.ended.items():
        key = partition.task(task_id)
        keys.append(key)
        found.append(("HSET", key, "state", "ended", "result", result, "fingerprint", fingerprint))
        found.append(("PEXPIRE", key, result_ttl_ms))
    for parking_key, (task, stored) in changes.parked.items():
        found.append(("HSET", partition.parked, parking_key, stored))
        key = partition.task(task.task_id)
        keys.append(key)
        # So that a second delivery of a task that waits is seen to be one.
        found.append(("HSET", key, "state", "parked", "fingerprint", task.fingerprint))
    for parking_key in changes.unparked:
        found.append(("HDEL", partition.parked, parking_key))
    for key in changes.returned:
        found.append(("HDEL", partition.aside, key))
    for key, data in changes.aside.items():
        found.append(("HSET", partition.aside, key, data))
    if changes.probes is not None:
        found.append(("HSET", partition.policy, PROBES, encode_probes(changes.probes)))
    if positions:
        moved = [word for stream, entry_id in positions.items() for word in (stream, entry_id)]
        found.append(("HSET", partition.policy, *moved))
    return found, keys


def _pages(all_of_them: Sequence[T]) -> Iterator[Sequence[T]]:
    """So many as a script may hand on at once."""
    for start in range(0, len(all_of_them), MAX_AT_ONCE):
        yield all_of_them[start : start + MAX_AT_ONCE]
