"""`/v1/control`: operators' orders over HTTP."""

from __future__ import annotations

import orjson
from fastapi import APIRouter
from redis.asyncio import Redis
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from services.gateway.documented import PUBLISHED, body
from services.gateway.door import Door, too_large
from services.gateway.problems import Problem
from services.gateway.submission import Invalid, parse_json
from shared.control_state import Key, stops_nothing
from shared.events.control import (
    CONTROL_EVENTS,
    ControlEvent,
    InvalidControl,
    ProviderBreakerChanged,
    Scope,
    parse_control,
)
from shared.events.partitions import PartitionsSet
from shared.events.webhooks import WebhookSet
from shared.settings import Settings
from shared.streams.orders import publish_order
from shared.webhook_signing import secret_of, shown

_BODY = body(CONTROL_EVENTS.json_schema())


def router(door: Door, redis: Redis) -> APIRouter:
    """The route, bound to its door and the log."""
    routes = APIRouter(prefix="/v1/control", tags=["control"])

    @routes.post("", openapi_extra=_BODY, responses=PUBLISHED, status_code=202, summary="Publish a control event")
    async def publish(request: Request) -> Response:
        """202 once the order is in the control stream; every service has it within milliseconds."""
        key = door.keeper.admit(request, "operator")
        try:
            raw = parse_json(await door.body(request), door.settings.max_body_bytes, door.settings.max_body_depth)
            # Who gave the order is not for the order to say.
            raw["actor"] = f"{raw['actor']} (key {key.key_id})" if raw.get("actor") else f"key {key.key_id}"
            event = parse_control(orjson.dumps(raw))
            if isinstance(event, ProviderBreakerChanged):
                raise Problem(422, "invalid_control", "policy says how a breaker stands; reset it, or engage a switch")
            if isinstance(event, PartitionsSet):
                raise Problem(422, "invalid_control", "the log grows by the command `skeldir partitions grow`")
            _within(key, event)
            if stops_nothing(event, door.clock.now_ms()):
                raise Problem(422, "invalid_control", "its end has passed already, so it would stop nothing")
            if isinstance(event, WebhookSet) and door.settings.webhook_secret_key is None:
                raise Problem(503, "no_webhook_key", "set SKELDIR_WEBHOOK_SECRET_KEY for the gateway and the ledger")
        except Invalid as error:
            raise (too_large(str(error)) if error.too_large else Problem(422, "invalid_control", str(error))) from error
        except InvalidControl as error:
            raise Problem(422, "invalid_control", str(error)) from error
        try:
            entry_id = await publish_order(redis, orjson.dumps(raw))
        except (RedisError, OSError) as error:
            raise Problem(503, "log_unreachable", "the log cannot be reached; try again", retry_after_s=1) from error
        said = {"status": "published", "entry_id": entry_id, "type": event.type}
        return JSONResponse({**said, **_secret(event, door.settings)}, 202, headers={"Cache-Control": "no-store"})

    return routes


def _secret(event: ControlEvent, settings: Settings) -> dict[str, str]:
    """What signs a webhook's messages: said here, and stored nowhere."""
    if not isinstance(event, WebhookSet) or settings.webhook_secret_key is None:
        return {}
    return {"secret": shown(secret_of(settings.webhook_secret_key.get_secret_value(), event.webhook_id))}


def _within(key: Key, event: ControlEvent) -> None:
    """An operator's key that names a user gives orders about that user only. Raises Problem 403."""
    scope = getattr(event, "scope", Scope())
    if key.user_id is not None and (scope.tenant_id, scope.user_id) != (key.tenant_id, key.user_id):
        raise Problem(403, "wrong_scope", "this key gives orders about its own tenant and user only")
