"""Errors over HTTP that say what to do: one shape from every service, as RFC 9457 has it."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

MEDIA_TYPE = "application/problem+json"
_NO_ROUTE = {404: "no_such_path", 405: "wrong_method"}


def document(status: int, code: str, detail: str, path: str) -> dict[str, Any]:
    """The body of an error. `code` is for programs, and part of the problem's type; `detail` is for people."""
    return {
        "type": f"urn:skeldir:problem:{code}",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
        "instance": path,
    }


def code_without_route(status: int) -> str:
    """The code of what the framework refuses before any route is asked."""
    return _NO_ROUTE.get(status, "http_error")
