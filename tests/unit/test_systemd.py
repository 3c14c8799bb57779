"""The unit for plain machines: systemd reads it without a complaint, and it names services and commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skeldir.cli.services import Service

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "systemd"
UNIT = FOLDER / "skeldir@.service"
ARCHIVE = ("skeldir-archive.service", "skeldir-archive.timer")


def test_systemd_understands_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    units = {"skeldir@gateway.service": UNIT} | {name: FOLDER / name for name in ARCHIVE}
    for name, unit in units.items():
        (tmp_path / name).write_text(unit.read_text().replace("/opt/skeldir/bin/skeldir", sys.executable))
    installed = [str(tmp_path / name) for name in units]
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *installed], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if "skeldir" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_it_names_what_there_is() -> None:
    text = UNIT.read_text()
    assert set(re.findall(r"skeldir@(\w+)", text)) == {service.value for service in Service}
    assert "ExecStart=/opt/skeldir/bin/skeldir serve %i" in text
    assert "Restart=always" in text and "StartLimitIntervalSec=0" in text, "systemd would give up after five starts"


def test_who_archives_is_locked_up_as_a_service_is() -> None:
    """And writes nothing but its folder."""
    hardening = [line for line in UNIT.read_text().splitlines() if line.startswith(("Protect", "Restrict", "System"))]
    text = (FOLDER / ARCHIVE[0]).read_text()
    assert len(hardening) > 10 and not [line for line in hardening if line not in text.splitlines()]
    assert "ExecStart=/opt/skeldir/bin/skeldir ledger archive\n" in text
    assert re.findall(r"Environment=SKELDIR_ARCHIVE_DIR=/var/lib/(.*)", text) == re.findall(
        r"StateDirectory=(.*)", text
    )
