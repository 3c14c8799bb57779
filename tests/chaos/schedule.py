"""Which faults come when. Pure: a seed and a length give the same schedule on every machine."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

SERVICES = ("gateway", "policy", "executor", "ledger")
PROXIED = ("policy", "executor")
"""Of these a second process runs behind a link of its own, with a clock that is wrong."""

DECK = (
    *(("kill", name) for name in (*SERVICES, "valkey", "postgres", "provider", "second executor", "second policy")),
    *(("pause", name) for name in (*SERVICES, "valkey", "second executor", "second policy")),
    *(("link", state) for state in ("cut", "slow", "silent")),
    *(("mood", mood) for mood in ("failing", "hanging", "cutting")),
    *(("switch", scope) for scope in ("everything", "tenant")),
    *(("grow", fate) for fate in ("to its end", "killed")),
)
LASTS_S = {"pause": (2.6, 4.5), "link": (1.0, 4.0), "mood": (1.0, 3.0), "switch": (1.0, 2.5)}
"""A pause is longer than a lease."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something breaks `at_s` seconds after the start, for `lasts_s` (0: until it comes back by itself)."""

    at_s: float
    kind: str
    target: str
    lasts_s: float
    chance: float
    """What is left to choose of it, as a number from 0 to 1."""


def schedule(seed: int, seconds: float, every_s: float) -> list[Fault]:
    """Faults over `seconds`, one about every `every_s`: the whole deck shuffled, then again."""
    return list(_faults(random.Random(f"nemesis {seed}"), seconds, every_s))


def _faults(chance: random.Random, seconds: float, every_s: float) -> Iterator[Fault]:
    at_s = 0.0
    while True:
        for kind, target in chance.sample(DECK, len(DECK)):
            at_s += chance.uniform(0.5, 1.5) * every_s
            if at_s >= seconds:
                return
            lasts_s = chance.uniform(*LASTS_S[kind]) if kind in LASTS_S else 0.0
            yield Fault(round(at_s, 3), kind, target, round(min(lasts_s, seconds - at_s), 3), chance.random())
