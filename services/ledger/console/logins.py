"""Logins to the console: a cookie that names one, and the key behind it, which stays here.

In memory, by the hash of the cookie's secret: a login ends with this process, and no disk has a copy.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from dataclasses import dataclass, field

from shared.clock import Clock

IDLE_MS = 30 * 60_000
LONGEST_MS = 8 * 3_600_000
MAX_LOGINS = 1000


@dataclass(slots=True)
class Login:
    """One person's login. `secret` is their API key; every request is checked against the key's own state too."""

    secret: str = field(repr=False)
    since_ms: int
    used_ms: int
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def authorization(self) -> str:
        return f"Bearer {self.secret}"


class Logins:
    """Knows who is logged in."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._logins: OrderedDict[str, Login] = OrderedDict()

    def open(self, secret: str) -> tuple[str, Login]:
        """A new login; the cookie's value, and the login."""
        cookie, now_ms = secrets.token_urlsafe(32), self._clock.now_ms()
        login = Login(secret, now_ms, now_ms)
        self._logins[_digest(cookie)] = login
        if len(self._logins) > MAX_LOGINS:
            self._logins.popitem(last=False)
        return cookie, login

    def find(self, cookie: str | None) -> Login | None:
        """The login of a cookie, unless it was left alone for too long, or is too old. It is used by this."""
        if cookie is None:
            return None
        login, now_ms = self._logins.get(_digest(cookie)), self._clock.now_ms()
        if login is None:
            return None
        if now_ms - login.used_ms > IDLE_MS or now_ms - login.since_ms > LONGEST_MS:
            self.close(cookie)
            return None
        login.used_ms = now_ms
        return login

    def close(self, cookie: str | None) -> None:
        """End a login."""
        if cookie is not None:
            self._logins.pop(_digest(cookie), None)


def is_token(login: Login, token: str | None) -> bool:
    """Whether the page itself sends this request: another site can send the cookie's owner here, but not this."""
    return token is not None and hmac.compare_digest(login.csrf.encode(), token.encode())


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
