"""What the breakers' writer has in memory, and one turn over it: outcomes in, changes of breakers out. No I/O.

How the breakers stand comes from the control stream; the windows are kept beside it, with the places up to which
outcomes are counted in them. Both are committed in one step with the changes that follow from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import orjson

from services.policy.provider_breakers.config import BreakerConfig
from services.policy.provider_breakers.decide import decide_call, decide_time, due_ms
from services.policy.provider_breakers.window import Call, Slot, Window, is_quiet
from shared.events.control import ProviderBreakerChanged
from shared.events.decisions import BreakerState
from shared.provider_breakers import Model, ProviderBreaker

# Names of models come from callers. Beyond so many at once, the one that was called longest ago is forgotten.
MAX_MODELS = 1000


@dataclass(slots=True)
class Watched:
    """A model's window, and the version of the breaker that it belongs to."""

    version: int
    window: Window = field(default_factory=Window)


@dataclass(slots=True)
class Desk:
    """All windows; `touched` are those that differ from what is stored."""

    config: BreakerConfig
    windows: dict[Model, Watched] = field(default_factory=dict)
    touched: set[Model] = field(default_factory=set)

    def take(
        self, calls: Iterable[Call], breakers: Mapping[Model, ProviderBreaker], now_ms: int
    ) -> list[ProviderBreakerChanged]:
        """One turn. Each breaker changes at most once in it: what ended before that is known counts no more."""
        changes: dict[Model, ProviderBreakerChanged] = {}
        for model, breaker in breakers.items():
            if self.config.watches(model[0]) and (change := decide_time(breaker, model, self.config, now_ms)):
                changes[model] = change
        for call in calls:
            if call.model in changes:
                continue
            breaker = breakers.get(call.model) or ProviderBreaker()
            watched = self._watched(call.model, breaker.version)
            watched.window, change = decide_call(breaker, watched.window, call, self.config, now_ms)
            self.touched.add(call.model)
            if change is not None:
                changes[call.model] = change
        return list(changes.values())

    def forget_quiet(self, breakers: Mapping[Model, ProviderBreaker], now_ms: int) -> list[Model]:
        """Let go of windows that can open nothing any more; which."""
        quiet = [
            model
            for model, one in self.windows.items()
            if (breakers.get(model) or ProviderBreaker()).state is BreakerState.CLOSED
            and is_quiet(one.window, now_ms, self.config)
        ]
        for model in quiet:
            del self.windows[model]
        self.touched.difference_update(quiet)
        return quiet

    def _watched(self, model: Model, version: int) -> Watched:
        found = self.windows.pop(model, None)
        if found is None or found.version != version:
            found = Watched(version)
        self.windows[model] = found  # at the end: who was called longest ago stands first
        if len(self.windows) > MAX_MODELS:
            first = next(iter(self.windows))
            del self.windows[first]
            self.touched.add(first)
        return found


def next_due_ms(breakers: Mapping[Model, ProviderBreaker], config: BreakerConfig) -> int | None:
    """When the next open breaker is to be half-open."""
    waiting = [
        due_ms(one) for model, one in breakers.items() if one.state is BreakerState.OPEN and config.watches(model[0])
    ]
    return min(waiting, default=None)


def encode(watched: Watched) -> bytes:
    """The stored form of a window."""
    return orjson.dumps(watched)


def decode(stored: bytes) -> Watched:
    """The window."""
    raw = orjson.loads(stored)
    window = raw["window"]
    slots = tuple(Slot(**{**slot, "users": tuple(map(tuple, slot["users"]))}) for slot in window["slots"])
    window = Window(**{**window, "slots": slots, "row_users": tuple(window["row_users"])})
    return Watched(raw["version"], window)
