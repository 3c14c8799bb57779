"""Documents that say what the code says: they are checked against it, so they cannot rot."""

from __future__ import annotations

import re
from pathlib import Path

import jsonschema
import orjson
import pytest
from pydantic_core import PydanticUndefined

from shared.events import schemas
from shared.settings import Settings
from skeldir.server_roles import LOG_ROLES, ROLES_SQL

ROOT = Path(__file__).resolve().parents[2]


def setting_lines() -> list[str]:
    """One line of the table for each setting."""
    lines = []
    for name, field in Settings.model_fields.items():
        default = "" if field.default in (None, PydanticUndefined) else f"`{field.default}`"
        lines.append(f"| `SKELDIR_{name.upper()}` | {default} | {field.description} |")
    return lines


def test_the_configuration_page_names_every_setting_with_its_default() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    missing = [line for line in setting_lines() if line not in page]
    assert not missing, "docs/configuration.md lacks:\n" + "\n".join(missing)
    named = set(re.findall(r"`(SKELDIR_[A-Z_]+)`", page))
    assert named == {f"SKELDIR_{name.upper()}" for name in Settings.model_fields}


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize("path", sorted(schemas.files()), ids=lambda path: path.name)
def test_generated_schemas_are_current(path: Path) -> None:
    assert path.exists(), "run `make schemas`"
    assert path.read_text() == schemas.files()[path], "run `make schemas`"


def test_the_schemas_accept_what_the_code_writes() -> None:
    schema = schemas.json_schemas()["control"]
    order = {"type": "kill_switch.engaged", "scope": {}, "reason": "runaway", "actor": "ann"}
    jsonschema.validate(order, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**order, "type": "unheard.of"}, schema)


def test_asyncapi_is_version_3_and_names_every_event() -> None:
    document = schemas.asyncapi()
    assert document["asyncapi"].startswith("3.")
    text = orjson.dumps(document).decode()
    assert all(name.rsplit(".", 1)[0] in text for name in schemas.json_schemas() if name != "control")


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]:
        for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)}: {target}")
    assert not broken


def test_tests_that_documents_name_exist() -> None:
    broken = []
    for page in sorted((ROOT / "docs").rglob("*.md")):
        for path, name in re.findall(r"`(tests/[\w/.]+?)(?:::(\w+))?`", page.read_text()):
            file = ROOT / path
            if not file.exists() or (name and f"def {name}(" not in file.read_text()):
                broken.append(f"{page.relative_to(ROOT)}: {path}{'::' + name if name else ''}")
    assert not broken


def test_the_threat_model_names_every_user_role_and_key() -> None:
    page = (ROOT / "SECURITY.md").read_text()
    roles = re.findall(r"\('(\w+)', '(?:NO)?LOGIN", ROLES_SQL.read_text())
    assert len(roles) == 7
    keys = [
        "producer's key",
        "operator's key",
        "auditor's key",
        "provider's key",
        "master key",
        "seal's key",
        "webhook secret key",
    ]
    missing = [f"`{name}`" for name in (*LOG_ROLES, *roles) if f"`{name}`" not in page]
    assert not missing + [f"**{name}**" for name in keys if f"**{name}**" not in page]
