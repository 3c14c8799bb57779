"""Licences of the packages that are pinned: which each has, and whether it may be used.

`requirements/licences.toml` says which licences may be used, and what stands in a package's files where its metadata is
unclear. `page` is `docs/reference/licences.md`.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

from tests.supply_chain.carried import CARRIED
from tests.supply_chain.pins import DEVELOPMENT, REQUIREMENTS, RUNTIME, names, pins

RULES: dict[str, Any] = tomllib.loads((REQUIREMENTS / "licences.toml").read_text())
SPDX = get_spdx_licensing()

# Classifiers that name one licence. "BSD License" names several: somebody has to look.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

HEAD = """\
# Licences

Of the packages that Skeldir runs on (`requirements/runtime.lock`), as their metadata declares them, or as their licence
files say where it is unclear. `requirements/licences.toml` says which licences may be used. The suite fails on a
package with another one, or with none that is known. `make reference` writes this page.

| package | licence |
| --- | --- |
"""


class UnknownLicenceError(Exception):
    """A package says nothing that names a licence, and nobody has read its files."""


def licence(name: str) -> str:
    """The SPDX expression of a package. Raises UnknownLicenceError."""
    read: dict[str, str] = RULES["read"]
    return read.get(name) or declared(name)


def declared(name: str) -> str:
    """What its metadata says, as an SPDX expression. Raises UnknownLicenceError where that is not clear."""
    try:
        said = metadata(name)
    except PackageNotFoundError:
        raise UnknownLicenceError(f"{name} belongs on another machine: read its licence file") from None
    fields = ("License-Expression", "License")
    declarations: list[str] = [text for field in fields for text in said.get_all(field) or []]
    named = [one.rpartition(" :: ")[2] for one in said.get_all("Classifier") or [] if one.startswith("License ::")]
    known = [CLASSIFIERS[one] for one in named if one in CLASSIFIERS]
    by_classifier = known if len(named) == len(known) == 1 else []
    for text in (*declarations, *by_classifier):
        if is_spdx(text):
            return text
    raise UnknownLicenceError(f"{name}: {[text[:60] for text in declarations]}, {named}: read its licence file")


def is_spdx(text: str) -> bool:
    """Whether it is an expression of known identifiers, as SPDX spells them."""
    try:
        return str(SPDX.parse(text, validate=True, strict=True)) == text
    except ExpressionError:
        return False


def allows(expression: str, allowed: set[str]) -> bool:
    """Whether these licences are enough: all parts of an AND, one of an OR."""

    def satisfied(node: Any) -> bool:
        if isinstance(node, SPDX.AND):
            return all(map(satisfied, node.args))
        if isinstance(node, SPDX.OR):
            return any(map(satisfied, node.args))
        return str(node) in allowed

    return satisfied(SPDX.parse(expression, validate=True, strict=True))


def refused() -> dict[str, str]:
    """What may not be used: the packages with the reason."""
    at_work = set(RULES["allowed"])
    found = {}
    tools = at_work | set(RULES["allowed-in-development"])
    for packages, allowed in ((list(pins(DEVELOPMENT)), tools), (names(RUNTIME), at_work)):
        for name in packages:
            try:
                if not allows(licence(name), allowed):
                    found[name] = licence(name)
            except UnknownLicenceError as error:
                found[name] = str(error)
    return found | {one.name: one.licence for one in CARRIED if not allows(one.licence, at_work)}


def page() -> str:
    """A line for each package at run time, on whatever machine."""
    inside = (f"| {one.by} carries {one.name} | {one.licence} |\n" for one in CARRIED)
    return HEAD + "".join(f"| {name} | {licence(name)} |\n" for name in names(RUNTIME)) + "".join(inside)
