"""The read API: calls, timelines, spend, states and dashboards, under the row-level security of the caller's key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

from fastapi import Depends, FastAPI, Path, Query
from pydantic import AwareDatetime
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from services.ledger import lists, queries, statements
from services.ledger.answers import CSV, HTML, PRIVATE, asked_format, handle_problems, plain, rows
from services.ledger.costs import By, costs
from services.ledger.keys import Doorkeeper, Refused, View, narrowed
from services.ledger.lists import Listing, page
from services.ledger.looking import looking
from services.ledger.overview import Overview
from services.ledger.series import Step, fits
from services.ledger.sessions import Pool
from services.ledger.spending import SPEND, SPEND_NOW, SPEND_OF_ALL
from services.ledger.why import verdict
from shared.events.tasks import TaskType
from shared.problems import MEDIA_TYPE
from shared.texts.master_key import MasterKeys

DEFAULT_LIMIT = 50
MAX_LIMIT = 500
MAX_TEXT = 300
MAX_JUDGED = timedelta(days=7)
EARLIEST, LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)

Endpoint = TypeVar("Endpoint", bound=Callable[..., Awaitable[Response]])
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT, description="Rows of a page, at most.")]
Id = Annotated[UUID, Path(description="The task's id.")]
Before = Annotated[str | None, Query(max_length=lists.MAX_CURSOR, description="`next` of the page before.")]
Month = Annotated[str | None, Query(max_length=10, description="As 2026-11, in UTC; this month.")]
Text = Annotated[str | None, Query(min_length=1, max_length=MAX_TEXT)]
Search = Annotated[
    str | None,
    Query(
        min_length=1,
        max_length=MAX_TEXT,
        description="A request id, correlation id or task id; `abc*`: that starts so.",
    ),
]
Since = Annotated[AwareDatetime | None, Query(description="From here on, with its offset from UTC.")]
Until = Annotated[AwareDatetime | None, Query(description="Up to here, not included.")]
_PARAMETERS: list[dict[str, Any]] = [
    {"name": "tenant_id", "in": "query", "schema": {"type": "string", "format": "uuid"}, "description": "One tenant."},
    {"name": "user_id", "in": "query", "schema": {"type": "string", "format": "uuid"}, "description": "One user."},
    {"name": "format", "in": "query", "schema": {"enum": ["json", "csv"]}, "description": "Stands for `Accept`."},
]
_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/json": {}, CSV: {}}},
    **{
        status: {"description": text, "content": {MEDIA_TYPE: {}}}
        for status, text in (
            (401, "No key, or none that is known"),
            (403, "Not for this key"),
            (404, "There is none in view of this key"),
            (422, "A parameter is wrong"),
            (503, "The database cannot be reached, or the question took too long"),
        )
    },
}


def build(
    pool: Pool, door: Doorkeeper, routes: Sequence[BaseRoute], overview: Overview, masters: MasterKeys | None = None
) -> FastAPI:
    """The ledger's HTTP application, with `routes` beside the read API."""
    app = FastAPI(
        title="Skeldir ledger",
        summary="The books, as the caller may see them.",
        description="Send `Authorization: Bearer <key>`. A key that names a user sees that user, one that "
        "names none its tenant, an operator's every tenant; `tenant_id` and `user_id` narrow it. Looks at more than "
        "one user are recorded (`/v1/reads`). Amounts are cents.",
        version="1",
        docs_url=None,
        redoc_url=None,
        routes=list(routes),
    )
    app.state.door = door
    handle_problems(app)
    _lists(app, pool, overview)
    _calls(app, pool, masters)
    _sums(app, pool, overview)
    _bills(app, pool)
    return app


def admitted(request: Request) -> View:
    """The caller's view. Raises Refused."""
    door: Doorkeeper = request.app.state.door
    return door.admit(
        authorization(request),
        request.query_params.get("tenant_id"),
        request.query_params.get("user_id"),
    )


def authorization(request: Request) -> str | None:
    """The key of a request: its own header, else what a login to the console stands for."""
    return request.headers.get("authorization") or request.scope.get("skeldir.authorization")


Caller = Annotated[View, Depends(admitted)]


def _get(app: FastAPI, path: str, summary: str) -> Callable[[Endpoint], Endpoint]:
    return app.get(
        path,
        summary=summary,
        responses=_ANSWERS,
        response_class=Response,
        openapi_extra={"parameters": _PARAMETERS, "security": [{"key": []}]},
        tags=["reads"],
    )


