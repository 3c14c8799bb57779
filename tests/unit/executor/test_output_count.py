"""How many tokens came: a lower bound to cut by, and an upper bound to pay by."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.executor.output_count import BYTES_AT_ALL, BYTES_OF_A_PIECE, OutputCount
from shared.responses import events_of, response

# The bound rests on tokens having no more bytes than that on average: so these have none with more.
TOKEN = st.text(min_size=1, max_size=BYTES_OF_A_PIECE).filter(lambda token: len(token.encode()) <= BYTES_AT_ALL)
TOKENS = st.lists(TOKEN, max_size=60)


def count_of(*deltas: Any, usage: Any = None) -> OutputCount:
    count = OutputCount()
    for delta in deltas:
        count.add({"choices": [{"delta": delta}], "usage": usage})
    return count


@given(TOKENS, st.integers(1, 5))
def test_the_truth_lies_between_however_many_tokens_a_piece_has(tokens: list[str], together: int) -> None:
    pieces = ["".join(tokens[at : at + together]) for at in range(0, len(tokens), together)]
    count = count_of(*({"content": piece} for piece in pieces))
    assert count.at_least <= len(tokens) <= count.at_most


def test_an_answer_cut_up_letter_by_letter_is_not_taken_for_so_many_tokens() -> None:
    words = " ".join(["several"] * 50)
    assert count_of(*({"content": letter} for letter in words)).at_least <= 50


def test_everything_that_the_model_wrote_counts() -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": "x" * 160}}
    texts = [{name: "x" * 160} for name in ("content", "reasoning_content", "refusal")]
    for delta in ({"tool_calls": [call]}, *texts):
        assert count_of(delta).at_least >= 10 and count_of(delta).at_most >= 160
    assert count_of({"role": "assistant"}, {}, None, "odd").at_least == 0


def test_what_the_provider_states_counts() -> None:
    assert count_of({"content": "x"}, usage={"completion_tokens": 900}).at_least == 900
    assert count_of({"content": "x"}, usage={"completion_tokens": "many"}).at_least == 0


def test_events_of_a_response_are_counted_by_their_deltas_and_by_what_it_states() -> None:
    count = OutputCount()
    for event in events_of(response("1", "m", "x" * 400, 5, 70, 0), ["x" * 40] * 10):
        if event["type"] == "response.completed":
            assert count.at_least == 25 and count.at_most >= 400
        count.add(event)
    assert count.at_least == 70
