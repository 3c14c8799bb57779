"""Which key a call goes out with, and which one rests."""

from __future__ import annotations

import pytest

from services.executor.providers.keys import Keys, keys_in
from services.executor.providers.protocol import ProviderFailure


class Watch:
    """A clock that the test turns."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def refused(status: int, retry_after_s: float | None = None) -> ProviderFailure:
    return ProviderFailure("X", status=status, retry_after_s=retry_after_s, retry=status == 429)


def test_a_variable_holds_one_key_or_several() -> None:
    assert (keys_in("a"), keys_in(" a, b,,"), keys_in(""), keys_in(None)) == (["a"], ["a", "b"], [], [])


def test_keys_take_turns() -> None:
    keys = Keys(["a", "b", "c"])
    assert [keys.take() for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize(
    ("status", "after_s", "rest_s"), [(401, None, 60), (403, None, 60), (429, 7, 7), (429, None, 1)]
)
def test_a_key_that_was_refused_rests_and_another_is_tried_at_once(
    status: int, after_s: float | None, rest_s: float
) -> None:
    watch = Watch()
    keys = Keys(["a", "b"], watch)
    failure = keys.learn(keys.take(), refused(status, after_s))
    assert (failure.retry, failure.retry_after_s) == (True, 0.0)
    assert [keys.take() for _ in range(3)] == [1, 1, 1]
    watch.now_s += rest_s
    assert {keys.take(), keys.take()} == {0, 1}


def test_where_all_rest_the_one_that_wakes_first_is_taken_and_the_wait_is_what_was_asked() -> None:
    keys = Keys(["a", "b"], Watch())
    keys.learn(0, refused(429, 5))
    last = keys.learn(1, refused(429, 9))
    assert (last.retry, last.retry_after_s) == (True, 9)
    assert [keys.take() for _ in range(2)] == [0, 0]


def test_the_only_key_is_not_tried_again_for_a_refusal() -> None:
    keys = Keys(["a"], Watch())
    assert not keys.learn(0, refused(401)).retry and keys.take() == 0


@pytest.mark.parametrize("status", [400, 404, 500, 503, None])
def test_what_is_not_the_keys_fault_lets_no_key_rest(status: int | None) -> None:
    keys = Keys(["a", "b"], Watch())
    failure = keys.learn(0, ProviderFailure("X", status=status))
    assert not failure.retry and [keys.take() for _ in range(2)] == [0, 1]


def test_no_key_is_told() -> None:
    keys = Keys(["abcdef", "ghijkl"])
    assert keys.redacted("abcdef or ghijkl") == "[redacted] or [redacted]"
