"""The console's own routes: log in and out, the live stream, what an order would stop, and giving it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import Annotated, Any

import orjson
import structlog
from fastapi import APIRouter, Body, Depends, FastAPI
from pydantic import BaseModel, Field
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from services.ledger.answers import UNREACHABLE, plain
from services.ledger.api import Caller, authorization
from services.ledger.console.logins import LONGEST_MS, Login, Logins, is_token
from services.ledger.console.orders import Orders
from services.ledger.console.static_files import static_routes
from services.ledger.keys import Doorkeeper, Refused, View
from services.ledger.looking import as_json, looking
from services.ledger.overview import Overview
from services.ledger.reach import look
from services.ledger.sessions import Pool
from shared.events import control

COOKIE = "skeldir_console"
EVERY_S = 2.0
# A live stream ends after so long, and the page asks for a new one, which is written down as a new look.
LONGEST_STREAM_S = 600.0
MAX_ORDER = 20_000

log = structlog.get_logger(__name__)


class _Credentials(BaseModel):
    key: str = Field(min_length=1, max_length=16_000, description="Or the token of an identity provider.")


class LoggedIn:
    """Lets a cookie stand for a key: for reading only, and before the routes see the request."""

    def __init__(self, app: ASGIApp, logins: Logins) -> None:
        self._app = app
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            login = self._logins.find(Request(scope).cookies.get(COOKIE))
            if login is not None:
                scope["skeldir.authorization"] = login.authorization
        await self._app(scope, receive, send)


class Console:
    """The console of one ledger process."""

    def __init__(self, pool: Pool, door: Doorkeeper, overview: Overview, logins: Logins, orders: Orders) -> None:
        self._pool = pool
        self._door = door
        self._overview = overview
        self._logins = logins
        self._orders = orders
        self._closing = asyncio.Event()

    def attach(self, app: FastAPI) -> None:
        """Add the page and its routes to the ledger's application."""
        app.router.routes.extend(static_routes())
        app.include_router(self._routes())
        app.add_middleware(LoggedIn, logins=self._logins)

    async def run(self) -> None:
        """Until cancelled: then the live streams end too, so that stopping waits for no open page."""
        try:
            await asyncio.Event().wait()
        finally:
            self._closing.set()
            await self._orders.close()

    def _routes(self) -> APIRouter:
        routes = APIRouter(prefix="/console", include_in_schema=False)
        known = Depends(self._acting)

        @routes.post("/login")
        async def login(request: Request, credentials: _Credentials) -> Response:
            _same_site(request)
            view = self._door.admit(f"Bearer {credentials.key.strip()}", None, None)
            cookie, opened = self._logins.open(credentials.key.strip())
            answer = plain(self._about(view, opened))
            answer.set_cookie(
                COOKIE, cookie, max_age=LONGEST_MS // 1000, httponly=True, samesite="strict", path="/",
                secure=request.url.scheme == "https",
            )  # fmt: skip
            return answer

        @routes.get("/session")
        async def session(request: Request) -> Response:
            opened = self._logins.find(request.cookies.get(COOKIE))
            if opened is None:
                return plain({"role": None})
            return plain(self._about(self._door.admit(opened.authorization, None, None), opened))

        @routes.post("/logout")
        async def logout(request: Request, _: Login = known) -> Response:
            self._logins.close(request.cookies.get(COOKIE))
            answer = plain({"role": None})
            answer.delete_cookie(COOKIE, path="/")
            return answer

        @routes.get("/live")
        async def live(request: Request, view: Caller) -> Response:
            await self._noted(view, "console")
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(self._stream(request, view), media_type="text/event-stream", headers=headers)

        @routes.post("/reach")
        async def reach(order: Annotated[dict[str, Any], Body()], login: Login = known) -> Response:
            view, parsed = self._operator(login), _parsed(order)
            scope = getattr(parsed, "scope", control.Scope())
            async with looking(self._pool, view, "reach of an order") as connection:
                return plain(asdict(await look(connection, scope)))

        @routes.post("/orders")
        async def publish(order: Annotated[dict[str, Any], Body()], login: Login = known) -> Response:
            self._operator(login)
            _parsed(order)
            return plain(await self._orders.publish(login.authorization, order), 202)

        return routes

    def _about(self, view: View, login: Login) -> dict[str, Any]:
        """Who is logged in, and what they may do, for the page."""
        problem = self._orders.problem if view.is_operator else "for operators' keys"
        return {
            "role": view.key.role,
            "key_id": view.key.key_id,
            "tenant_id": view.key.tenant_id,
            "user_id": view.key.user_id,
            "csrf": login.csrf,
            "may_order": problem is None,
            "why_not": problem,
        }

    def _acting(self, request: Request) -> Login:
        """Who sends a request that changes something. Raises Refused where it may come from elsewhere."""
        _same_site(request)
        login = self._logins.find(request.cookies.get(COOKIE))
        if login is None:
            raise Refused(401, "not_logged_in", "log in")
        if not is_token(login, request.headers.get("x-csrf-token")):
            raise Refused(403, "wrong_page", "this did not come from the console's own page: load it again")
        return login

    def _operator(self, login: Login) -> View:
        view = self._door.admit(login.authorization, None, None)
        if not view.is_operator:
            raise Refused(403, "wrong_role", "orders are for operators' keys")
        return view

    async def _noted(self, view: View, what: str) -> None:
        if view.is_wide:
            async with looking(self._pool, view, what):
                pass

    async def _stream(self, request: Request, view: View) -> AsyncIterator[bytes]:
        """The overview, every few seconds, as long as the key and the login hold."""
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + LONGEST_STREAM_S
        while not self._closing.is_set() and loop.time() < ends_at:
            try:
                self._door.admit(authorization(request), None, None)
                found = await self._overview.look(view)
                yield b"event: overview\ndata: " + orjson.dumps(found, default=as_json) + b"\n\n"
            except Refused as refused:
                yield b"event: refused\ndata: " + orjson.dumps({"detail": str(refused)}) + b"\n\n"
                return
            except UNREACHABLE as error:
                log.warning("the console cannot be kept fresh", problem=type(error).__name__)
                yield b'event: problem\ndata: {"detail": "the database or the log cannot be reached"}\n\n'
            try:
                async with asyncio.timeout(EVERY_S):
                    await self._closing.wait()
            except TimeoutError:
                continue


def _parsed(order: dict[str, Any]) -> control.ControlEvent:
    try:
        return control.parse_control(orjson.dumps(order))
    except control.InvalidControl as error:
        raise Refused(422, "invalid_control", str(error)) from error


def _same_site(request: Request) -> None:
    """Browsers say from where a request comes; from another site's page it is not taken. Raises Refused."""
    if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        raise Refused(403, "wrong_page", "this comes from another site")
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise Refused(415, "wrong_media_type", "send application/json")
    if int(request.headers.get("content-length") or MAX_ORDER + 1) > MAX_ORDER:
        raise Refused(413, "too_large", f"at most {MAX_ORDER} bytes")
