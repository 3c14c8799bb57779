"""What the OpenAPI document says of bodies, answers and errors: the routes read and write JSON by themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from shared.events.results import TaskResult

PROBLEM = "application/problem+json"
JSON = "application/json"
_KEY = "key"

_TEXT = {"type": "string"}
_PROBLEM_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457; `code` is for programs.",
    "required": ["type", "title", "status", "detail", "code", "instance"],
    "properties": dict.fromkeys(("type", "title", "detail", "code", "instance"), _TEXT)
    | {"status": {"type": "integer"}},
}
_OPENAI_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {"message": _TEXT, "type": _TEXT, "param": {"type": "null"}, "code": _TEXT},
        }
    },
}
_WHY = {
    400: "The body did not come whole; at the OpenAI door also: this call cannot be priced",
    401: "No key, or none that is known",
    403: "Not for this key",
    404: "There is none for this key",
    409: "The request id belongs to another body or user",
    413: "The body is too large",
    422: "What was sent is wrong; `detail` says what to mend",
    429: "Too often, or a limit is reached",
    502: "The provider failed",
    503: "Stopped, or the log cannot be reached; `Retry-After` says when to ask again",
    504: "Not ended in time; ask again with the same `Idempotency-Key`",
}
_PENDING: dict[str, Any] = {
    "type": "object",
    "required": ["task_id", "request_id", "task_type", "status"],
    "properties": dict.fromkeys(("task_id", "api_call_id", "request_id", "task_type", "status"), _TEXT),
}
_EITHER = {JSON: {"schema": {"anyOf": [_PENDING, TaskResult.model_json_schema(mode="serialization")]}}}

Answers = dict[int | str, dict[str, Any]]


def answers(success: dict[int, tuple[str, dict[str, Any]]], *statuses: int, openai: bool = False) -> Answers:
    """`success`: status -> meaning and content; `statuses`: the errors that may come."""
    content = {JSON: {"schema": _OPENAI_SCHEMA}} if openai else {PROBLEM: {"schema": _PROBLEM_SCHEMA}}
    found: Answers = {status: {"description": text, "content": said} for status, (text, said) in success.items()}
    return found | {status: {"description": _WHY[status], "content": content} for status in statuses}


SUBMITTED = answers(
    {200: ("The result", _EITHER), 202: ("Durable; the result comes later", _EITHER)},
    *(400, 401, 403, 409, 413, 422, 429, 503),
)
SHOWN = answers({200: ("Pending, or the result", _EITHER)}, 401, 403, 404, 422, 429, 503)
FOLLOWED = answers({200: ("Each event as it happens", {"text/event-stream": {}})}, 401, 403, 404, 422, 429, 503)
PUBLISHED = answers({202: ("In the control stream", {JSON: {}})}, 400, 401, 403, 413, 422, 429, 503)
ASKED = answers(
    {200: ("As OpenAI answers; a stream where one was asked for", {JSON: {}, "text/event-stream": {}})},
    *(400, 401, 403, 409, 413, 422, 429, 502, 503, 504),
    openai=True,
)
LISTED = answers({200: ("As OpenAI answers", {JSON: {}})}, 401, 404, 429, 503, openai=True)


def body(schema: dict[str, Any]) -> dict[str, Any]:
    """The request body of a route that takes a key."""
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema}}}, **KEYED}


def asked(**required: dict[str, Any]) -> dict[str, Any]:
    """The body of a call in OpenAI's shape; all other fields go to the provider."""
    known = {"model": {"type": ["string", "null"]}, "stream": {"type": ["boolean", "null"]}}
    return body({"type": "object", "required": list(required), "properties": {**known, **required}})


KEYED: dict[str, Any] = {"security": [{_KEY: []}]}


def document(app: FastAPI) -> dict[str, Any]:
    """The whole document. Schemas that came with definitions of their own share them where a reader looks for them."""
    found = get_openapi(title=app.title, version=app.version, summary=app.summary, routes=app.routes)
    components = found.setdefault("components", {})
    components.setdefault("securitySchemes", {})[_KEY] = {"type": "http", "scheme": "bearer"}
    shared: dict[str, Any] = components.setdefault("schemas", {})
    hoisted: dict[str, Any] = _hoist(found, shared)
    return hoisted


def _hoist(node: Any, shared: dict[str, Any]) -> Any:
    if isinstance(node, list):
        return [_hoist(one, shared) for one in node]
    if not isinstance(node, dict):
        return node
    for name, schema in node.pop("$defs", {}).items():
        shared[name] = _hoist(schema, shared)
    if isinstance(ref := node.get("$ref"), str):
        node["$ref"] = ref.replace("#/$defs/", "#/components/schemas/")
    return {name: _hoist(value, shared) for name, value in list(node.items())}
