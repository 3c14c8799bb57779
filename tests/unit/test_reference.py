"""`docs/reference` says what the code says. (`tests/integration/ledger/test_reference.py`: the tables.)"""

from __future__ import annotations

from typing import Any

import pytest
from typer.main import get_command

from skeldir.cli import COMMANDS, application
from tests.reference import FOLDER, PAGES
from tests.reference.http import documents
from tests.reference.markdown import fields, table, words


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_current(name: str) -> None:
    assert (FOLDER / name).read_text() == PAGES[name](), "run `make reference`"


def test_every_command_and_every_option_is_described() -> None:
    """What the page has nothing to say of, `--help` has not either."""
    nameless: list[str] = []

    def look(command: Any, name: str) -> None:
        nameless.extend(
            f"{name} {parameter.name}"
            for parameter in command.params
            if parameter.name != "help" and not parameter.help
        )
        if not command.help:
            nameless.append(name)
        for child in getattr(command, "commands", {}).values():
            look(child, f"{name} {child.name}")

    look(get_command(application(*COMMANDS)), "skeldir")
    assert not nameless


def test_every_operation_of_both_services_is_there() -> None:
    page = (FOLDER / "http.md").read_text()
    for name, least in (("gateway", 9), ("ledger", 20)):
        paths = documents()[name]["paths"]
        assert len(paths) >= least, "the application had none of its routes"
        assert all(f"### {method.upper()} {path}\n" in page for path in paths for method in paths[path])


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/$defs/Balance"}, "[Balance](#balance)"),
        ({"anyOf": [{"type": "string", "format": "uuid"}, {"type": "null"}]}, "UUID or null"),
        ({"enum": ["a", "b"]}, "`a`, `b`"),
        ({"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 9}}, "list of integer, 1 to 9"),
        ({"type": "object", "additionalProperties": {"type": "string", "maxLength": 5}}, "object of text, at most 5"),
        ({"type": ["string", "null"]}, "text or null"),
        ({"const": "x"}, "`x`"),
        ({}, "anything"),
    ],
)
def test_a_schema_in_words(schema: dict[str, Any], said: str) -> None:
    assert words(schema) == said


def test_a_cell_cannot_break_its_table() -> None:
    assert table(["a"], [["x | y\nz"]]) == "| a |\n| --- |\n| x \\| y z |\n\n"
    assert "| `n` | integer | `0` | m |" in fields(
        {"properties": {"n": {"type": "integer", "default": 0, "description": "m"}}}
    )
