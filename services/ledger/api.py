"""The read API: calls, timelines and dashboards, under the row-level security of the caller's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from services.ledger import queries
from services.ledger.keys import Doorkeeper, Refused, View, parse_id
from services.ledger.sessions import Pool

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
STATUSES = ("pending", "success", "blocked", "failed")
TITLES = {401: "Unauthorized", 403: "Forbidden", 404: "Not found", 422: "Invalid request", 503: "Not available"}

Answer = Callable[[Request, View], Awaitable[Any]]


def build(pool: Pool, door: Doorkeeper, routes: Sequence[BaseRoute]) -> Starlette:
    """The ledger's HTTP application, with `routes` beside the read API."""

    def route(path: str, answer: Answer) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                view = door.admit(
                    request.headers.get("authorization"),
                    request.query_params.get("tenant_id"),
                    request.query_params.get("user_id"),
                )
                return _json(await answer(request, view))
            except Refused as refused:
                return problem(refused.status, str(refused))
            except (TimeoutError, OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError):
                return problem(503, "the ledger's database cannot be reached")

        return Route(path, endpoint)

    async def calls(request: Request, view: View) -> dict[str, Any]:
        limit = _limit(request.query_params.get("limit"))
        rows = await queries.calls(
            pool,
            view,
            limit=limit,
            before=_cursor(request.query_params.get("before")),
            status=_status(request.query_params.get("status")),
        )
        last = rows[-1] if len(rows) == limit else None
        return {"calls": rows, "next": None if last is None else f"{last['created_at'].isoformat()},{last['id']}"}

    async def call(request: Request, view: View) -> dict[str, Any]:
        found = await queries.call(pool, view, _id("id", request.path_params["id"]))
        if found is None:
            raise Refused(404, "no such call in view of this key")
        return found

    async def events(request: Request, view: View) -> dict[str, Any]:
        return {"events": await queries.timeline(pool, view, _id("task_id", request.query_params.get("task_id")))}

    async def dashboard(request: Request, view: View) -> dict[str, Any]:
        name = request.path_params["name"]
        return {"name": name, "rows": await queries.dashboard(pool, view, name)}

    return Starlette(
        routes=[
            *routes,
            route("/v1/calls", calls),
            route("/v1/calls/{id}", call),
            route("/v1/events", events),
            route("/v1/dashboards/{name}", dashboard),
        ]
    )


def problem(status: int, detail: str) -> Response:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": TITLES.get(status, "Error"), "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 503 else {}
    return Response(orjson.dumps(body), status_code=status, media_type="application/problem+json", headers=headers)


def _json(value: Any) -> Response:
    return Response(orjson.dumps(value, default=str), media_type="application/json")


def _id(name: str, value: str | None) -> UUID:
    found = parse_id(name, value)
    if found is None:
        raise Refused(422, f"{name} is missing")
    return found


def _limit(value: str | None) -> int:
    if value is None:
        return DEFAULT_LIMIT
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= MAX_LIMIT:
        raise Refused(422, f"limit is a number from 1 to {MAX_LIMIT}, not {value[:100]!r}")
    return int(value)


def _status(value: str | None) -> str | None:
    if value is not None and value not in STATUSES:
        raise Refused(422, f"status is one of {', '.join(STATUSES)}, not {value[:100]!r}")
    return value


def _cursor(value: str | None) -> tuple[datetime, UUID] | None:
    if value is None:
        return None
    moment, _, call_id = value.replace(" ", "+").partition(",")
    try:
        found = datetime.fromisoformat(moment)
    except ValueError as error:
        raise Refused(422, "before is the `next` of an earlier answer") from error
    if found.tzinfo is None:
        raise Refused(422, "before is the `next` of an earlier answer")
    return found, _id("before", call_id)
