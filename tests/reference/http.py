"""`docs/reference/http.md`: both HTTP APIs, from their OpenAPI documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest.mock import Mock

from services.gateway.app import application
from services.ledger import api
from shared.events.control import CONTROL_EVENTS
from tests.reference.markdown import anchor, fields, shapes, table, words

HEAD = """\
# HTTP

Two services answer over HTTP. Each request carries `Authorization: Bearer <key>` ([keys](../identity.md));
`/healthz`, `/readyz` and `/metrics` need none. A running gateway has this as OpenAPI at `/openapi.json`, and to try
out at `/docs`; a ledger has it at `/openapi.json`. `make reference` writes this page.

"""
# Described with the events.
ORDERS = CONTROL_EVENTS.json_schema()["$defs"].keys() - {"TaskType"}
FASTAPI_SAYS = "Successful Response"  # where the code says nothing
CONTROL_BODY = "The body is an order, as [on the control stream](events.md#skeldircontrol).\n\n"


def documents() -> dict[str, dict[str, Any]]:
    """The OpenAPI document of each service, from its application with nothing behind it."""
    gateway = application(Mock(), Mock(), Mock())
    ledger = api.build(Mock(), Mock(), [], Mock())
    return {"gateway": gateway.openapi(), "ledger": ledger.openapi()}


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    definitions: dict[str, Any] = {}
    for name, document in documents().items():
        definitions |= document.get("components", {}).get("schemas", {})
        info = document["info"]
        parts.append(f"## The {name}\n{info['summary']} {info.get('description', '')}".rstrip() + "\n\n")
        parts += _service(document)
    parts += ["## Shapes\n", *shapes(definitions, without=[*ORDERS, "HTTPValidationError", "ValidationError"])]
    return "".join(parts).rstrip("\n") + "\n"


def _service(document: dict[str, Any]) -> Iterator[str]:
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    linked = ((f"[`{name}`](#{anchor(name)})", one["summary"]) for name, one in operations.items())
    yield table(("operation", "what it does"), linked)
    errors = {
        status: answer["description"]
        for one in operations.values()
        for status, answer in one["responses"].items()
        if status >= "400"
    }
    yield table(("status", "means, wherever it comes"), sorted(errors.items()))
    parameters = [one.get("parameters", []) for one in operations.values()]
    common = [one for one in parameters[0] if all(one in others for others in parameters)]
    if common:
        yield "All take these:\n\n" + _parameters(common)
    for name, operation in operations.items():
        yield from _operation(name, operation, common)


def _operation(name: str, operation: dict[str, Any], common: list[dict[str, Any]]) -> Iterator[str]:
    said = operation.get("description")
    yield f"### {name}\n{operation['summary']}.{' ' + said if said else ''}\n\n"
    if own := [one for one in operation.get("parameters", []) if one not in common]:
        yield _parameters(own)
    for content in operation.get("requestBody", {}).get("content", {}).values():
        yield fields(content["schema"]) if "properties" in content["schema"] else CONTROL_BODY
    answers = sorted(operation["responses"].items())
    good = "; ".join(_answer(status, one["description"]) for status, one in answers if status < "400")
    bad = ", ".join(status for status, _ in answers if status >= "400")
    yield f"Answers {good}. Errors: {bad}.\n\n"


def _answer(status: str, description: str) -> str:
    return status if description == FASTAPI_SAYS else f"{status}: {description}"


def _parameters(parameters: list[dict[str, Any]]) -> str:
    return table(
        ("parameter", "in", "type", "default", "meaning"),
        (
            (f"`{one['name']}`", one["in"], words(one["schema"]), default(one), one.get("description", ""))
            for one in parameters
        ),
    )


def default(parameter: dict[str, Any]) -> str:
    """What holds where the parameter is not given."""
    if parameter.get("required"):
        return "required"
    value = parameter["schema"].get("default")
    return "" if value is None else f"`{value}`"
