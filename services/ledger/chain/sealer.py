"""When the end of a chain is sealed: after so many events, or so long after the first that is not sealed yet."""

from __future__ import annotations

import time

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from services.ledger.chain import heads
from services.ledger.sessions import Pool

log = structlog.get_logger(__name__)


class Sealer:
    """Seals one chain, for its writer. Without a key it seals nothing."""

    def __init__(self, key: Ed25519PrivateKey | None, chain: int | None, events: int, seconds: float) -> None:
        self._key = key
        self._chain = chain
        self._events = events
        self._seconds = seconds
        # What a writer before this one has left unsealed is not known.
        self._unsealed = 1
        self._since = time.monotonic()

    def appended(self, events: int) -> None:
        """So many events are new in the chain."""
        if events and not self._unsealed:
            self._since = time.monotonic()
        self._unsealed += events

    async def seal_if_due(self, pool: Pool) -> None:
        """Seal the chain's end, if it is time. Raises the driver's errors."""
        if self._key is None or self._chain is None or not self._unsealed:
            return
        if self._unsealed < self._events and time.monotonic() - self._since < self._seconds:
            return
        async with pool.acquire() as connection:
            made = await heads.seal(connection, self._chain, self._key)
        self._unsealed = 0
        if made is not None:  # in the log, too: there it is out of the database's reach
            log.info("sealed", chain=made.chain, length=made.length, head=made.head.hex())
