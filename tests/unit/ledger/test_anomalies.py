"""What is marked as unusual: much, for long enough known hours, whatever single days were like."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.anomalies import DAYS, FAR, LEAST, LEAST_DAYS, Seen, anomalies, compared, scored

NOW = datetime(2026, 11, 26, 15, 30, tzinfo=UTC)  # a Thursday
HOUR = NOW.replace(minute=0)
CENTS = st.decimals(0, 10**6, places=3)
PAST = st.lists(CENTS, min_size=LEAST_DAYS, max_size=DAYS)
ENDED = HOUR - timedelta(hours=1)


def days(usual: Seen, before: datetime, count: int = DAYS) -> dict[datetime, Seen]:
    """Every hour of the days before that one, each the same."""
    return {before - timedelta(hours=number): usual for number in range(24 * count + 1)}


def marked(seen: dict[datetime, Seen]) -> list[tuple[datetime, str, bool]]:
    """The anomalies of the last three hours: which, of what, and whether it was too much."""
    return [(one.hour, one.what, one.score > 0) for one in anomalies(seen, NOW - timedelta(hours=2), NOW)]


def test_what_is_as_ever_is_not_marked() -> None:
    assert marked(days(Seen(Decimal(5000), Decimal(100)), HOUR)) == []
    assert marked({}) == []


def test_far_more_and_far_less_are_marked() -> None:
    seen = days(Seen(Decimal(5000), Decimal(100)), HOUR)
    assert marked({**seen, ENDED: Seen(Decimal(9000), Decimal(100))}) == [(ENDED, "spend", True)]
    assert marked({**seen, ENDED: Seen(Decimal(5000), Decimal(160))}) == [(ENDED, "failures", True)]
    assert marked({**seen, ENDED: Seen(Decimal(10), Decimal(0))}) == [(ENDED, "spend", False)], "few failures are good"


def test_an_hour_that_has_not_ended_may_still_come_to_its_usual() -> None:
    seen = days(Seen(Decimal(5000)), ENDED)
    assert marked({**seen, HOUR: Seen(Decimal(10))}) == []
    assert marked({**seen, HOUR: Seen(Decimal(9000))}) == [(HOUR, "spend", True)]


def test_what_is_small_is_no_news() -> None:
    seen = days(Seen(Decimal(1)), HOUR)
    assert marked({**seen, ENDED: Seen(Decimal(1) + LEAST["spend"])}) == []
    assert marked({**seen, ENDED: Seen(Decimal(2) + LEAST["spend"])}) == [(ENDED, "spend", True)]


def test_of_a_few_days_nothing_is_usual() -> None:
    wild = {ENDED: Seen(Decimal(10**6))}
    assert marked({**days(Seen(), ENDED, LEAST_DAYS - 3), **wild}) == []
    assert marked({**days(Seen(), ENDED, LEAST_DAYS + 2), **wild}) == [(ENDED, "spend", True)]


def test_a_quiet_weekend_is_as_weekends_are() -> None:
    saturday = HOUR + timedelta(days=2)
    seen = days(Seen(Decimal(5000)), saturday)
    seen |= {hour: Seen(Decimal(50)) for hour in seen if hour.weekday() >= 5}
    judged = [one.hour for one in anomalies(seen, saturday - timedelta(days=6), saturday + timedelta(minutes=30))]
    assert judged == [], "neither the days before nor the Saturday"


@given(PAST, CENTS, CENTS)
def test_more_is_never_less_unusual(past: list[Decimal], one: Decimal, other: Decimal) -> None:
    low, high = sorted((one, other))
    assert scored(low, past, Decimal(1))[1] <= scored(high, past, Decimal(1))[1]


@given(PAST, CENTS, st.randoms(use_true_random=False), st.integers(1, 1000))
def test_neither_order_nor_currency_matters(past: list[Decimal], value: Decimal, random: object, rate: int) -> None:
    shuffled = list(past)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert scored(value, shuffled, Decimal(1)) == scored(value, past, Decimal(1))
    usual, score = scored(value * rate, [one * rate for one in past], Decimal(rate))
    assert abs(score - scored(value, past, Decimal(1))[1]) < Decimal("1e-9")
    assert usual == scored(value, past, Decimal(1))[0] * rate


@given(PAST, st.data())
def test_a_few_wild_days_do_not_hide_the_next(past: list[Decimal], data: st.DataObject) -> None:
    """Fewer than half of the days, however wild, leave the usual within what the other days were."""
    wild = data.draw(st.lists(CENTS, max_size=(len(past) - 1) // 2))
    usual, _ = scored(Decimal(0), [*past[len(wild) :], *wild], Decimal(1))
    calm = past[len(wild) :]
    assert min(calm) <= usual <= max(calm)


@given(PAST, CENTS, st.decimals(1, 10**4, places=2))
def test_what_is_marked_differs_by_the_least_at_least(past: list[Decimal], value: Decimal, least: Decimal) -> None:
    usual, score = scored(value, past, least)
    if abs(score) > FAR:
        assert abs(value - usual) > least * Decimal("0.999999")
        assert abs(value - usual) > usual * Decimal("0.499999")


@given(st.dictionaries(st.integers(0, 24 * (DAYS + 2)), st.integers(0, 3), min_size=1), st.integers(0, 60))
def test_what_is_compared_and_the_first_hour_are_enough(spent: dict[int, int], more: int) -> None:
    """Nobody has to read the hours between."""
    seen = {HOUR - timedelta(hours=back): Seen(Decimal(1000 * cents)) for back, cents in spent.items()}
    since = NOW - timedelta(hours=more)
    asked = compared(since, NOW) | {min(seen)}
    assert anomalies({hour: seen[hour] for hour in seen if hour in asked}, since, NOW) == anomalies(seen, since, NOW)
