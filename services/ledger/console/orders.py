"""Orders that an operator gives in the console: passed on to the gateway with the operator's own key.

The ledger's Redis user may not publish orders, and shall not: who takes this service over can read the books, but stop
or start nothing (docs/adr/0013-the-console-passes-orders-on.md).
"""

from __future__ import annotations

from typing import Any

import httpx
import orjson
import structlog

from services.ledger.keys import Refused

TIMEOUT_S = 5.0

log = structlog.get_logger(__name__)


class Orders:
    """Passes orders on."""

    def __init__(self, gateway_url: str | None) -> None:
        self._url = gateway_url
        self._http: httpx.AsyncClient | None = None

    @property
    def problem(self) -> str | None:
        """Why no order can be given here; None where one can."""
        return None if self._url else "set SKELDIR_GATEWAY_URL for the ledger service: orders go by way of the gateway"

    async def publish(self, authorization: str, order: dict[str, Any]) -> dict[str, Any]:
        """Have the gateway publish an order; its answer. Raises Refused with the gateway's own status and words."""
        if self.problem is not None:
            raise Refused(503, "no_gateway", self.problem)
        if self._http is None:
            self._http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        try:
            reply = await self._http.post(
                f"{self._url}/v1/control",
                content=orjson.dumps(order),
                headers={"Authorization": authorization, "Content-Type": "application/json"},
            )
            said: dict[str, Any] = orjson.loads(reply.content)
        except (httpx.HTTPError, ValueError) as error:
            log.warning("an order was not passed on", problem=type(error).__name__)
            # It may be in the log all the same: whoever gave it must look.
            problem = "the gateway did not answer: look whether the order is in force, and give it again if not"
            raise Refused(503, "gateway_unreachable", problem) from error
        if reply.status_code != 202:
            code, detail = said.get("code", "refused"), said.get("detail", "the gateway refused the order")
            raise Refused(reply.status_code, str(code), str(detail))
        return said

    async def close(self) -> None:
        """Let go of connections."""
        if self._http is not None:
            await self._http.aclose()
