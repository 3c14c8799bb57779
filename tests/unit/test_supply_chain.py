"""What Skeldir is made of: pinned, under licences that may be used, and listed."""

from __future__ import annotations

from importlib.metadata import version

import orjson
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

import skeldir
from tests.supply_chain import licences, sbom
from tests.supply_chain.carried import CARRIED
from tests.supply_chain.pins import DEVELOPMENT, RUNTIME, names, pins


def test_what_is_installed_is_what_is_pinned() -> None:
    pinned = pins(DEVELOPMENT)
    assert {name: version(name) for name in pinned} == pinned
    assert pins(RUNTIME).items() <= pinned.items(), "run `make lock`"


def test_every_package_has_a_licence_that_may_be_used() -> None:
    assert not licences.refused()


@pytest.mark.parametrize(
    ("expression", "allowed"),
    [
        ("MIT", True),
        ("GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only AND MIT", False),
        ("MPL-2.0 AND (GPL-3.0-only OR Apache-2.0)", True),
        ("GPL-2.0-only WITH Classpath-exception-2.0", False),
    ],
)
def test_a_licence_is_allowed_by_its_whole_expression(expression: str, allowed: bool) -> None:
    assert licences.allows(expression, set(licences.RULES["allowed"])) is allowed


def test_copyleft_is_for_tools_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(licences.RULES, "read", {**licences.RULES["read"], "redis": "GPL-3.0-only"})
    assert licences.refused() == {"redis": "GPL-3.0-only"}


@pytest.mark.parametrize("text", ["MIT License", "BSD", "mit", "Own licence", "GPL-3.0"])
def test_what_names_no_one_licence_is_none(text: str) -> None:
    assert not licences.is_spdx(text)


def test_people_have_read_what_was_unclear_and_nothing_else() -> None:
    read = licences.RULES["read"]
    assert all(licences.is_spdx(expression) for expression in read.values())
    assert read.keys() <= set(names(DEVELOPMENT)), "no longer used"
    for name in read.keys() - {"async-timeout", "tzdata", "colorama"}:  # by platform and Python
        with pytest.raises(licences.UnknownLicenceError):
            licences.declared(name)


def test_the_bill_of_materials_is_valid_and_whole() -> None:
    text = sbom.text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = orjson.loads(text)
    assert bill["metadata"]["component"]["version"] == skeldir.__version__
    listed = {one["name"]: one["version"] for one in bill["components"]}
    assert listed == pins(RUNTIME) | {one.name: one.version for one in CARRIED}
    assert all(one["licenses"] for one in bill["components"])
    needs = {one["ref"]: set(one.get("dependsOn", [])) for one in bill["dependencies"]}
    reached, waiting = set(), ["skeldir"]
    while waiting:
        one = waiting.pop()
        if one not in reached:
            reached.add(one)
            waiting += needs[one]
    assert reached == {"skeldir", *(one["bom-ref"] for one in bill["components"])}, "each is there for a reason"
