"""Partitions whose events belong together. Since the log grew a tenant's are in its old partition, and then in its new
one, which has a higher number: the same, counted by the fewest that there ever were."""

from __future__ import annotations

from collections.abc import Iterable

from shared.events.control import ControlEvent
from shared.events.partitions import PartitionsSet

Family = tuple[int, ...]
"""Partitions in the order in which a tenant can have been in them."""


def families(partitions: Iterable[int], orders: Iterable[ControlEvent]) -> list[Family]:
    """All of these partitions; each is by itself where the log never grew."""
    fewest = min((order.previous for order in orders if isinstance(order, PartitionsSet)), default=None)
    found: dict[int, list[int]] = {}
    for number in sorted(partitions):
        found.setdefault(number if fewest is None else number % fewest, []).append(number)
    return [tuple(family) for family in found.values()]
