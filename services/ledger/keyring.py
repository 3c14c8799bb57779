"""The data keys that the writer encrypts texts with: made when a user is first met, destroyed by an order."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID, uuid4

from services.ledger.intake import Owner, Record
from services.ledger.sessions import Connection, Pool
from shared.events.control import parse_control
from shared.events.privacy import TextsErased
from shared.texts.cipher import DataKey, new_secret
from shared.texts.master_key import MasterKeys

CAPACITY = 20_000

_OWNERS = "(SELECT * FROM unnest($1::uuid[], $2::uuid[]) AS owner (tenant_id, user_id))"
_MAKE = (
    "INSERT INTO data_keys (id, tenant_id, user_id, master_key, wrapped) "
    "SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::bytea[]) "
    "ON CONFLICT (tenant_id, user_id) WHERE wrapped IS NOT NULL DO NOTHING"
)
_FIND = (
    "SELECT id, tenant_id, user_id, master_key, wrapped, erased_at FROM data_keys "
    f"WHERE (tenant_id, user_id) IN {_OWNERS}"
)
_LIVING = "SELECT id FROM data_keys WHERE id = ANY ($1::uuid[]) AND wrapped IS NOT NULL"
_DESTROY = (
    "UPDATE data_keys SET wrapped = NULL, master_key = NULL, erased_at = $3 "
    "WHERE tenant_id = $1 AND user_id = $2 AND wrapped IS NOT NULL"
)
# Also where no key was made: what comes late of the time before is not kept, either.
_MARK = "INSERT INTO data_keys (id, tenant_id, user_id, erased_at) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING"
# What cannot be decoded belongs to nobody, but may hold a text of whoever it names.
_BLANK = "UPDATE {table} SET data = NULL WHERE position(convert_to($1, 'UTF8') IN data) > 0"


class KeyDestroyed(Exception):
    """A batch was encrypted by a key that an erasure has destroyed since; it is to be read again."""


class Keyring:
    """The keys in use. It remembers the last ones; the database has them all, wrapped.

    Without a master key (`masters` None) nothing is encrypted, and it has no keys.
    """

    def __init__(self, masters: MasterKeys | None) -> None:
        self._masters = masters
        self._keys: dict[Owner, DataKey] = {}
        self._erased: dict[Owner, datetime] = {}

    @property
    def encrypts(self) -> bool:
        """Whether texts are to be encrypted."""
        return self._masters is not None

    def key_of(self, owner: Owner) -> DataKey | None:
        """The user's key, where it is at hand."""
        return self._keys.get(owner)

    def erased(self, owner: Owner, time: datetime) -> bool:
        """Whether the texts of that time are to be gone. Asked where the key is at hand."""
        until = self._erased.get(owner)
        return until is not None and time <= until

    def missing(self, owners: Iterable[Owner]) -> list[Owner]:
        """Those whose keys are to be fetched first."""
        return [owner for owner in owners if owner not in self._keys]

    async def fetch(self, pool: Pool, owners: Collection[Owner]) -> None:
        """Have these users' keys at hand; make those that are not there. Raises the driver's errors."""
        assert self._masters is not None, "nothing is encrypted without one"
        made = [DataKey(uuid4(), new_secret()) for _ in owners]
        tenants, users = [tenant for tenant, _ in owners], [user for _, user in owners]
        wrapped = [self._masters.wrap(key) for key in made]
        async with pool.acquire() as connection:
            names = [self._masters.current] * len(made)
            await connection.execute(_MAKE, [key.id for key in made], tenants, users, names, wrapped)
            rows = await connection.fetch(_FIND, tenants, users)
        while len(self._keys) + len(made) > CAPACITY:
            owner = next(iter(self._keys))
            del self._keys[owner]
            self._erased.pop(owner, None)
        for row in rows:
            owner = (row["tenant_id"], row["user_id"])
            if row["wrapped"] is not None:
                self._keys[owner] = self._masters.unwrap(row["id"], row["master_key"], row["wrapped"])
            elif owner not in self._erased or row["erased_at"] > self._erased[owner]:
                self._erased[owner] = row["erased_at"]

    def forget(self) -> None:
        """Ask the database again."""
        self._keys.clear()
        self._erased.clear()


async def check_living(connection: Connection, records: Sequence[Record]) -> None:
    """Within the transaction that stores them: no erasure has overtaken these records. Raises KeyDestroyed."""
    used = {record.key_id for record in records if record.key_id is not None}
    if used and len(await connection.fetch(_LIVING, list(used))) < len(used):
        raise KeyDestroyed("a user's texts were erased meanwhile")


async def destroy(connection: Connection, records: Iterable[Record]) -> None:
    """Within the transaction that stores them: carry out the erasures among these orders."""
    for record in records:
        if record.partition is not None or record.type != TextsErased.event_type:
            continue
        scope = parse_control(record.body)
        assert isinstance(scope, TextsErased), "its type says so"
        await _destroy(connection, record, (scope.scope.tenant_id, scope.scope.user_id))


async def _destroy(connection: Connection, record: Record, owner: tuple[UUID | None, UUID | None]) -> None:
    await connection.execute(_DESTROY, *owner, record.time)
    await connection.execute(_MARK, record.id, *owner, record.time)
    for table in ("dead_letters", "skipped_entries"):
        await connection.execute(_BLANK.format(table=table), str(owner[1]))
