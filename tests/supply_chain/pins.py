"""The packages that a lock file pins for this machine's Python."""

from __future__ import annotations

from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
RUNTIME, DEVELOPMENT = REQUIREMENTS / "runtime.lock", REQUIREMENTS / "dev.lock"


def requirements(lock: Path) -> list[Requirement]:
    """All that it pins, for whatever machine."""
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    return [Requirement(line.partition(" --hash")[0]) for line in lines if line and not line.lstrip().startswith("#")]


def names(lock: Path) -> list[str]:
    """Of all packages that it pins, each once."""
    return sorted({canonicalize_name(one.name) for one in requirements(lock)})


def pins(lock: Path) -> dict[str, str]:
    """Versions by name, of what belongs on this machine."""
    here = [one for one in requirements(lock) if one.marker is None or one.marker.evaluate()]
    return {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in here}
