"""What the running system needs of months that are in an archive, and what of them can be erased."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger import queries, sessions
from services.ledger.archive.parquet import ParquetFile, Wanted
from services.ledger.archive.record import ArchiveProblem
from services.ledger.erasure import Erasure, erasure
from services.ledger.intake import Record, read_event, read_order
from services.ledger.keyring import Keyring
from services.ledger.keys import View
from services.ledger.rebuild import rebuild
from services.ledger.sessions import AUDITOR, USER
from services.ledger.sources import orders_so_far
from services.policy.decide import Owner
from shared.control_state import ControlState, Key
from shared.events.control import control_event_id
from shared.texts.cipher import keys_in
from shared.texts.data_keys import open_keys
from shared.texts.master_key import new_master_key, parse_master_keys
from shared.texts.payload import decrypted
from skeldir.restoring import reading
from skeldir.restoring.accounts import TenantBooks
from tests.integration.ledger.archive.conftest import APRIL, MAY, Books, findings
from tests.unit.ledger.history import Op, play

MASTERS = parse_master_keys(new_master_key())


async def timeline(kept: Books, row: Any, role: str = AUDITOR) -> queries.Timeline:
    """What a reader is told of a task."""
    tenant, user = row["tenant_id"], row["user_id"]
    key = Key("k", tenant, None if role == AUDITOR else user, "auditor", None, "test", 0)
    view = View(key, role, tenant, () if role == AUDITOR else (user,))
    async with sessions.pool(kept.url("skeldir_ledger"), name="api", size=1) as pool:
        return await queries.events(pool, None, view, UUID(row["subject"]))


@pytest.mark.parametrize("role", [AUDITOR, USER])
async def test_who_asks_for_a_tasks_events_is_told_where_they_are(kept: Books, role: str) -> None:
    rows = [row for row in await kept.events() if row["type"] == "task.submitted" and row["partition"] == 0]
    rows = [row for row in rows if row["time"].month == 3]
    before = {row["subject"]: (await timeline(kept, row, role)).rows for row in rows}
    assert all(before.values())
    await kept.archive(APRIL)
    stay = {row["subject"] for row in await kept.events()}
    for row in rows:
        told = await timeline(kept, row, role)
        if row["subject"] in stay:
            assert (told.rows, told.archived) == (before[row["subject"]], [])
        else:
            assert (told.rows, told.archived) == ([], ["2025-03"])
    assert {row["subject"] for row in rows} - stay and {row["subject"] for row in rows} & stay


async def test_a_task_of_two_months_is_told_in_part(kept: Books) -> None:
    """Its call goes on past the end of its month; the month after is archived later."""
    row = next(row for row in await kept.events() if row["type"] == "task.submitted" and row["partition"] == 1)
    assert row["time"].month == 3
    await kept.archive(APRIL)
    told = await timeline(kept, row)
    assert told.archived == ["2025-03"] and {event["time"].month for event in told.rows} == {4}
    await kept.archive(MAY)
    told = await timeline(kept, row)
    assert (told.rows, told.archived) == ([], ["2025-03", "2025-04"])


async def test_orders_are_all_there(kept: Books) -> None:
    before = await orders_so_far(kept.ledger)
    await kept.archive(MAY)
    assert await orders_so_far(kept.ledger) == before
    assert len({row["time"].month for row in await kept.events(orders=True)}) == 3


# Orders of quotas; an attempt that nobody knows the end of, which they count; one that ended, one that has not.
WITH_QUOTAS: tuple[Op, ...] = (
    *(("order", number % 2, 12 + number) for number in range(5)),
    *(("submit", 0, 3), ("fail", 0, 2), ("submit", 0, 2), ("succeed", 0, 8), ("submit", 0, 2)),
)


@pytest.mark.parametrize("has_quotas", [False, True])
async def test_what_policy_knew_is_read_without_the_archive(kept: Books, has_quotas: bool) -> None:
    """But for quotas whose windows of then a reservation still holds: then the archive is asked for."""
    history = await kept.take_in(datetime(2025, 3, 16, tzinfo=UTC), WITH_QUOTAS if has_quotas else WITH_QUOTAS[5:])
    tenant = history.owners[0].tenant_id
    last_ms = _ms(datetime(2025, 7, 1, tzinfo=UTC))

    async def known(folder: Path | None) -> TenantBooks:
        async with kept.ledger.transaction():
            return await reading.tenant_books(kept.ledger, tenant, history.control, last_ms, folder)

    async def under_way() -> Any:
        async with kept.ledger.transaction():
            pending = await reading.pending(kept.ledger)
            return await reading.events_of(kept.ledger, tenant, pending[tenant])

    before, tasks = await known(None), await under_way()
    assert {hold.state for hold in before.holds} == {"held", "live"}
    assert all(bool(hold.takes) is has_quotas for hold in before.holds)
    assert len(tasks) == 1 and bool(before.readings) is has_quotas
    await kept.archive(MAY)
    if has_quotas:
        with pytest.raises(ArchiveProblem, match="in an archive"):
            await known(None)
    after = await known(kept.folder if has_quotas else None)
    assert replace(after, readings=()) == replace(before, readings=()) and await under_way() == tasks
    assert set(map(repr, after.readings)) == set(map(repr, before.readings))


async def told(kept: Books, word: str, keyring: Keyring) -> tuple[Owner, list[Record]]:
    """A task and its answer of March, with this word in both, as the ledger takes them in."""
    owner = Owner(uuid4(), uuid4())
    async with sessions.pool(kept.url("skeldir_ledger"), name="keys", size=1) as pool:
        if keyring.encrypts:
            await keyring.fetch(pool, [(owner.tenant_id, owner.user_id)])
    history = play([("submit", 0, 2), ("succeed", 0, 1)], (owner, owner), _ms(datetime(2025, 3, 15, tzinfo=UTC)))
    found = []
    for stream, entry_id, event in history.entries:
        data: Any = event.data
        if event.type == "task.submitted":
            data = data.model_copy(update={"task": data.task.model_copy(update={"prompt": {"text": word}})})
        if event.type == "task.succeeded":
            data = data.model_copy(update={"output_text": word})
        body = event.model_copy(update={"data": data}).to_json()
        record = read_event(0, stream, (entry_id.encode(), {b"data": body}), keyring)
        assert isinstance(record, Record), record
        found.append(record)
    return owner, found


def _ms(at: datetime) -> int:
    return int(at.timestamp() * 1000)


async def read_back(kept: Books, owner: Owner) -> str:
    """All that the archive's files say of a user, with the keys that there are."""
    rows = [row for path in kept.folder.glob("*.parquet") for page in ParquetFile(path).pages(Wanted()) for row in page]
    bodies = [row["body"] for row in rows if row["user_id"] == owner.user_id]
    assert bodies
    async with kept.ledger.transaction():
        keys = await open_keys(kept.ledger, MASTERS, {key for body in bodies for key in keys_in(body)})
    return "".join(bodies) + str([decrypted(orjson.loads(body)["data"], keys) for body in bodies])


