"""Rows while they are folded, by how lately an event touched them. Most of them come to rest soon: a call when it has
ended, an hour when it is over. So whoever folds all events holds few rows at a time. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from services.ledger.projections.rows import Key, Patch, Row, Tables, merge


class Folding:
    """The rows of a fold that goes on. `turn` gives those that no event has touched since the turn before."""

    def __init__(self) -> None:
        self._now: Tables = {}
        self._before: Tables = {}
        self._kept: Tables = {}
        self.size = 0
        """How many rows were touched in this turn."""

    def take(self, patches: Iterable[Patch]) -> None:
        """Fold them in. A row that rests, or was kept, goes on."""
        for table, row in patches:
            rows = self._now.setdefault(table.name, {})
            key = table.key_of(row)
            known = rows.get(key)
            if known is None:
                self.size += 1
                known = self._again(table.name, key)
                rows[key] = row.copy() if known is None else known
            if known is not None:
                merge(table, known, row)

    def turn(self) -> Tables:
        """The rows at rest, which are forgotten here."""
        at_rest, self._before, self._now, self.size = self._before, self._now, {}, 0
        return at_rest

    def keep(self, name: str, key: Key, row: Row) -> None:
        """Take a row at rest back: it is not finished."""
        self._kept.setdefault(name, {})[key] = row

    def kept(self) -> Iterator[tuple[str, Key, Row]]:
        """The rows that were taken back and not touched since."""
        for name, rows in self._kept.items():
            for key, row in rows.items():
                yield name, key, row

    def _again(self, name: str, key: Key) -> Row | None:
        for tables in (self._before, self._kept):
            row = tables.get(name, {}).pop(key, None)
            if row is not None:
                return row
        return None
