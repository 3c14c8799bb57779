"""Data keys on a real database: texts are encrypted, an erasure reaches what comes late, nobody sees others'."""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from services.ledger import sessions
from services.ledger.books import commit
from services.ledger.erasure import erasure, rewrap
from services.ledger.intake import Record, read_event, read_order
from services.ledger.keyring import KeyDestroyed, Keyring
from shared.control_state import ControlState
from shared.events.control import control_event_id
from shared.texts.cipher import keys_in
from shared.texts.data_keys import open_keys
from shared.texts.master_key import UnusableMasterKey, new_master_key, parse_master_keys
from shared.texts.payload import decrypted
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import Bench, eventually

LINE = new_master_key()
MASTERS = parse_master_keys(LINE)


def told(bench: Bench, word: str) -> tuple[tuple[str, str, Any], ...]:
    """A task and its answer, with this word in both."""
    history = bench.history([("submit", 0, 2), ("succeed", 0, 1)])
    found = []
    for stream, entry_id, event in history.entries:
        data = event.data
        if event.type == "task.submitted":
            task = data.task.model_copy(update={"prompt": {"text": word}})  # type: ignore[attr-defined]
            data = data.model_copy(update={"task": task})
        if event.type == "task.succeeded":
            data = data.model_copy(update={"output_text": word})
        found.append((stream, entry_id, event.model_copy(update={"data": data})))
    return tuple(found)


def order(bench: Bench, user: UUID, entry_id: str) -> Record:
    """An erasure, as the control stream's writer reads it."""
    scope = {"tenant_id": str(bench.tenant), "user_id": str(user)}
    data = orjson.dumps({"type": "texts.erased", "scope": scope, "actor": "test"})
    record, _ = read_order(ControlState(), (entry_id.encode(), {b"data": data}))
    assert isinstance(record, Record)
    return record


async def bodies(connection: Any, bench: Bench) -> list[str]:
    rows = await connection.fetch(
        "SELECT body FROM events WHERE tenant_id = $1 AND partition IS NOT NULL", bench.tenant
    )
    return [row["body"] for row in rows]


async def test_the_writer_encrypts_and_an_erasure_reaches_what_comes_late(
    bench: Bench, as_ledger: Any, as_user: Any, postgres: EmbeddedPostgres
) -> None:
    word = f"word-{uuid4().hex}"
    entries = told(bench, word)
    await bench.append(*entries)
    user = bench.users[0]
    async with bench.writer(keyring=Keyring(MASTERS)) as writer:

        async def all_in() -> bool:
            return len(await bodies(as_ledger, bench)) == len(entries)

        await eventually(all_in, "the events")
        assert writer.problem is None
        stored = await bodies(as_ledger, bench)
        assert not any(word in body for body in stored)
        wanted = {key for body in stored for key in keys_in(body)}
        assert len(wanted) == 1, "one user, one key"
        async with as_ledger.transaction():
            keys = await open_keys(as_ledger, MASTERS, wanted)
        assert sum(word in json.dumps(decrypted(orjson.loads(body)["data"], keys)) for body in stored) >= 2

        late_ms = int((entries[-1][2].time + timedelta(hours=1)).timestamp() * 1000)
        entry_id = f"{late_ms}-0"
        await commit(as_ledger, {}, {}, [order(bench, user, entry_id)])
        async with as_ledger.transaction():
            assert not await open_keys(as_ledger, MASTERS, wanted)
        found = await erasure(postgres.url("postgres"), control_event_id(entry_id), bench.tenant, user)
        assert found is not None and (found.keys, found.unencrypted) == (1, 0)

        late = told(bench, word)  # the same time, other ids: they were still on their way
        await bench.append(*[(s, i, event.model_copy(update={"id": uuid4()})) for s, i, event in late])

        async def late_in() -> bool:
            return len(await bodies(as_ledger, bench)) == 2 * len(entries)

        await eventually(late_in, "what came late")
        assert writer.problem is None
    again = [body for body in await bodies(as_ledger, bench) if body not in stored]
    assert not any(word in body or list(keys_in(body)) for body in again), "neither in plain, nor under a new key"


