"""Texts at rest: what is hidden, what stays, and who can open it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from shared.texts.cipher import DataKey, decrypt, encrypt, key_of, keys_in, new_secret
from shared.texts.master_key import (
    MasterKeys,
    UnusableMasterKey,
    new_master_key,
    parse_master_keys,
    read_master_keys,
)
from shared.texts.payload import ENCRYPTED, ERASED, decrypted, encrypted, has_texts
from shared.texts.row import keys_of_row, readable_row

KEY = DataKey(UUID(int=1), b"k" * 64)
TASK = str(UUID(int=7))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=5), inner, max_size=3),
    max_leaves=10,
)


def event(prompt: dict[str, Any], **said: Any) -> dict[str, Any]:
    return {"task": {"task_id": TASK, "request_id": "r", "prompt": prompt}, **said}


@given(st.dictionaries(st.text("abc", min_size=1), JSON, max_size=4), st.text("xyz\u00e4\x00"))
def test_with_the_key_it_is_as_it_was(prompt: dict[str, Any], text: str) -> None:
    before = event(prompt, output_text=text, detail=text, reasoning_trace=prompt, response_metadata=None)
    assert decrypted(encrypted(before, KEY), {KEY.id: KEY}) == before


def test_what_the_system_reads_stays_and_texts_do_not() -> None:
    prompt = {"model": "stub:m", "max_tokens": 5, "stream": True, "text": "secret", "messages": [{"content": "secret"}]}
    hidden = encrypted(
        event(prompt, output_text="secret", response_metadata={"boundary_id": "b", "say": "secret"}), KEY
    )
    assert "secret" not in json.dumps(hidden)
    kept = dict(hidden["task"]["prompt"])
    assert key_of(kept.pop(ENCRYPTED)) == KEY.id
    assert kept == {"model": "stub:m", "max_tokens": 5, "stream": True}
    assert hidden["response_metadata"]["boundary_id"] == "b"
    gone = decrypted(hidden, {})
    assert gone["task"]["prompt"] == {**kept, ERASED: True} and gone["output_text"] == ""


def test_a_ciphertext_opens_in_its_place_only() -> None:
    token = encrypt(KEY, TASK, "output_text", b"hello")
    assert decrypt(KEY, TASK, "output_text", token) == b"hello"
    assert encrypt(KEY, TASK, "output_text", b"hello") == token, "an event taken in again is the same event"
    assert decrypt(KEY, str(UUID(int=8)), "output_text", token) is None
    assert decrypt(KEY, TASK, "detail", token) is None
    assert decrypt(DataKey(KEY.id, new_secret()), TASK, "output_text", token) is None
    assert decrypt(DataKey(uuid4(), KEY.secret), TASK, "output_text", token) is None
    assert list(keys_in(f'{{"a": "{token}"}}')) == [KEY.id]
    assert encrypt(KEY, str(UUID(int=8)), "output_text", b"hello") != token


def test_a_text_that_looks_like_a_token_is_left_alone() -> None:
    assert key_of("skeldir:encrypted:1:nonsense") is None
    assert decrypted(event({"text": "x"}, output_text="skeldir:encrypted:1:z"), {})["output_text"].endswith(":z")


def test_a_row_is_readable_with_its_keys_alone() -> None:
    hidden = encrypted(event({}, output_text="hello", reasoning_trace={"text": "why"}), KEY)
    row = {
        "id": UUID(TASK),
        "output_text": hidden["output_text"],
        "failure_detail": None,
        "reasoning_trace_ref": hidden["reasoning_trace"],
        "response_metadata_ref": {"rule": "monthly"},
    }
    assert keys_of_row(row) == {KEY.id}
    assert readable_row(row, {KEY.id: KEY}) == {**row, "output_text": "hello", "reasoning_trace_ref": {"text": "why"}}
    assert readable_row(row, {}) == {**row, "output_text": None, "reasoning_trace_ref": {ERASED: True}}


def test_nothing_to_hide_is_nothing_to_do() -> None:
    class Nothing(BaseModel):
        task: None = None
        output_text: str = ""

    assert not has_texts(Nothing())
    assert encrypted(event({}, output_text=""), KEY) == event({}, output_text="")


def test_the_first_master_key_wraps_and_all_of_them_open(tmp_path: Path) -> None:
    old, new = new_master_key(), new_master_key()
    before = parse_master_keys(old)
    wrapped = before.wrap(KEY)
    assert KEY.secret not in wrapped and before.wrap(KEY) != wrapped
    file = tmp_path / "master-key"
    file.write_text(new + old)
    both = read_master_keys(file, None)
    assert isinstance(both, MasterKeys) and both.current != before.current
    assert both.unwrap(KEY.id, before.current, wrapped) == KEY
    with pytest.raises(UnusableMasterKey, match="not among those given"):
        parse_master_keys(new).unwrap(KEY.id, before.current, wrapped)
    with pytest.raises(UnusableMasterKey, match="does not open"):
        before.unwrap(uuid4(), before.current, wrapped)
    assert str(KEY.secret) not in repr(KEY) and "by_name" not in repr(both)


def test_a_command_may_give_the_master_key(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text(new_master_key())
    assert read_master_keys(None, f"cat {file}") == read_master_keys(file, None)
    assert read_master_keys(None, None) is None
    for command in ("false", "no-such-command-here", "'"):
        with pytest.raises(UnusableMasterKey, match="command failed"):
            read_master_keys(None, command)


@pytest.mark.parametrize(("text", "problem"), [("", "is empty"), ("a2V5", "line 1"), ("!!", "line 1")])
def test_what_is_no_master_key_is_named(text: str, problem: str) -> None:
    with pytest.raises(UnusableMasterKey, match=problem):
        parse_master_keys(text)
