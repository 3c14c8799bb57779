"""The gateway's HTTP application."""

from __future__ import annotations

import structlog
from fastapi import FastAPI
from redis.asyncio import Redis
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from services.gateway.docs_page import docs_routes
from services.gateway.documented import document
from services.gateway.door import Door
from services.gateway.problems import Problem, nothing_at, respond
from services.gateway.routes import control, models, openai, tasks
from services.gateway.straight import Straight
from shared.problems import code_without_route
from shared.service import Readiness, health_routes

log = structlog.get_logger(__name__)


def application(door: Door, redis: Redis, readiness: Readiness) -> FastAPI:
    """All routes, with one way to say what went wrong."""
    app = Straight(
        title="Skeldir gateway",
        summary="Governed calls of language models.",
        version="1",
        docs_url=None,
        redoc_url=None,
        routes=[*health_routes(readiness), *docs_routes()],
    )
    for router in (tasks.router(door), openai.router(door), models.router(door), control.router(door, redis)):
        app.include_router(router)
        app.go_straight_to(router)

    @app.exception_handler(Problem)
    async def problem(request: Request, error: Problem) -> Response:
        return respond(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        code = code_without_route(error.status_code)
        response = respond(request, Problem(error.status_code, code, _said(error, request.url.path)))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> Response:
        log.error("request failed", path=request.url.path, error=type(error).__name__)
        return respond(request, Problem(500, "internal_error", "this is our mistake; it was logged"))

    app.openapi = lambda: document(app)  # type: ignore[method-assign]
    return app


def _said(error: HTTPException, path: str) -> str:
    """What the framework refused, as something that a caller can act on."""
    match error.status_code:
        case 404:
            return nothing_at(path)
        case 405:
            return "not with this method: /docs shows with which"
        case _:
            return str(error.detail)
