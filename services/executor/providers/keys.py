"""The keys of one provider, taken in turn. One that was refused or slowed down rests while another is awake."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from services.executor.providers.failures import redacted
from services.executor.providers.protocol import ProviderFailure

REFUSED, LIMITED = (401, 403), 429
REFUSED_REST_S = 60.0
LIMITED_REST_S = 1.0
LONGEST_REST_S = 3600.0


def keys_in(variable: str | None) -> list[str]:
    """The keys in an environment variable: one, or several with commas between them."""
    return [key for part in (variable or "").split(",") if (key := part.strip())]


class Keys:
    """Told apart by their number: who only counts calls needs no secret. `now_s` reads a monotonic clock."""

    def __init__(self, secrets: Sequence[str], now_s: Callable[[], float] = time.monotonic) -> None:
        assert secrets, "a provider without a key is not configured"
        self._secrets = tuple(secrets)
        self._now_s = now_s
        self._awake_at = [0.0] * len(secrets)
        self._next = 0

    def take(self) -> int:
        """The next one that is awake; where all rest, the one that wakes first: nothing is refused for a rest."""
        turn = [(self._next + step) % len(self._secrets) for step in range(len(self._secrets))]
        now_s = self._now_s()
        number = min(turn, key=lambda one: max(self._awake_at[one], now_s))
        self._next = number + 1
        return number

    def learn(self, number: int, failure: ProviderFailure) -> ProviderFailure:
        """The same failure, after this key's part in it: it may rest, and another may be tried at once."""
        if failure.status not in (*REFUSED, LIMITED):
            return failure
        rest_s = REFUSED_REST_S if failure.status in REFUSED else failure.retry_after_s or LIMITED_REST_S
        self._awake_at[number] = self._now_s() + min(rest_s, LONGEST_REST_S)
        if min(self._awake_at) <= self._now_s():
            failure.retry, failure.retry_after_s = True, 0.0
        return failure

    def redacted(self, text: str) -> str:
        """Without any of these keys."""
        return redacted(text, self._secrets)
