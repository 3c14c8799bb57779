"""What becomes of a message after a try. Pure: chance and time come in."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

MOST_PAUSE_S = 3600.0
GONE = 410
# The server asks for a pause in these answers (RFC 9110, 10.2.3; RFC 6585, 4).
_ASKS = (429, 503)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a try: a status, or the problem that kept it from one."""

    status: int | None = None
    problem: str = ""
    retry_after: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """`delivered`; `again` after `pause_s`; `given_up`; `ended`: the receiver is no more, for this and all others."""

    what: Literal["delivered", "again", "given_up", "ended"]
    problem: str = ""
    pause_s: float = 0.0


def next_step(
    answer: Answer, *, attempts: int, age_s: float, give_up_s: float, first_pause_s: float, chance: float, now: datetime
) -> Step:
    """After the `attempts`-th try of a message that is `age_s` old; `chance` is between 0 and 1."""
    if answer.status is not None and 200 <= answer.status < 300:
        return Step("delivered")
    problem = answer.problem or f"answered {answer.status}"
    if answer.status == GONE:
        return Step("ended", "answered 410: it is no more")
    # Full doubling with a jitter of a half: many that failed together do not come back together.
    pause_s = min(MOST_PAUSE_S, first_pause_s * 2.0 ** min(attempts - 1, 30)) * (0.5 + chance / 2)
    if answer.status in _ASKS:
        pause_s = max(pause_s, _asked_s(answer.retry_after, now))
    if age_s + pause_s > give_up_s:
        return Step("given_up", f"{problem}; given up after {attempts} tries")
    return Step("again", problem, pause_s)


def _asked_s(retry_after: str, now: datetime) -> float:
    """Seconds that a `Retry-After` asks for: a number, or a date; 0 for what is neither."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        moment = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() - now.timestamp())
