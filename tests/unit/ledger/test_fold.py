"""Whatever the order, the batches and the repetition: the same tables."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ledger.intake import Record
from services.ledger.projections.rows import Tables, fold
from tests.unit.ledger.history import CENT, NAMES, Op, patches, play

ops = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=40)


def tables_of(batches: list[list[Record]]) -> dict[str, dict[Any, dict[str, Any]]]:
    """The rows after these batches, one after another."""
    seen: set[Any] = set()
    tables: Tables = {}
    for batch in batches:
        fold(patches(batch, seen), tables)
    return {
        name: {key: {column: value for column, value in row.items() if value is not None} for key, row in rows.items()}
        for name, rows in tables.items()
    }


def shuffled(records: list[Record], chance: random.Random) -> list[list[Record]]:
    """Any order of the events, some of them twice or thrice, cut into batches anywhere."""
    stream = records + [one for one in records if chance.random() < 0.3] * chance.choice((1, 2))
    chance.shuffle(stream)
    batches: list[list[Record]] = [[]]
    for record in stream:
        if chance.random() < 0.3:
            batches.append([])
        batches[-1].append(record)
    return batches


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.randoms(use_true_random=False))
def test_any_interleaving_and_duplication_gives_the_same_tables(history_ops: list[Op], chance: random.Random) -> None:
    history = play(history_ops)
    records = history.records() + history.control_records()
    assert tables_of(shuffled(records, chance)) == tables_of([records])


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops)
def test_the_books_balance_with_policy(history_ops: list[Op]) -> None:
    """The projections say of each user what policy believes."""
    history = play(history_ops)
    tables = tables_of([history.records()])
    budgets = tables.get("llm_monthly_budget_state", {})
    costs = tables.get("llm_monthly_costs", {})
    reservations = tables.get("llm_budget_reservations", {}).values()
    for owner in history.owners:
        account = history.account(owner)
        for month, bucket in account.months.items():
            ((_, row),) = [
                (key, row) for key, row in budgets.items() if key[1] == owner.user_id and f"{key[2]:%Y-%m}" == month
            ]
            assert (row["spent_cents"], row["reserved_cents"]) == (bucket.spent, bucket.reserved)
            live = [one for one in reservations if one["user_id"] == owner.user_id and f"{one['month']:%Y-%m}" == month]
            held = sum(one["reserved_cents"] for one in live if one.get("state", "reserved") in ("reserved", "held"))
            assert held == bucket.reserved
            cost = sum(
                row["total_cost_cents"]
                for key, row in costs.items()
                if key[1] == owner.user_id and f"{key[2]:%Y-%m}" == month
            )
            assert cost == bucket.spent


def test_every_event_of_a_call_is_in_its_row() -> None:
    history = play([("submit", 0, 2), ("succeed", 0, 8)])
    ((_, row),) = tables_of([history.records()])["llm_api_calls"].items()
    assert row["status"] == "success"
    assert row["end_attempted"] is True
    assert row["attempts"] == 1
    assert row["end_cost_cents"] == row["budget_settled_cents"] == 2 * CENT
    assert row["output_text"] == "answer 8 \ufffd"
    assert row["task_type"] == "investigation"


def test_a_row_says_which_model_was_asked_for_and_which_was_called() -> None:
    history = play([("submit", 0, 2), ("order", 0, 20), ("submit", 0, 2), ("succeed", 1, 4), ("submit", 1, 2)])
    tables = tables_of([history.records()])
    rows = sorted(tables["llm_api_calls"].values(), key=lambda row: row["created_at"])
    assert [(row["model"], row.get("requested_model")) for row in rows] == [
        ("model-0", None),
        ("model-1", "stub:model-0"),
        ("model-1", None),
    ]
    (month,) = tables["llm_monthly_costs"].values()
    assert list(month["model_breakdown"]) == ["stub:model-1"]


def test_a_late_result_is_added_once_to_call_and_month() -> None:
    """An attempt of unknown end costs nothing that is known; its late result does, once however often it comes."""
    history = play([("submit", 0, 2), ("fail", 0, 2), ("resolve", 0, 6)])
    records = history.records()
    before = tables_of([[one for one in records if one.type not in ("attempt.resolved",)][:-1]])
    assert next(iter(before["llm_monthly_costs"].values()))["total_cost_cents"] == 0
    after = tables_of([records, records])
    (month,) = after["llm_monthly_costs"].values()
    assert month["total_cost_cents"] == 2 * CENT
    assert month["total_calls"] == 1
    assert month["model_breakdown"] == {"stub:model-0": (1, 2 * CENT)}
    (reservation,) = after["llm_budget_reservations"].values()
    assert reservation["state"] == "settled"


def test_a_materialisation_is_one_row() -> None:
    history = play(
        [("submit", 0, 2), ("succeed", 0, 1), ("submit", 0, 3), ("succeed", 0, 1), ("submit", 0, 2), ("stop", 0, 1)]
    )
    tables = tables_of([history.records()] * 4)
    assert len(tables["investigations"]) == 1
    assert len(tables["budget_optimization_jobs"]) == 1


def test_a_release_ends_the_shutoff_of_the_hour_in_which_it_began() -> None:
    history = play([("order", 0, 0), ("wait", 1, 0), ("order", 0, 7)])
    rows = tables_of([history.control_records()])["llm_hourly_shutoff_state"]
    assert [row["manual_engaged"] for row in rows.values()] == [False]


def test_a_second_shutoff_in_a_later_hour_replaces_the_first() -> None:
    history = play([("order", 0, 0), ("wait", 1, 0), ("order", 0, 6)])
    rows = tables_of([history.control_records()])["llm_hourly_shutoff_state"]
    assert [row["manual_engaged"] for _, row in sorted(rows.items(), key=lambda one: one[0][2])] == [False, True]
