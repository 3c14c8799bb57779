"""How the read API answers: JSON or CSV as the caller prefers, and problems as RFC 9457 has them."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from http import HTTPStatus
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

CSV = "text/csv"
HTML = "text/html; charset=utf-8"
PROBLEM = "application/problem+json"
# One caller's view is not to be shown to another, and nothing in it to be run.
PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
UNREACHABLE = (TimeoutError, OSError, asyncpg.PostgresConnectionError, asyncpg.InterfaceError, RedisError)

log = structlog.get_logger(__name__)


def asked_format(request: Request, *others: str) -> str:
    """`json` or one of the others: by `?format=`, else by the Accept header. Raises Refused."""
    asked = request.query_params.get("format")
    if asked in ("json", *others):
        return str(asked)
    if asked is not None:
        raise Refused(422, f"format is {', '.join(('json', *others))}, not {asked[:100]!r}")
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


def problem(status: int, detail: str) -> Response:
    """An error as RFC 9457 has it."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {"Retry-After": "1"} if status == 503 else {}
    return Response(orjson.dumps(body), status_code=status, media_type=PROBLEM, headers=headers)


def handle_problems(app: FastAPI) -> None:
    """Whatever goes wrong in a route is answered as a problem that says what to do."""

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return problem(error.status, str(error))

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return problem(422, f"{first['loc'][-1]}: {first['msg']}")

    async def http_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail))

    async def unreachable(_: Request, error: Exception) -> Response:
        log.warning("a read failed", error=type(error).__name__)
        return problem(503, "the ledger's database cannot be reached")

    async def too_long(_: Request, __: Exception) -> Response:
        seconds = STATEMENT_TIMEOUT_MS / 1000
        return problem(503, f"this took longer than {seconds:g} s: narrow it by tenant, user, or time")

    async def bad_value(_: Request, __: Exception) -> Response:
        return problem(422, "a parameter has a value that no row can have")

    for kinds, handler in (
        ((Refused,), refused),
        ((RequestValidationError,), invalid),
        ((HTTPException,), http_error),
        (UNREACHABLE, unreachable),
        ((asyncpg.QueryCanceledError,), too_long),
        ((asyncpg.DataError,), bad_value),
    ):
        for kind in kinds:
            app.add_exception_handler(kind, handler)
