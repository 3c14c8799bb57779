"""What a failed call means: whose fault it was, whether money went, whether another try makes sense. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime

from services.executor.providers.protocol import ProviderFailure, Spend

# Answered by something between us and the provider, which may have done the work and charged for it.
_PERHAPS_SPENT = frozenset({408, 502, 504, 520, 522, 524})
_PROVIDERS_FAULT_BELOW_500 = frozenset({408})
# 529 is Anthropic's 503.
_TRIED_AGAIN = frozenset({429, 503, 529})
_SECRET = re.compile(r"\b(?:(?:sk|pk|gsk|key)[-_]|AIza|Bearer )[\w*.-]{6,}")
REDACTED = "[redacted]"


def of_status(kind: str, detail: str, status: int, headers: Mapping[str, str], now_s: float) -> ProviderFailure:
    """The provider, or something before it, answered with this status."""
    spend: Spend = "uncertain" if status in _PERHAPS_SPENT else "none"
    return ProviderFailure(
        kind,
        detail,
        spend=spend,
        counts_for_breaker=status >= 500 or status in _PROVIDERS_FAULT_BELOW_500,
        retry=status in _TRIED_AGAIN,
        retry_after_s=retry_after(headers, now_s),
        status=status,
    )


def redacted(text: str, secrets: Iterable[str]) -> str:
    """Without these secrets, and without what looks like one."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _SECRET.sub(REDACTED, text)


def retry_after(headers: Mapping[str, str], now_s: float) -> float | None:
    """Seconds that the provider asks us to wait: `Retry-After` as a number or a date, or `retry-after-ms`."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            wait_s = float(headers[name]) * unit_s
        except (KeyError, ValueError):
            continue
        return max(0.0, wait_s) if wait_s < float("inf") else None
    try:
        return max(0.0, parsedate_to_datetime(headers["retry-after"]).timestamp() - now_s)
    except (KeyError, ValueError):
        return None
