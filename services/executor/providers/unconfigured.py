"""Stands in for a provider whose key is not set."""

from __future__ import annotations

from services.executor.providers.protocol import Answer, Call, Hear, ProviderFailure


class Unconfigured:
    """Says which variable the executor misses. `variable` is its name."""

    def __init__(self, variable: str) -> None:
        self._variable = variable

    async def call(self, call: Call) -> Answer:
        problem = f"{self._variable} is not set for the executor"
        raise ProviderFailure("MissingCredentials", problem, counts_for_breaker=False, asked=False)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        return await self.call(call)

    async def embed(self, call: Call) -> Answer:
        return await self.call(call)

    async def close(self) -> None:
        """Nothing to let go."""