def _calls(app: FastAPI, pool: Pool, masters: MasterKeys | None) -> None:
    @_get(app, "/v1/calls", "Tasks and what became of them, newest first")
    async def calls(  # one parameter a filter
        request: Request,
        view: Caller,
        limit: Limit = DEFAULT_LIMIT,
        before: Before = None,
        status: Literal["pending", "success", "blocked", "failed"] | None = None,
        reason: Text = None,
        provider: Text = None,
        model: Text = None,
        task_type: TaskType | None = None,
        since: Since = None,
        until: Until = None,
        q: Search = None,
    ) -> Response:
        found = await page(
            pool,
            view,
            lists.CALLS,
            limit=limit,
            before=before,
            status=status,
            reason=reason,
            provider=provider,
            model=model,
            task_type=None if task_type is None else task_type.value,
            since=since,
            until=until,
            **lists.searched(q),
        )
        return rows(request, "calls", found.rows, found.next)

    @_get(app, "/v1/calls/{id}", "One task, with its output")
    async def call(view: Caller, id: Id) -> Response:
        return plain(await _found(pool, masters, view, id))

    @_get(app, "/v1/calls/{id}/timeline", "Why a task ended as it did: the decision, what it saw, and every event")
    async def timeline(view: Caller, id: Id) -> Response:
        found, told = await _found(pool, masters, view, id), await queries.events(pool, masters, view, id)
        answer = {"call": found, "verdict": verdict(told.rows), "events": told.rows, "archived": told.archived}
        return plain(answer)

    @_get(app, "/v1/events", "The events of one task, in their order")
    async def events(
        request: Request, view: Caller, task_id: UUID, limit: Limit = MAX_LIMIT, before: Before = None
    ) -> Response:
        found = await queries.events(pool, masters, view, task_id, limit, before)
        return rows(request, "events", found.rows, found.next, more={"archived": found.archived})


async def _found(pool: Pool, masters: MasterKeys | None, view: View, call_id: UUID) -> dict[str, Any]:
    found = await queries.call(pool, masters, view, call_id)
    if found is None:
        raise Refused(404, "unknown_call", "no such call in view of this key")
    return found


def _lists(app: FastAPI, pool: Pool, overview: Overview) -> None:
    def listed(path: str, summary: str, listing: Listing, *, operators_only: bool = False) -> None:
        @_get(app, path, summary)
        async def answer(
            request: Request, view: Caller, limit: Limit = DEFAULT_LIMIT, before: Before = None
        ) -> Response:
            if operators_only and not view.is_operator:
                raise Refused(403, "wrong_role", "for operators' keys: these rows belong to no tenant")
            found = await page(pool, view, listing, limit=limit, before=before)
            return rows(request, listing.name, found.rows, found.next)

    listed("/v1/breakers", "Circuit breakers", lists.BREAKERS)
    listed("/v1/switches", "Kill switches, and whether they hold", lists.SWITCHES)
    listed("/v1/shutoffs", "Hourly shutoffs that hold", lists.SHUTOFFS)
    listed("/v1/limits", "Limits that operators set", lists.LIMITS)
    listed("/v1/bounds", "Bounds of single tasks, by type", lists.BOUNDS)
    listed("/v1/downgrades", "Which calls go to a cheaper model near the end of a budget", lists.DOWNGRADES)
    listed("/v1/uncertain", "Attempts whose end nobody knows, longest held first", lists.UNCERTAIN)
    listed("/v1/dead-letters", "Entries that could not be processed", lists.DEAD_LETTERS, operators_only=True)
    listed("/v1/reads", "Who looked at more than one user", lists.READS, operators_only=True)

    @_get(app, "/v1/orders", "What was ordered, by whom and why, newest first")
    async def orders(
        request: Request,
        view: Caller,
        limit: Limit = DEFAULT_LIMIT,
        before: Before = None,
        type: Text = None,
        since: Since = None,
        until: Until = None,
    ) -> Response:
        found = await queries.orders(pool, view, limit=limit, before=before, type=type, since=since, until=until)
        return rows(request, "orders", found.rows, found.next)

    @_get(app, "/v1/quotas", "Quotas in force, and what they have counted")
    async def quotas(request: Request, view: Caller, limit: Limit = DEFAULT_LIMIT, before: Before = None) -> Response:
        found = await overview.quotas(view, limit, before)
        return rows(request, "quotas", found.rows, found.next)

    @_get(app, "/v1/spend", "Spent and reserved in each window, against its cap")
    async def spend(
        request: Request,
        view: Caller,
        limit: Limit = DEFAULT_LIMIT,
        before: Before = None,
        window: Literal["hour", "month"] | None = None,
        since: Since = None,
        until: Until = None,
    ) -> Response:
        wanted = {"window": window, "since": since, "until": until}
        listing = SPEND
        if view.is_of_all:
            listing = SPEND_NOW if since is None and until is None else SPEND_OF_ALL
        found = await page(pool, view, listing, limit=limit, before=before, **wanted)
        return rows(request, "spend", overview.in_force(found.rows), found.next)


