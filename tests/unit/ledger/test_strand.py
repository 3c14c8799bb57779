"""A chain while the table is read: any order of reading that is nearly right gives the same, and so does going on."""

from __future__ import annotations

import random
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from services.ledger.audit import order
from services.ledger.audit.strand import End, Mark, Strand
from services.ledger.chain.link import COLUMNS, link, start
from services.ledger.chain.walk import Broken, Place

CHAIN, LENGTH = 3, 400
Row = dict[str, Any]


def chain(length: int = LENGTH) -> list[Row]:
    """Rows as the ledger appends them."""
    rows, before = [], start(CHAIN)
    for number in range(1, length + 1):
        row: Row = dict.fromkeys(COLUMNS)
        at = datetime.fromtimestamp(number, UTC)
        row |= {"id": UUID(int=number), "partition": CHAIN, "stream": "s", "entry_id": f"{number}-0", "time": at}
        row |= {"type": "t", "version": 1, "subject": "x", "body": "{}"}
        before = link(before, tuple(row[name] for name in COLUMNS))
        rows.append({**row, "seq": 10 * number, "chain_no": number, "chain_hash": before})
    return rows


def strand(rows: list[Row], mark: Mark | None = None) -> Strand:
    return Strand(CHAIN, End(len(rows), rows[-1]["chain_hash"], 0), {}, mark)


def found(one: Strand, rows: Iterable[Row], page: int = 7) -> list[str]:
    """What is named of these rows, read page by page."""
    read = list(rows)
    said = [broken for at in range(0, len(read), page) for broken in one.take(read[at : at + page])]
    return subjects([*said, *one.rest(), *one.finish(None)])


def subjects(said: Iterable[Broken]) -> list[str]:
    return [one.subject.removeprefix(f"partition {CHAIN} ") for one in said]


@pytest.fixture(autouse=True)
def window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "WINDOW", 50)


def test_sound_rows_are_sound_in_any_order_within_the_window() -> None:
    rows = chain()
    assert found(strand(rows), rows) == []
    dice = random.Random(1)
    nearly = sorted(rows, key=lambda row: row["chain_no"] + dice.randrange(40))
    assert nearly != rows
    assert found(strand(rows), nearly) == []


def test_a_row_that_is_missing_is_one_finding_wherever_the_chain_goes_on() -> None:
    rows = chain()
    assert found(strand(rows), rows[:99] + rows[100:]) == ["row 100"]


def test_a_number_that_was_moved_far_does_not_take_the_others_along() -> None:
    rows = chain()
    moved = [{**row, "chain_no": 10**9} if row["chain_no"] == 100 else row for row in rows]
    assert found(strand(rows), moved)[:2] == ["row 100", "row 401"]
    inside = [{**row, "chain_no": 300} if row["chain_no"] == 100 else row for row in rows]
    named = found(strand(rows), inside)
    assert named[0] == "row 100" and set(named[1:]) == {"row 300", "row 301"}


def test_a_row_that_is_read_long_after_its_turn_is_named() -> None:
    rows = chain()
    late = rows[:99] + rows[100:300] + [rows[99]] + rows[300:]
    assert found(strand(rows), late) == ["row 100", "row 100"]


@pytest.mark.parametrize("cut", [1, 60, 139, 140, 141, 399])
def test_going_on_from_a_mark_finds_the_rest_and_counts_each_row_once(cut: int) -> None:
    """Wherever it was left; rows that waited at the time are read again."""
    rows = chain()
    kept = [row for row in rows if row["chain_no"] not in (100, 200)]
    swapped = [*kept[:130], kept[150], *kept[130:150], *kept[151:]]  # one comes before its turn
    by_number = [{**row, "seq": number} for number, row in enumerate(swapped, start=1)]
    whole = strand(rows)
    expected = found(whole, by_number)
    first = strand(rows)
    said = subjects(first.take(by_number[:cut]))
    mark = first.mark(cut)
    second = strand(rows, mark)
    said += found(second, [row for row in by_number if row["seq"] > mark.after])
    assert said == expected == ["row 100", "row 200"]
    assert second.rows == whole.rows == len(kept)


def test_a_chain_that_the_books_do_not_know_is_named() -> None:
    rows = chain(3)
    unknown = Strand(CHAIN, None, {}, Mark(Place(0, start(CHAIN))))
    assert [*unknown.take(rows)] == []
    (said,) = unknown.finish(None)
    assert said.problem == "3 rows of a chain that was never begun"
