"""The audit bites: a sound run passes every line, and each doctored account is found by the line that is meant to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.chaos.audit import CHECKS, audit
from tests.chaos.evidence import POISON, Call, Event, Evidence, Letter, Pause, Request, Switch
from tests.chaos.provider import MOODS, behaviour, charge, reply_of
from tests.chaos.schedule import DECK, schedule

TENANT, USER = "tenant", "user"
SECOND_MS = 1000
CAP = 100


def event(kind: str, at_s: int, task: str, name: str, **data: Any) -> Event:
    stream = "decisions" if kind in ("task.allowed", "reservation.ended") else "outcomes"
    at_ms = at_s * SECOND_MS
    return Event(name, stream, (at_ms, 0), kind, task, TENANT, USER, at_ms, data)


def balance(spent: int, reserved: int) -> list[dict[str, Any]]:
    return [{"window": "month", "spent": spent, "reserved": reserved, "cap": CAP}]


def answered(task: str, at_s: int) -> list[Event]:
    """A task that was called for 10 of the 20 that were reserved."""
    decision, attempt = f"{task}-d", f"{task}-a"
    of = {"decision_id": decision, "attempt_id": attempt}
    return [
        event("task.submitted", at_s, task, f"{task}-s"),
        event("task.allowed", at_s + 1, task, decision, balances=balance(0, 20)),
        event("attempt.started", at_s + 2, task, f"{task}-b", executor="executor-7-x", **of),
        event("task.succeeded", at_s + 4, task, f"{task}-e", provider_attempted=True, usage={"cost": 10}, **of),
        event("reservation.ended", at_s + 5, task, f"{task}-r", reservation_id=decision, how="settled", settled=10,
              balances=balance(10, 0)),
    ]  # fmt: skip


def uncertain(task: str, at_s: int) -> list[Event]:
    """A task that timed out; the provider charged 5 all the same. Its allow is the second entry of a millisecond of its
    stream, and the attempt the first of the same one of another."""
    decision, attempt = f"{task}-d", f"{task}-a"
    of = {"decision_id": decision, "attempt_id": attempt}
    allowed = event("task.allowed", at_s + 2, task, decision, balances=balance(10, 20))
    return [
        event("task.submitted", at_s, task, f"{task}-s"),
        replace(allowed, order=(allowed.order[0], 1)),
        event("attempt.started", at_s + 2, task, f"{task}-b", executor="executor-8-x", **of),
        event("task.failed", at_s + 4, task, f"{task}-e", spend="uncertain", usage={"cost": 0}, **of),
        event("reservation.ended", at_s + 5, task, f"{task}-r", reservation_id=decision, how="held", settled=20,
              balances=balance(10, 20)),
    ]  # fmt: skip


def request(task: str, status: str) -> Request:
    final = {"status": status, "output_text": task}
    return Request(TENANT, USER, f"{task}-id", "route", task, {}, True, 2, 0, [dict(final)], final)


def sound() -> Evidence:
    return Evidence(
        events=[*answered("one", 10), *uncertain("two", 20)],
        calls=[Call(12_500, "one", "one-a", "answers", 10), Call(22_500, "two", "two-a", "late", 5)],
        requests=[request("one", "success"), request("two", "failed")],
        rows=[(TENANT, "app.route", "one-id"), (TENANT, "app.route", "two-id")],
        holds={"two-d": "held"},
        switches=[Switch(None, 13_000, 19_000)],
        letters=[Letter("skeldir:inbox", "1-0", "no task", f"{POISON}1")],
        poison=frozenset({f"{POISON}1"}),
        commands={"verify": 0},
    )


Doctor = Callable[[Evidence], Evidence]


def without(kind: str) -> Doctor:
    return lambda seen: replace(seen, events=[one for one in seen.events if one.type != kind])


def changed(name: str, **data: Any) -> Doctor:
    """One event says something else."""

    def doctor(seen: Evidence) -> Evidence:
        return replace(
            seen, events=[replace(one, data={**one.data, **data}) if one.id == name else one for one in seen.events]
        )

    return doctor


def moved(name: str, at_ms: int) -> Doctor:
    """One event stands elsewhere in the log."""

    def doctor(seen: Evidence) -> Evidence:
        return replace(
            seen,
            events=[replace(one, order=(at_ms, 0), time_ms=at_ms) if one.id == name else one for one in seen.events],
        )

    return doctor


def added(*events: Event) -> Doctor:
    return lambda seen: replace(seen, events=[*seen.events, *events])


def skewed(seen: Evidence) -> Evidence:
    """What a process wrote whose clock is wrong, and who believed it."""
    return replace(seen, events=[replace(one, time_ms=one.time_ms + 29 * 3_600_000) for one in seen.events])


def called(*calls: Call) -> Doctor:
    return lambda seen: replace(seen, calls=[*seen.calls, *calls])


def uncalled(attempt: str) -> Doctor:
    return lambda seen: replace(seen, calls=[one for one in seen.calls if one.attempt_id != attempt])


def recharged(attempt: str, nanocents: int) -> Doctor:
    def doctor(seen: Evidence) -> Evidence:
        return replace(
            seen, calls=[replace(one, charged=nanocents) if one.attempt_id == attempt else one for one in seen.calls]
        )

    return doctor


def told(**fields: Any) -> Doctor:
    """The first client noted something else."""

    def doctor(seen: Evidence) -> Evidence:
        return replace(seen, requests=[replace(seen.requests[0], **fields), *seen.requests[1:]])

    return doctor


def given(**fields: Any) -> Doctor:
    return lambda seen: replace(seen, **fields)


SECOND_END = event("task.blocked", 16, "one", "one-e2", reason="x")
RELEASED = event(
    "reservation.ended", 17, "one", "one-r2", reservation_id="one-d", how="released", settled=0, balances=[]
)
LATE_CALL = Call(14_500, "one", "one-a", "answers", 0)
STRAY = Letter("{skeldir:1}:tasks", "5-0", "cannot be read", "{}")

DOCTORED: list[tuple[str, Doctor]] = [
    ("accepted = ended", without("task.succeeded")),
    ("accepted = ended", told(final={"status": "pending"}, answers=[])),
    ("accepted = ended", added(event("task.submitted", 30, "three", "three-s"))),
    ("ended once", added(SECOND_END)),
    ("calls were allowed", called(Call(30_000, "four", "four-a", "answers", 0))),
    ("calls were allowed", without("task.allowed")),
    ("calls were allowed", moved("one-b", 12_600)),
    ("calls were allowed", moved("one-d", 12_100)),
    ("attempts called once", called(Call(12_700, "one", "one-a", "answers", 0))),
    ("costs agree", recharged("one-a", 11)),
    ("costs agree", uncalled("one-a")),
    ("costs agree", changed("one-e", usage={"cost": 9})),
    ("reservations agree", changed("one-r", settled=9)),
    ("reservations agree", changed("one-r", how="released", settled=0)),
    ("unreceived are open", uncalled("one-a")),
    ("overshoot 0", changed("two-d", balances=balance(90, 20))),
    ("leaked 0", without("reservation.ended")),
    ("leaked 0", given(holds={"two-d": "held", "one-d": "live"})),
    ("leaked 0", given(holds={})),
    ("leaked 0", changed("two-r", how="released", settled=0)),
    ("reservations end once", added(RELEASED)),
    ("duplicates 0", given(rows=[(TENANT, "app.route", "one-id")] * 2)),
    ("duplicates 0", told(conflicts=1)),
    ("duplicates 0", told(answers=[{"status": "success", "output_text": "another"}])),
    ("switches hold", called(LATE_CALL)),
    ("dead letters", given(letters=[STRAY])),
    ("dead letters", given(letters=[])),
    ("clocks agree", skewed),
    ("verified", given(commands={"verify": 1})),
]


def found(evidence: Evidence) -> set[str]:
    return {line.name for line in audit(evidence) if line.findings}


def test_a_sound_run_passes_and_every_line_looked_at_something() -> None:
    lines = audit(sound())
    assert [(line.name, line.findings) for line in lines if line.findings] == []
    assert {line.name for line in lines if not line.counted} == {"unreceived are open"}


@pytest.mark.parametrize(("line", "doctor"), DOCTORED, ids=[f"{n} {line}" for n, (line, _) in enumerate(DOCTORED)])
def test_a_doctored_account_is_found(line: str, doctor: Doctor) -> None:
    assert line in found(doctor(sound()))


def test_every_line_has_its_doctor() -> None:
    assert {line for line, _ in DOCTORED} == set(CHECKS)


def test_a_paused_executor_is_given_its_pause_and_no_more() -> None:
    after_long_pause = called(LATE_CALL)(sound())
    assert "switches hold" not in found(replace(after_long_pause, pauses=[Pause(7, 13_100, 14_400)]))
    assert "switches hold" in found(replace(after_long_pause, pauses=[Pause(8, 13_100, 14_400)]))
    assert "switches hold" in found(replace(after_long_pause, pauses=[Pause(7, 13_100, 13_300)]))
    away = replace(after_long_pause, troubles=[(12_000, 15_000)])
    assert "switches hold" not in found(away)
    assert "switches hold" in found(called(replace(LATE_CALL, at_ms=16_500))(away))


def test_a_late_result_makes_an_attempt_certain() -> None:
    of = {"decision_id": "two-d", "attempt_id": "two-a"}
    resolved = event("attempt.resolved", 26, "two", "two-l", spend="certain", usage={"cost": 5}, **of)
    settled = event(
        "reservation.ended", 27, "two", "two-r2", reservation_id="two-d", how="settled", settled=5, balances=[]
    )
    late = added(resolved, settled)(sound())
    assert found(late) == {"leaked 0"}, "policy still keeps the hold"
    assert found(replace(late, holds={})) == set()


def test_a_seed_gives_its_schedule_and_a_round_has_every_fault() -> None:
    faults = schedule(7, 60.0, 1.0)
    assert faults == schedule(7, 60.0, 1.0) != schedule(8, 60.0, 1.0)
    assert sorted((one.kind, one.target) for one in faults[: len(DECK)]) == sorted(DECK)
    assert all(one.at_s + one.lasts_s <= 60.0 + 0.002 for one in faults)


def test_the_provider_charges_what_it_answers() -> None:
    kinds = {kind for mood in MOODS.values() for kind in mood}
    for kind in kinds:
        assert (charge(kind, (10, 20)) > 0) == (reply_of(kind, (10, 20)).status == 200), kind
    assert behaviour(1, "a", "calm") == behaviour(1, "a", "calm")
    assert {behaviour(1, str(n), "failing") for n in range(200)} == set(MOODS["failing"])
