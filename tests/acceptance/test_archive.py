"""`skeldir ledger archive` on a running system: what reads all events reads the files, or says what it wants."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from services.ledger import books
from services.policy.decide import Owner
from shared.partitions import partition_for
from tests.stack import Stack
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

    file.write_bytes(file.read_bytes()[:-1] + b"?")
    broken = stack.cli("ledger", "verify", "--archive", str(folder), check=False)
    assert broken.returncode == 1 and f"{file.name}: was changed" in broken.stdout
    assert file.name in stack.refused("ledger", "rebuild", "--archive", str(folder))
