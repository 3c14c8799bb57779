"""The bill of materials: `make sbom` writes what Skeldir runs on, as CycloneDX 1.6, to `dist/skeldir-VERSION.cdx.json`.

It is made from `requirements/runtime.lock` and the metadata of what is installed from it. The lock has the hashes of
all files that may be installed; they are not repeated.
"""

from __future__ import annotations

from importlib.metadata import requires
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.contrib.this.builders import this_component
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from skeldir import __version__
from tests.supply_chain.carried import CARRIED
from tests.supply_chain.licences import licence
from tests.supply_chain.pins import RUNTIME, pins

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = {"archive"}
"""Those that the lock has."""


def needs(name: str, extras: set[str]) -> list[Requirement]:
    """What an installed package requires on this machine, with these extras."""
    environments = [{"extra": extra} for extra in extras or {""}]
    return [
        one
        for one in map(Requirement, requires(name) or [])
        if one.marker is None or any(one.marker.evaluate(environment) for environment in environments)
    ]


def graph(root: str, extras: set[str]) -> dict[str, set[str]]:
    """Package -> what it needs, of all that the root leads to with these extras."""
    found: dict[str, set[str]] = {}
    asked: dict[str, set[str]] = {}
    waiting: list[tuple[str, set[str]]] = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if name in found and wanted <= asked[name]:
            continue
        asked[name] = asked.get(name, set()) | wanted
        needed = needs(name, asked[name])
        found[name] = {canonicalize_name(one.name) for one in needed}
        waiting += [(canonicalize_name(one.name), set(one.extras)) for one in needed]
    return found


def library(kind: str, name: str, version: str, spdx: str) -> Component:
    """A package of some registry."""
    purl = PackageURL(kind, name=name, version=version)
    licences = [LicenseFactory().make_from_string(spdx)]
    return Component(name=name, version=version, purl=purl, bom_ref=str(purl), licenses=licences)


def bill() -> Bom:
    """Skeldir, what it needs, and what needs what."""
    components = {name: library("pypi", name, version, licence(name)) for name, version in pins(RUNTIME).items()}
    carried = {one: library(one.registry, one.name, one.version, one.licence) for one in CARRIED}
    root = Component(
        name="skeldir",
        version=__version__,
        type=ComponentType.APPLICATION,
        bom_ref="skeldir",
        licenses=[LicenseFactory().make_from_string("Apache-2.0")],
    )
    bom = Bom(components=[*components.values(), *carried.values()])
    bom.metadata.component = root
    bom.metadata.tools.components.add(this_component())
    for name, needed in graph("skeldir", EXTRAS).items():
        inside = [component for one, component in carried.items() if one.by == name]
        bom.register_dependency(components.get(name, root), [*(components[one] for one in needed), *inside])
    return bom


def text() -> str:
    """The bill as a JSON document."""
    return JsonV1Dot6(bill()).output_as_string(indent=2)


if __name__ == "__main__":
    target = ROOT / "dist" / f"skeldir-{__version__}.cdx.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(text() + "\n")
    print(target.relative_to(ROOT))
