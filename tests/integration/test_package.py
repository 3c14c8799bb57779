"""What is published: sdist and wheel are built without a network, hold all that is needed, and run elsewhere."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

import skeldir
from skeldir.server_roles import ACL_TEMPLATE, LOG_ROLES, ROLES_SQL

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("shared", "services", "skeldir")
SERVER_ROLES = {str(path.relative_to(ROOT)) for path in (ACL_TEMPLATE, ROLES_SQL)}


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    """What it prints; it must end well, and not by what this test's own environment has."""
    done = subprocess.run(
        command, cwd=cwd, env={"PATH": "/usr/bin:/bin", **environment}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def build(tree: Path, kind: str, into: Path) -> Path:
    """By the back end that pyproject.toml names, as it is installed here: nothing is fetched."""
    run(sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", into, cwd=tree)
    (made,) = into.iterdir()
    return made


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive, of this tree."""
    return build(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, of the unpacked source archive: so both are whole."""
    unpacked = tmp_path_factory.mktemp("unpacked")
    shutil.unpack_archive(sdist, unpacked)  # `tarfile` has its filter from 3.11.4 on only
    (tree,) = unpacked.iterdir()
    return build(tree, "wheel", tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    """Its files, without what describes the distribution itself."""
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if ".dist-info/" not in name}


def test_the_wheel_has_every_file_of_the_packages_and_of_the_servers_roles(wheel: Path) -> None:
    here = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for folder in PACKAGES
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    kinds = {Path(name).suffix for name in here}
    assert kinds >= {".py", ".lua", ".sql", ".mako", ".js", ".css", ".html", ".svg", ".typed"}
    assert contents(wheel) == here | {name: (ROOT / name).read_bytes() for name in SERVER_ROLES}


def test_the_sdist_has_what_builds_tests_and_explains_it(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"pyproject.toml", "Makefile", "README.md", "LICENSE", "SECURITY.md", "requirements/dev.lock"}
    assert names >= wanted | {"tests/conftest.py", "docs/architecture.md", "deploy/compose.yaml", *SERVER_ROLES}
    assert not [name for name in names if name.startswith((".venv", ".skeldir", "deploy/secrets", "dist"))]


def test_the_wheel_installs_and_its_command_runs_with_nothing_of_this_tree(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path)
    python = tmp_path / "venv" / "bin" / "python"
    install = ("-m", "pip", "--python", python, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", wheel)
    run(sys.executable, *install, cwd=tmp_path, PIP_DISABLE_PIP_VERSION_CHECK="1")
    # Dependencies are seen where they are; the tree is not, since a .pth file is only read in a site's own folder.
    seen = {"PYTHONPATH": sysconfig.get_path("purelib")}
    where = run(python, "-c", "import skeldir; print(skeldir.__file__)", cwd=tmp_path, **seen)
    assert Path(where.strip()).is_relative_to(tmp_path)
    command = tmp_path / "venv" / "bin" / "skeldir"
    assert run(command, "--version", cwd=tmp_path, **seen) == f"skeldir {skeldir.__version__}\n"
    run(command, "secrets", "made", cwd=tmp_path, **seen)
    users = (tmp_path / "made" / "valkey" / "users.acl").read_text()
    assert all(f"user {role} " in users for role in LOG_ROLES), "the installed template of deploy/ was read"
