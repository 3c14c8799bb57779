"""When a model's breaker opens, for how long, and what closes it."""

from __future__ import annotations

from dataclasses import dataclass

from shared.models import STUB
from shared.settings import Settings

LONGEST = 10


@dataclass(frozen=True, slots=True)
class BreakerConfig:
    """As the settings say (`docs/configuration.md`)."""

    enabled: bool = True
    window_ms: int = 30_000
    failure_percent: int = 50
    min_calls: int = 20
    in_a_row: int = 10
    slow_ms: int = 0
    open_ms: int = 30_000
    probes: int = 3
    stub_too: bool = False

    @classmethod
    def from_settings(cls, settings: Settings) -> BreakerConfig:
        return cls(
            enabled=settings.provider_breaker_enabled,
            window_ms=int(settings.provider_breaker_window_seconds * 1000),
            failure_percent=settings.provider_breaker_failure_percent,
            min_calls=settings.provider_breaker_min_calls,
            in_a_row=settings.provider_breaker_consecutive_failures,
            slow_ms=settings.provider_breaker_slow_ms,
            open_ms=int(settings.provider_breaker_open_seconds * 1000),
            probes=settings.provider_breaker_probes,
            stub_too=settings.provider_breaker_stub,
        )

    def watches(self, provider: str) -> bool:
        """Whether the models of this provider have breakers."""
        return self.enabled and (provider != STUB or self.stub_too)

    def open_time_ms(self, openings: int) -> int:
        """How long it stays open when it has opened so many times in a row: doubled each time, up to ten times."""
        return self.open_ms * min(LONGEST, 1 << min(openings - 1, LONGEST))