async def erase(kept: Books, owner: Owner) -> Erasure:
    """As the ledger takes such an order in; what came of it."""
    entry_id = f"{_ms(datetime(2025, 6, 1, tzinfo=UTC))}-0"
    scope = {"tenant_id": str(owner.tenant_id), "user_id": str(owner.user_id)}
    data = orjson.dumps({"type": "texts.erased", "scope": scope, "actor": "test"})
    order, _ = read_order(ControlState(), (entry_id.encode(), {b"data": data}))
    assert isinstance(order, Record)
    await kept.commit([order])
    done = await erasure(kept.url("skeldir_owner"), control_event_id(entry_id), owner.tenant_id, owner.user_id)
    assert done is not None
    return done


async def test_an_erasure_reaches_the_archive(kept: Books) -> None:
    """Its files have no key: without it their texts are gone, and every hash and balance holds."""
    secret, word = f"secret-{uuid4().hex}", f"kept-{uuid4().hex}"
    keyring = Keyring(MASTERS)
    (erased, first), (other, second) = await told(kept, secret, keyring), await told(kept, word, keyring)
    await kept.commit([*first, *second])
    await kept.archive(APRIL)
    assert secret in await read_back(kept, erased) and word in await read_back(kept, other)
    files = {path.name: path.read_bytes() for path in kept.folder.iterdir()}
    done = await erase(kept, erased)
    assert (done.keys, done.unencrypted) == (1, 0)
    assert secret not in await read_back(kept, erased) and word in await read_back(kept, other)
    assert {path.name: path.read_bytes() for path in kept.folder.iterdir()} == files
    assert await findings(kept) == []
    assert not any((await rebuild(kept.url("skeldir_owner"), archive=kept.folder)).changed.values())


async def test_plain_texts_in_the_archive_are_told_to_who_erases(kept: Books) -> None:
    """They were recorded while nothing was encrypted: no key's end reaches them."""
    owner, records = await told(kept, "plain", Keyring(None))
    await kept.commit(records)
    await kept.archive(APRIL)
    assert "plain" in await read_back(kept, owner)
    assert sum(row["unencrypted"] for row in await kept.recorded()) == 1
    assert (await erase(kept, owner)).archived == 1
