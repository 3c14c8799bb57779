"""`skeldir ledger archive` on a running system: what reads all events reads the files, or says what it wants."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import psycopg

from services.ledger import books
from services.policy.decide import Owner
from shared.partitions import partition_for
from tests.stack import Stack, eventually
from tests.unit.ledger.history import play

MARCH = int(datetime(2025, 3, 10, tzinfo=UTC).timestamp() * 1000)
OPS = (("submit", 0, 3), ("succeed", 0, 8), ("submit", 1, 2), ("fail", 0, 0))


def with_a_history(stack: Stack, owner: Owner, partitions: int = 4) -> list[UUID]:
    """What a tenant did long ago, as the ledger took it in; its tasks."""
    history = play(OPS, (owner, owner), MARCH)
    history.partition = partition_for(owner.tenant_id, partitions)
    tag = history.partition.tag
    history.entries = [(of.replace("{skeldir:0}", tag), entry, event) for of, entry, event in history.entries]

    async def commit() -> None:
        connection = await asyncpg.connect(stack.ready["ledger_database_url"])
        await books.commit(connection, {}, {}, history.records())
        await connection.close()

    asyncio.run(commit())
    return [UUID(event.subject) for _, _, event in history.entries if event.type == "task.submitted"]


def test_months_leave_by_themselves_where_it_is_set(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """`up` archives as the owner, in a process beside the services, which start, and are ready, without it."""
    folder = tmp_path / "archive"
    set_once = {"SKELDIR_ARCHIVE_DIR": str(folder), "SKELDIR_ARCHIVE_AFTER_MONTHS": "1"}
    stack = new_stack(**set_once)
    with_a_history(stack, Owner(uuid4(), uuid4()))
    os.kill(stack.pid("archive"), signal.SIGKILL)  # it is started again, and begins at once
    query = "SELECT to_char(month, 'YYYY-MM') AS month, key_id FROM event_archives"

    def recorded() -> list[tuple[str, str | None]]:
        with psycopg.connect(stack.ready["admin_database_url"]) as connection:
            return connection.execute(query).fetchall()

    ((month, key_id),) = eventually(lambda: recorded() or None, "a month was archived")
    assert month == "2025-03" and key_id is not None, "recorded, and sealed"
    log = stack.data / "logs" / "archive.log"
    eventually(lambda: "a month was archived" in log.read_text(), "its log says so")
    assert json.loads(stack.cli("ledger", "verify", "--json").stdout)["checks"]["archive_is_whole"] == 0
    gauge = "skeldir_ledger_archive_overdue_months 0.0"
    eventually(lambda: gauge in stack.get("/metrics", base="ledger_url").text, "nothing is overdue")
    assert "--every-hours goes by" in stack.refused("ledger", "archive", "--every-hours", "1", "--before", "2025-03")


def test_settings_that_cannot_be_are_one_line(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    """Before anything starts: a retention that archives nothing would be found when the disk is full."""
    stack, file = Stack(tmp_path / "bad"), tmp_path / "file"
    stack.directory.mkdir()
    file.touch()
    for months, of, said in (
        ("12", None, "SKELDIR_ARCHIVE_AFTER_MONTHS: set SKELDIR_ARCHIVE_DIR too"),
        ("0", tmp_path, "SKELDIR_ARCHIVE_AFTER_MONTHS: "),
        ("12", file, "the archive's folder cannot be made: "),
    ):
        given = {"SKELDIR_ARCHIVE_AFTER_MONTHS": months} | ({} if of is None else {"SKELDIR_ARCHIVE_DIR": str(of)})
        bad = Stack(stack.directory, given)
        for command in (("up",), ("ledger", "archive", "--every-hours", "1")):
            if command == ("up",) or of is not file:
                assert said in bad.refused(*command)
    assert "set SKELDIR_ARCHIVE_AFTER_MONTHS" in stack.refused("ledger", "archive", "--archive", str(tmp_path))


def test_months_leave_the_database_and_every_command_knows_it(new_stack: Callable[..., Stack], tmp_path: Path) -> None:
    stack, folder = new_stack(), tmp_path / "archive"
    owner = Owner(uuid4(), uuid4())
    tasks = with_a_history(stack, owner)
    key = stack.key(str(owner.tenant_id), str(owner.user_id))
    assert stack.run()["status"] == "success"
    limits = tmp_path / "limits.json"
    limits.write_text("{}")
    readers: tuple[tuple[str, ...], ...] = (
        ("ledger", "verify"), ("ledger", "verify", "--history"), ("ledger", "rebuild"),
        ("replay", "--limits", str(limits)), ("state", "--at", "2025-03-20"),
    )  # fmt: skip

    def said(*arguments: str) -> Any:
        found = json.loads(stack.cli(*arguments, "--json").stdout)
        of_tenant = [one for one in found.get("tenants", []) if one["tenant_id"] == str(owner.tenant_id)]
        return of_tenant, found.get("limits"), found.get("breakers"), found.get("sound")

    before = [said(*reader) for reader in readers]
    assert "--archive" in stack.refused("ledger", "archive", "--before", "2025-04")
    assert "at most --before" in stack.refused("ledger", "archive", "--before", "2199-01", "--archive", str(folder))
    done = json.loads(stack.cli("ledger", "archive", "--before", "2025-04", "--archive", str(folder), "--json").stdout)
    (month,) = done["months"]
    assert (month["month"], month["stay"]) == ("2025-03", 0) and month["events"] > 5
    (file,) = [folder / one["file"] for one in month["files"]]
    assert file.stat().st_mode & 0o777 == 0o600

    told = stack.get(f"/v1/calls/{tasks[0]}/timeline", key=key, base="ledger_url").json()
    assert (told["call"]["status"], told["events"], told["archived"]) == ("success", [], ["2025-03"])
    events = stack.get(f"/v1/events?task_id={tasks[0]}", key=key, base="ledger_url").json()
    assert (events["events"], events["archived"]) == ([], ["2025-03"])
    assert stack.run()["status"] == "success"

    for reader in readers:
        assert "events of 2025-03 are in an archive" in stack.refused(*reader)
        assert "is no folder" in stack.refused(*reader, "--archive", str(tmp_path / "elsewhere"))
    assert [said(*reader, "--archive", str(folder)) for reader in readers] == before
    set_once = stack.cli_in({**stack.environment, "SKELDIR_ARCHIVE_DIR": str(folder)}, "ledger", "verify", "--json")
    report = json.loads(set_once.stdout)
    assert report["sound"] and report["checks"]["archive_is_whole"] == 0

    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"?")
    broken = stack.cli("ledger", "verify", "--archive", str(folder), check=False)
    assert broken.returncode == 1 and f"{file.name}: was changed" in broken.stdout
    assert file.name in stack.refused("ledger", "rebuild", "--archive", str(folder))
    assert file.name in stack.refused("ledger", "unarchive", "2025-03", "--archive", str(folder))

    file.write_bytes(whole)
    assert "no events of 2025-02" in stack.refused("ledger", "unarchive", "2025-02", "--archive", str(folder))
    assert "MONTH is a month as" in stack.refused("ledger", "unarchive", "2025", "--archive", str(folder))
    came = json.loads(stack.cli("ledger", "unarchive", "2025-03", "--archive", str(folder), "--json").stdout)
    assert came == {"month": "2025-03", "events": month["events"], "files": [file.name]} and file.exists()
    told = stack.get(f"/v1/calls/{tasks[0]}/timeline", key=key, base="ledger_url").json()
    assert len(told["events"]) > 3 and told["archived"] == []
    assert [said(*reader) for reader in readers] == before
