"""Errors that say what to do: a problem document (`shared/problems.py`), and OpenAI's shape on the OpenAI paths."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from services.gateway.metrics import REFUSALS
from shared.problems import MEDIA_TYPE, document

_SERVED = ("/v1/chat/", "/v1/models", "/v1/embeddings", "/v1/responses")
_NOT_SERVED = ("/v1/completions", "/v1/audio", "/v1/batches", "/v1/files", "/v1/images", "/v1/moderations")
_WITHOUT_V1 = ("/chat/", "/models", "/embeddings", "/responses", "/completions")
OPENAI_PATHS = _SERVED + _NOT_SERVED + _WITHOUT_V1
"""Where an OpenAI client asks: also for what is not there, for of another shape it says nothing but the status."""


class Problem(Exception):
    """An HTTP error. `code` is for programs, `detail` for people. `retry` false: asking again would be another task."""

    def __init__(
        self, status: int, code: str, detail: str, *, retry_after_s: float | None = None, retry: bool = True
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after_s = retry_after_s
        self.retry = retry
        self.headers: dict[str, str] = {}
        """Of the response, beside those that follow from the problem."""


def nothing_at(path: str) -> str:
    """What to say of a path where nothing is: a newcomer's OpenAI client is told what is wrong with its address."""
    if path.startswith(_WITHOUT_V1):
        return "there is nothing at this path: an OpenAI client's base_url ends in /v1"
    if path.startswith(OPENAI_PATHS):
        return "this part of OpenAI's API is not served here: /docs shows what is"
    return "there is nothing at this path: /docs shows what there is"


def respond(request: Request, problem: Problem) -> JSONResponse:
    """The response for a problem, in the shape that the path's clients read."""
    if problem.retry:  # the others tell how a task ended, which policy and executors count
        REFUSALS.labels(str(problem.status), problem.code).inc()
    headers = dict(problem.headers)
    if problem.retry_after_s is not None:
        headers["Retry-After"] = str(max(1, round(problem.retry_after_s)))
    if problem.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if request.url.path.startswith(OPENAI_PATHS):
        if not problem.retry:
            # OpenAI's clients ask again by themselves, with a request that is a new task: it could be paid twice.
            headers["x-should-retry"] = "false"
        return JSONResponse(openai_error(problem), problem.status, headers)
    body = document(problem.status, problem.code, problem.detail, request.url.path)
    return JSONResponse(body, problem.status, headers, media_type=MEDIA_TYPE)


def openai_error(problem: Problem) -> dict[str, Any]:
    """The same as OpenAI's clients expect it."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    default = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = kinds.get(problem.status, default)
    return {"error": {"message": problem.detail, "type": kind, "param": None, "code": problem.code}}
