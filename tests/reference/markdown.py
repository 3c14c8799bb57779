"""Tables of Markdown, and JSON Schemas in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

Schema = dict[str, Any]
_PLAIN = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "null": "null"}


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """With an empty line behind it."""
    names = list(head)
    lines = [names, ["---"] * len(names), *(list(row) for row in rows)]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def anchor(name: str) -> str:
    """Where a heading is found."""
    return "".join(char for char in name.lower().replace(" ", "-") if char.isalnum() or char in "-_")


def words(schema: Schema) -> str:
    """The type that a schema describes. A named one is a link to its heading on the same page."""
    if ref := schema.get("$ref"):
        name = str(ref).rpartition("/")[2]
        return f"[{name}](#{anchor(name)})"
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return " or ".join(dict.fromkeys(map(words, options)))
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(_PLAIN[one] for one in kind)
    if kind == "array":
        return f"list of {words(schema.get('items', {}))}"
    if kind == "object":
        inner = schema.get("additionalProperties")
        return f"object of {words(inner)}" if isinstance(inner, dict) and inner else "object"
    return _bounded(schema, kind) if kind else "anything"


def _bounded(schema: Schema, kind: str) -> str:
    if "format" in schema:
        form = str(schema["format"])
        return {"date-time": "time", "uuid": "UUID"}.get(form, form)
    least, most = schema.get("minimum"), schema.get("maximum")
    if kind == "string":
        longest = schema.get("maxLength")
        return f"text, at most {longest}" if longest else "text"
    if most is not None and most < 2**53 - 1:
        return f"{kind}, {least or 0} to {most}"
    return f"{kind}, at least {least}" if least else _PLAIN[kind]


def fields(schema: Schema, without: Iterable[str] = ()) -> str:
    """A table of an object's properties."""
    required = set(schema.get("required", []))
    return table(
        ("field", "type", "default", "meaning"),
        (
            (f"`{name}`", words(one), "required" if name in required else _default(one), one.get("description", ""))
            for name, one in schema.get("properties", {}).items()
            if name not in set(without)
        ),
    )


def _default(schema: Schema) -> str:
    value = schema.get("default")
    if value is None or isinstance(value, dict):
        return ""
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value)}`"


def shapes(definitions: dict[str, Schema], without: Iterable[str] = ()) -> Iterator[str]:
    """A heading and its fields (or values) for each definition."""
    for name in sorted(definitions.keys() - set(without)):
        one = definitions[name]
        yield f"### {name}\n{_said(one)}\n"
        yield fields(one) if "properties" in one else f"{words(one)}\n\n"


def _said(schema: Schema) -> str:
    return f"{said}\n" if (said := schema.get("description")) else ""
