"""The unit for plain machines: systemd reads it without a complaint, and it names services and commands that exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from skeldir.cli.services import Service

UNIT = Path(__file__).resolve().parents[2] / "deploy" / "systemd" / "skeldir@.service"


def test_systemd_understands_it(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    installed = tmp_path / "skeldir@gateway.service"
    installed.write_text(UNIT.read_text().replace("/opt/skeldir/bin/skeldir", sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )
    about_it = [line for line in done.stderr.splitlines() if "skeldir" in line]
    assert (done.returncode, about_it) == (0, []), done.stderr


def test_it_names_what_there_is() -> None:
    text = UNIT.read_text()
    assert set(re.findall(r"skeldir@(\w+)", text)) == {service.value for service in Service}
    assert "ExecStart=/opt/skeldir/bin/skeldir serve %i" in text