def _sums(app: FastAPI, pool: Pool, overview: Overview) -> None:
    @_get(app, "/v1/dashboards/{name}", "A dashboard")
    async def dashboard(
        request: Request, view: Caller, name: str, limit: Limit = MAX_LIMIT, before: Before = None
    ) -> Response:
        found = await queries.dashboard(pool, view, name, limit, before)
        return rows(request, name, found.rows, found.next, key="rows")

    @_get(app, "/v1/series", "Calls by end, their cost and how long they took, over time")
    async def series(
        request: Request, view: Caller, step: Step = "hour", since: Since = None, until: Until = None
    ) -> Response:
        start, end = _times(since, until)
        if not fits(start, end, step):
            raise Refused(422, "invalid_parameter", "since is before until, by at most 800 steps")
        await _noted(pool, view, "series")
        return rows(request, "series", await overview.series(view, start, end, step))

    @_get(app, "/v1/anomalies", "Hours whose spend or failures were far from the usual for that hour")
    async def anomalies(request: Request, view: Caller, since: Since = None, until: Until = None) -> Response:
        start, end = _times(since, until)
        if not timedelta() < end - start <= MAX_JUDGED:
            raise Refused(422, "invalid_parameter", f"since is before until, by at most {MAX_JUDGED.days} days")
        await _noted(pool, view, "anomalies")
        return rows(request, "anomalies", await overview.unusual(view, start, end))

    @_get(app, "/v1/overview", "What flows, what it costs, what is stopped, what waits for somebody")
    async def now(view: Caller) -> Response:
        await _noted(pool, view, "overview")
        return plain(await overview.look(view))


def _times(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """From when to when; the last day where nothing is said. Raises Refused where steps before or behind could leave
    the calendar."""
    end = until or datetime.now(UTC)
    if not all(EARLIEST < moment < LATEST for moment in (since or end, end)):
        raise Refused(422, "invalid_parameter", f"since and until lie between {EARLIEST.year} and {LATEST.year}")
    return since or end - timedelta(days=1), end


def _bills(app: FastAPI, pool: Pool) -> None:
    @_get(app, "/v1/costs", "What a month cost, and how its calls ended, the dearest first")
    async def cost(
        request: Request,
        view: Caller,
        by: By = "model",
        month: Month = None,
        limit: Limit = DEFAULT_LIMIT,
        before: Before = None,
    ) -> Response:
        start = datetime.combine(_month(month), time(), UTC)
        found = await page(pool, narrowed(view), costs(view, by), limit=limit, before=before, month=start)
        return rows(request, "costs", found.rows, found.next)

    @_get(app, "/v1/statement", "A tenant's month by user and model, exact: as JSON, CSV, or a page to print")
    async def statement(request: Request, view: Caller, month: Month = None) -> Response:
        if view.tenant_id is None or view.user_ids:
            raise Refused(422, "missing_tenant", "a statement is of one whole tenant: give tenant_id, and no user")
        wanted = asked_format(request, "csv", "html")
        async with looking(pool, narrowed(view), "statement") as connection:
            try:
                found = await statements.read(connection, view.tenant_id, _month(month))
            except statements.DoesNotAddUp as problem:
                raise Refused(500, "does_not_add_up", f"{problem}: run skeldir ledger verify") from problem
        if wanted == "html":
            headers = PRIVATE | {"Content-Security-Policy": statements.PAGE_POLICY}
            return Response(statements.as_page(found, datetime.now(UTC)), media_type=HTML, headers=headers)
        if wanted == "csv":
            headers = PRIVATE | {"Content-Disposition": f'attachment; filename="statement-{found.month:%Y-%m}.csv"'}
            return Response(statements.as_csv(found), media_type=CSV, headers=headers)
        return plain(statements.as_record(found))


def _month(text: str | None) -> date:
    """Its first day; this month's where nothing is said. Raises Refused."""
    if text is None:
        return datetime.now(UTC).date().replace(day=1)
    try:
        return datetime.strptime(text, "%Y-%m").replace(tzinfo=UTC).date()
    except ValueError as error:
        raise Refused(422, "invalid_parameter", f"month is a year and a month, as 2026-11, not {text!r}") from error


async def _noted(pool: Pool, view: View, what: str) -> None:
    """Write the look down: its answer may come from memory."""
    if view.is_wide:
        async with looking(pool, view, what):
            pass
