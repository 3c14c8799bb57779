"""Whatever a provider sends becomes text and JSON that PostgreSQL takes."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from services.ledger.projections import storable

anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.text(st.characters(codec=None)))
def test_text_is_utf8_without_nul(value: str) -> None:
    stored = storable.text(value)
    assert "\x00" not in stored
    stored.encode()


@given(st.text(st.characters(codec="utf-8", exclude_characters="\x00")))
def test_sound_text_stays_as_it_is(value: str) -> None:
    assert storable.text(value) == value


@given(anything)
def test_documents_have_no_nul(value: Any) -> None:
    stored = storable.document(value)
    assert "\\u0000" not in stored.replace("\\\\", "")
    stored.encode()
    json.loads(stored)


def test_a_backslash_is_not_a_nul() -> None:
    assert json.loads(storable.document({"path": "\\u0000"})) == {"path": "\\u0000"}


def test_nul_and_surrogates_in_keys_and_values() -> None:
    assert json.loads(storable.document({"a\x00": ["b\ud800c"]})) == {"a\ufffd": ["b\ufffdc"]}


def test_a_document_that_is_too_deep_says_so() -> None:
    value: Any = "bottom"
    for _ in range(100_000):
        value = [value]
    assert "unstorable" in json.loads(storable.document(value))
