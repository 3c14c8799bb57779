"""Errors that say what to do: `application/problem+json` (RFC 9457), and OpenAI's shape on the OpenAI paths."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

OPENAI_PATHS = ("/v1/chat/", "/v1/models", "/v1/embeddings", "/v1/responses")


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


def respond(request: Request, problem: Problem) -> JSONResponse:
    """The response for a problem, in the shape that the path's clients read."""
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
    body = {
        "type": f"urn:skeldir:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.detail,
        "code": problem.code,
        "instance": request.url.path,
    }
    return JSONResponse(body, problem.status, headers, media_type="application/problem+json")


def openai_error(problem: Problem) -> dict[str, Any]:
    """The same as OpenAI's clients expect it."""
    kinds = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
    default = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = kinds.get(problem.status, default)
    return {"error": {"message": problem.detail, "type": kind, "param": None, "code": problem.code}}
