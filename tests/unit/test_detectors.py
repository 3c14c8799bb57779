"""Detectors: what they find, what they leave, and that no text takes them long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.detectors import DETECTORS, found_in, redact, redact_all

ALL = frozenset(one.name for one in DETECTORS)
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to Ada.Lovelace+ai@example.co.uk, please", "write to [email], please"),
        ("mail:jörg@bücher.example.", "mail:[email]."),
        ("call +44 20 7946 0958 or (020) 7946 0958", "call [phone] or [phone]"),
        ("0049-30-901820, 212-555-0123", "[phone], [phone]"),
        ("card 4111 1111 1111 1111, 378282246310005", "card [card], [card]"),
        ("IBAN DE89 3704 0044 0532 0130 00 and GB29NWBK60161331926819", "IBAN [iban] and [iban]"),
        ("my key is sk-proj-abcdefghijklmnop1234", "my key is [key]"),
        ("AKIAIOSFODNN7EXAMPLE ghp_abcdefghijklmnopqrstuvwxyz0123456789", "[key] [key]"),
        (f"Authorization: Bearer {JWT}", "Authorization: Bearer [key]"),
        ("-----BEGIN RSA PRIVATE KEY-----\nMIIEow+/=\n-----END RSA PRIVATE KEY-----\nend", "[key]\nend"),
    ],
)
def test_what_is_private_is_replaced(text: str, redacted: str) -> None:
    assert redact(text) == redacted
    assert redact(redacted) == redacted, "twice is once"


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # the check digit is wrong
        "order 1234567890123456 of 2026-11-24, 12:30:59",
        "DE00 3704 1044 1532 1130 10",
        "an @mention, a.b@c, user@localhost",
        "version 10.4.3.2, pi is 3.14159265358979, 1,000,000 tokens",
        "sk-short, the skeleton key",
        "6ba7b814-5b1d-5e3c-9f0a-736b656c6469",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert redact(text) == text
    assert not found_in(text, ALL)


def test_every_text_of_a_json_value() -> None:
    value = {"a@b.example": [{"text": "+49 30 901820"}, 4111111111111111, None, True]}
    assert redact_all(value) == {"[email]": [{"text": "[phone]"}, 4111111111111111, None, True]}
    assert found_in(value, ALL) == {"email": 1, "phone": 1}
    assert found_in(value, frozenset({"phone"})) == {"phone": 1}
    assert not found_in({"n": "4111 1111 1111 1111"}, frozenset({"phone"})), "a card is no phone"


@settings(max_examples=200, deadline=None)
@given(st.text(), st.text())
def test_whatever_stands_around_it(before: str, after: str) -> None:
    assert "ada@example.com" not in redact(f"{before} ada@example.com {after}")
    assert "4111111111111111" not in redact(f"{before} 4111111111111111 {after}")
    assert "sk-abcdefghijklmnopqrst" not in redact(f"{before} sk-abcdefghijklmnopqrst {after}")


@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "1",
        "1 ",
        "+1",
        "a@",
        "a.",
        "@a.",
        "A1",
        "sk-",
        "eyJ",
        "eyJaaaaaaaa.",
        "-----BEGIN ",
        "(12) ",
        "0-1",
        "DE89 ",
    ],
)
def test_a_hostile_text_takes_time_in_proportion(unit: str) -> None:
    """Time of the processor, not of the clock: others use the machine, too. They slow it down besides, so each length
    is measured until its best is good enough, in turns."""

    def seconds(length: int) -> float:
        text = unit * (length // len(unit))
        began = time.process_time()
        found_in(text, ALL)
        return time.process_time() - began

    def is_in_proportion() -> bool:
        return min(large) < 40 * min(small) + 0.05

    small, large = list[float](), list[float]()
    while len(small) < 3 or (len(small) < 12 and not is_in_proportion()):
        small.append(seconds(20_000))
        large.append(seconds(160_000))
    assert is_in_proportion(), "eight times the length: not sixty-four times the time"
