"""A tenant's month: its lines sum to what the books say, and the books to the events; nobody else's are in it."""

from __future__ import annotations

import csv
from datetime import UTC, date, datetime
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import uuid4

import pytest

from services.ledger import books
from services.ledger.statements import HEADER, DoesNotAddUp, Statement, as_csv, as_page, lines_of, statement
from shared.money import to_cents
from skeldir.embedded import EmbeddedPostgres
from tests.integration.ledger.conftest import FULL, Bench


async def test_the_months_of_a_tenant_sum_to_its_events(
    bench: Bench, as_ledger: Any, as_superuser: Any, postgres: EmbeddedPostgres
) -> None:
    history = bench.history(FULL)
    records = history.records() + history.control_records()
    await books.commit(as_ledger, {}, {}, records)
    # From the words of the events themselves.
    paid = await as_superuser.fetchval(
        "SELECT sum((body::jsonb -> 'data' ->> 'settled')::bigint) FROM events "
        "WHERE tenant_id = $1 AND type = 'reservation.ended' AND body::jsonb -> 'data' ->> 'how' = 'settled'",
        bench.tenant,
    )
    months = await as_superuser.fetch("SELECT DISTINCT month FROM llm_monthly_costs WHERE tenant_id = $1", bench.tenant)
    found = [await statement(postgres.url("skeldir_owner"), bench.tenant, row["month"]) for row in months]
    assert paid and sum((one.cost_cents for one in found), Decimal(0)) == to_cents(int(paid))
    assert {line.user_id for one in found for line in one.lines} == set(bench.users)
    for one in found:
        rows = list(csv.reader(StringIO(as_csv(one))))
        assert tuple(rows[0]) == HEADER and sum(Decimal(row[-1]) for row in rows[1:]) == one.cost_cents
        assert sum(int(row[-2]) for row in rows[1:]) == one.calls
    nobodys = await statement(postgres.url("skeldir_owner"), uuid4(), months[0]["month"])
    assert not nobodys.lines and not nobodys.cost_cents and not nobodys.held_cents


async def test_books_that_contradict_themselves_make_no_statement(
    bench: Bench, as_superuser: Any, postgres: EmbeddedPostgres
) -> None:
    await as_superuser.execute(
        "INSERT INTO llm_monthly_costs VALUES ($1, $2, '2020-02-01', 3, 2, "
        """'{"stub:a": {"calls": 2, "cost_cents": 2.999999999}}', now())""",
        bench.tenant,
        bench.users[0],
    )
    try:
        with pytest.raises(DoesNotAddUp, match=r"3 cents, their models 2 and 2\.999999999"):
            await statement(postgres.url("skeldir_owner"), bench.tenant, date(2020, 2, 1))
    finally:
        await as_superuser.execute("DELETE FROM llm_monthly_costs WHERE tenant_id = $1", bench.tenant)


async def test_the_page_says_the_sum_and_what_is_held_and_quotes_names(bench: Bench) -> None:
    models = '{"stub:<b>": {"calls": 1, "cost_cents": 0.000000001}, "stub:a": {"calls": 2, "cost_cents": 123456789.25}}'
    lines = lines_of(bench.users[0], models)
    assert [line.model for line in lines] == ["stub:a", "stub:<b>"]
    found = Statement(bench.tenant, date(2026, 11, 1), tuple(lines), Decimal("1.5"))
    page = as_page(found, datetime(2026, 12, 1, tzinfo=UTC))
    for said in ("November 2026", "1234567.89250000001 US dollars", "for 3 calls", "1.5 cents", "stub:&lt;b&gt;"):
        assert said in page
