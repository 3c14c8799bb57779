"""A second pair of eyes on the policies: pgrls, which reasons about them with an SMT solver."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from skeldir.embedded import EmbeddedPostgres

# They admit every row on purpose, each to one role that no reader is a member of: that is tested in test_security.py.
EVERY_ROW = {"ledger_writes", "operator_reads", "owner_migrates", "services_read", "owner_recognises", "owner_archives"}


def pgrls(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run its command line."""
    command = [str(Path(sys.executable).parent / "pgrls"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_no_policy_of_a_reader_is_found_wanting(postgres: EmbeddedPostgres) -> None:
    done = pgrls("lint", "--database-url", postgres.url("postgres"), "--format", "json")
    report = json.loads(done.stdout)
    errors = [one for one in report["violations"] if one["severity"] == "error"]
    assert errors, "the policies for every row are found, so it has looked"
    assert {one["location"].rpartition(".")[2] for one in errors} <= EVERY_ROW


def test_no_table_is_shown_to_leak(postgres: EmbeddedPostgres) -> None:
    done = pgrls("verify", "--database-url", postgres.url("postgres"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 leaking" in done.stdout
