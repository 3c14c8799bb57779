"""Which running system a command means."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest

from shared.settings import Settings
from skeldir import running
from skeldir.running import READY, Running


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Running:
    """One that runs elsewhere, started last."""
    monkeypatch.setattr(running, "pointer", lambda: tmp_path / "cache" / READY)
    urls = dict.fromkeys(
        ("gateway_url", "ledger_url", "redis_url", "database_url", "admin_database_url"), "http://other"
    )
    keys = {"api_key": "key", "operator_key": "key", "tenant_id": UUID(int=1), "user_id": UUID(int=2)}
    found = Running(**urls, **keys, pids={}, supervisor_pid=os.getpid(), data_dir="other")
    running.write(found, running.pointer())
    return found


def test_where_none_is_said_it_is_the_one_that_was_started_last(
    other: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKELDIR_DATA_DIR", raising=False)
    assert running.find(Settings()) == other


def test_a_stopped_one_that_is_said_is_not_taken_for_another_that_runs(other: Running, tmp_path: Path) -> None:
    assert running.find(Settings(data_dir=tmp_path / "stopped")) is None
    mine = other.model_copy(update={"data_dir": "mine"})
    running.write(mine, tmp_path / "mine" / READY)
    assert running.find(Settings(data_dir=tmp_path / "mine")) == mine


def test_what_an_ended_system_left_is_removed_and_nothing_else(other: Running, tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    files = {
        "ended": other.model_copy(update={"supervisor_pid": ended.pid}).model_dump_json(),
        "of an earlier process with this one's id": other.model_dump_json(),
        "of another that runs": other.model_copy(update={"supervisor_pid": os.getppid()}).model_dump_json(),
        "no ready file": "a person's own",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    running.forget(*(tmp_path / name for name in files), tmp_path / "missing", tmp_path)
    assert {name for name in files if (tmp_path / name).exists()} == {"of another that runs", "no ready file"}
