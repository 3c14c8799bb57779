"""A fold whose rows are looked at when they rest: the same rows, whenever they are looked at."""

from __future__ import annotations

import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.ledger.projections.at_rest import Folding
from services.ledger.projections.rows import Tables, fold
from tests.unit.ledger.history import NAMES, Op, patches, play

ops = st.lists(st.tuples(st.sampled_from(NAMES), st.integers(0, 9), st.integers(0, 20)), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.randoms(use_true_random=False))
def test_what_rests_and_is_kept_until_it_is_finished_is_the_fold(history_ops: list[Op], chance: random.Random) -> None:
    """A row is given once for all when it is finished, and goes on from where it was when it is not."""
    history = play(history_ops)
    every = patches(history.records() + history.control_records(), set())
    whole, folding = fold(every), Folding()
    given_: Tables = {}
    for patch in every:
        folding.take([patch])
        if chance.random() < 0.3:
            look(folding, whole, given_)
    look(folding, whole, given_)
    look(folding, whole, given_)
    for name, key, _ in folding.kept():
        assert key in given_[name], "it was finished before an event came that changes nothing in it"
    assert {name: rows for name, rows in given_.items() if rows} == whole


def look(folding: Folding, whole: Tables, given_: Tables) -> None:
    """Take what rests, and is as it will be in the end."""
    for name, rows in folding.turn().items():
        for key, row in rows.items():
            if row == whole[name][key]:
                given_.setdefault(name, {})[key] = row
            else:
                folding.keep(name, key, row)


def test_only_what_was_not_touched_in_a_whole_turn_rests() -> None:
    history = play([("submit", 0, 1), ("submit", 1, 1)])
    first, second, *_ = [one for one in patches(history.records(), set()) if one.table.name == "llm_api_calls"]
    folding = Folding()
    folding.take([first, second])
    assert folding.size == 1
    assert folding.turn() == {}
    assert folding.size == 0
    folding.take([second])
    assert folding.turn() == {"llm_api_calls": {}}, "it was touched in this turn"
    at_rest = folding.turn()
    assert list(at_rest["llm_api_calls"]) == [second.table.key_of(second.row)]
