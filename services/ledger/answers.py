"""How the read API answers: JSON or CSV as the caller prefers, and what goes wrong as a problem."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

import asyncpg
import orjson
import structlog
from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from redis.exceptions import RedisError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.ledger.dashboards import cell
from services.ledger.keys import Refused
from services.ledger.looking import STATEMENT_TIMEOUT_MS, as_json
from shared.problems import MEDIA_TYPE, code_without_route, document

CSV = "text/csv"
HTML = "text/html; charset=utf-8"
# One caller's view is not to be shown to another, and nothing in it to be run.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
UNREACHABLE = (TimeoutError, OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, RedisError)
_NOWHERE = "there is nothing at this path: the console is at /console, and /openapi.json describes the others"

log = structlog.get_logger(__name__)


def asked_format(request: Request, *others: str) -> str:
    """`json` or one of the others: by `?format=`, else by the Accept header. Raises Refused."""
    asked = request.query_params.get("format")
    if asked in ("json", *others):
        return str(asked)
    if asked is not None:
        raise Refused(422, "invalid_parameter", f"format is {', '.join(('json', *others))}, not {asked[:100]!r}")
    accepted = request.headers.get("accept", "")
    return next((one for one in others if f"text/{one}" in accepted), "json")


def plain(value: Any, status: int = 200) -> Response:
    """A JSON answer."""
    body = orjson.dumps(value, default=as_json)
    return Response(body, status_code=status, media_type="application/json", headers=PRIVATE)


def rows(
    request: Request,
    name: str,
    found: Sequence[dict[str, Any]],
    following: str | None = None,
    *,
    key: str | None = None,
    more: Mapping[str, Any] | None = None,
) -> Response:
    """Rows under `name`, with the cursor of the next page (in the header `Link` too, where a CSV's reader finds it).

    With `key` they are under that, and the name is said beside them. `more`, too, but for a CSV.
    """
    headers = dict(PRIVATE)
    if following is not None:
        query = dict(request.query_params) | {"before": following}
        headers["Link"] = f'<{request.url.path}?{urlencode(query)}>; rel="next"'
    if asked_format(request, "csv") == "csv":
        headers["Content-Disposition"] = f'attachment; filename="{name}.csv"'
        return Response(_csv(found), media_type=CSV, headers=headers)
    body: dict[str, Any] = (
        {name: found, "next": following} if key is None else {"name": name, key: found, "next": following}
    )
    body.update(more or {})
    return Response(orjson.dumps(body, default=as_json), media_type="application/json", headers=headers)


def _csv(found: Sequence[dict[str, Any]]) -> str:
    file = io.StringIO(newline="")
    if found:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(found[0])
        for row in found:
            nested = (isinstance(value, dict | list) for value in row.values())
            writer.writerow(
                orjson.dumps(value, default=as_json).decode() if deep else cell(value)
                for value, deep in zip(row.values(), nested, strict=True)
            )
    return file.getvalue()


def problem(request: Request, status: int, code: str, detail: str) -> Response:
    """An error."""
    body = document(status, code, detail, request.url.path)
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 503 else {}
    return Response(orjson.dumps(body), status_code=status, media_type=MEDIA_TYPE, headers=headers)


def handle_problems(app: FastAPI) -> None:
    """Whatever goes wrong in a route is answered as a problem that says what to do."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return problem(request, error.status, error.code, str(error))

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(request, 422, "invalid_parameter", f"{first['loc'][-1]}: {first['msg']}")

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        status = error.status_code
        response = problem(
            request, status, code_without_route(status), _NOWHERE if status == 404 else str(error.detail)
        )
        response.headers.update(error.headers or {})
        return response

    async def unreachable(request: Request, error: Exception) -> Response:
        log.warning("a read failed", error=type(error).__name__)
        return problem(request, 503, "database_unreachable", "the ledger's database cannot be reached")

    async def too_long(request: Request, _: Exception) -> Response:
        seconds = STATEMENT_TIMEOUT_MS / 1000
        what_to_do = "narrow it by tenant, user, or time"
        return problem(request, 503, "took_too_long", f"this took longer than {seconds:g} s: {what_to_do}")

    async def bad_value(request: Request, _: Exception) -> Response:
        return problem(request, 422, "invalid_parameter", "a parameter has a value that no row can have")

    async def bug(request: Request, error: Exception) -> Response:
        log.error("a read failed", path=request.url.path, error=type(error).__name__)
        return problem(request, 500, "internal_error", "this is our mistake; it was logged")

    for kinds, handler in (
        ((Refused,), refused),
        ((RequestValidationError,), invalid),
        ((HTTPException,), http_error),
        (UNREACHABLE, unreachable),
        ((asyncpg.QueryCanceledError,), too_long),
        ((asyncpg.DataError,), bad_value),
        ((Exception,), bug),
    ):
        for kind in kinds:
            app.add_exception_handler(kind, handler)
