"""Data keys as the books have them: `data_keys`, one a tenant and user, under the reader's own row-level security."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from uuid import UUID

from shared.texts.cipher import DataKey
from shared.texts.master_key import MasterKeys

_LIVE = "SELECT id, master_key, wrapped FROM data_keys WHERE id = ANY ($1::uuid[]) AND wrapped IS NOT NULL"


async def open_keys(connection: Any, masters: MasterKeys | None, ids: Iterable[UUID]) -> dict[UUID, DataKey]:
    """The data keys with these ids that the connection may see, and that were not destroyed.

    Without a master key: none. Raises UnusableMasterKey, or the driver's errors.
    """
    wanted = list(set(ids))
    if masters is None or not wanted:
        return {}
    rows = await connection.fetch(_LIVE, wanted)
    return {row["id"]: masters.unwrap(row["id"], row["master_key"], row["wrapped"]) for row in rows}