async def test_a_batch_under_a_destroyed_key_is_not_stored(
    bench: Bench, as_ledger: Any, postgres: EmbeddedPostgres
) -> None:
    entries = told(bench, "word")
    owner = (bench.tenant, bench.users[0])
    keyring = Keyring(MASTERS)
    async with sessions.pool(postgres.url("skeldir_ledger"), name="keys", size=2) as pool:
        await keyring.fetch(pool, {owner})
        await Keyring(MASTERS).fetch(pool, {owner})
    assert await as_ledger.fetchval("SELECT count(*) FROM data_keys WHERE user_id = $1", owner[1]) == 1, "both have one"
    (submitted,) = [one for one in entries if one[2].type == "task.submitted"]
    entry = (b"1-1", {b"data": submitted[2].to_json()})
    record = read_event(bench.partition.number, bench.partition.tasks, entry, keyring)
    assert isinstance(record, Record) and record.key_id is not None
    await commit(as_ledger, {}, {}, [order(bench, owner[1], "5-5")])
    with pytest.raises(KeyDestroyed):
        await commit(as_ledger, {}, {}, [record])
    assert not await bodies(as_ledger, bench)


async def test_what_cannot_be_decoded_and_names_the_user_is_emptied(bench: Bench, as_ledger: Any) -> None:
    user = bench.users[0]
    for name, data in (("1-1", f"\x01 {user} said".encode()), ("2-2", b"of nobody")):
        await as_ledger.execute(
            "INSERT INTO skipped_entries (stream, entry_id, reason, data) VALUES ($1, $2, 'x', $3)",
            str(user),
            name,
            data,
        )
    await commit(as_ledger, {}, {}, [order(bench, user, "7-7")])
    rows = await as_ledger.fetch("SELECT data FROM skipped_entries WHERE stream = $1 ORDER BY entry_id", str(user))
    assert [row["data"] for row in rows] == [None, b"of nobody"]


async def test_a_reader_sees_the_keys_of_what_it_may_see(
    bench: Bench, as_ledger: Any, as_user: Any, postgres: EmbeddedPostgres
) -> None:
    async with sessions.pool(postgres.url("skeldir_ledger"), name="keys", size=2) as pool:
        await Keyring(MASTERS).fetch(pool, {(bench.tenant, user) for user in bench.users})
    for users, count in (((bench.users[0],), 1), (bench.users, 2), ((uuid4(),), 0), ((), 0)):
        async with sessions.reading(as_user, None, bench.tenant, users):
            rows = await as_user.fetch("SELECT id FROM data_keys WHERE tenant_id = $1", bench.tenant)
        assert len(rows) == count, users


async def test_a_master_key_is_changed(bench: Bench, as_ledger: Any, postgres: EmbeddedPostgres) -> None:
    owner = (bench.tenant, bench.users[0])
    async with sessions.pool(postgres.url("skeldir_ledger"), name="keys", size=2) as pool:
        keyring = Keyring(MASTERS)
        await keyring.fetch(pool, {owner})
        key = keyring.key_of(owner)
        both = parse_master_keys(new_master_key() + LINE)
        assert await rewrap(postgres.url("postgres"), both) >= 1
        assert await rewrap(postgres.url("postgres"), both) == 0
        with pytest.raises(UnusableMasterKey, match="add its line"):
            await Keyring(MASTERS).fetch(pool, {owner})
        after = Keyring(both)
        await after.fetch(pool, {owner})
        assert after.key_of(owner) == key is not None
        await rewrap(postgres.url("postgres"), parse_master_keys(LINE + "".join(_lines(both))))


def _lines(masters: Any) -> list[str]:
    return [base64.b64encode(key).decode() + "\n" for key in masters.by_name.values()]
