"""A row of `llm_api_calls`, with its texts as they were. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from shared.texts.cipher import DataKey, key_of
from shared.texts.payload import ENCRYPTED, is_closed, open_text, open_tree

_TEXTS = {"output_text": "output_text", "failure_detail": "detail"}
_TREES = {"reasoning_trace_ref": "reasoning_trace", "response_metadata_ref": "response_metadata"}
"""Columns, and the members of the event that they come from."""


def keys_of_row(row: Mapping[str, Any]) -> set[UUID]:
    """Which data keys its texts need. Documents are parsed already."""
    tokens = [row.get(name) for name in _TEXTS]
    tokens += [row[name][ENCRYPTED] for name in _TREES if is_closed(row.get(name))]
    return {key for token in tokens if (key := key_of(token)) is not None}


def readable_row(row: Mapping[str, Any], keys: Mapping[UUID, DataKey]) -> dict[str, Any]:
    """The row, decrypted; a text whose key is not there is None, a document its outline and `$erased`."""
    found, task_id = dict(row), str(row["id"])
    for column, field in _TEXTS.items():
        if column in found:
            found[column] = open_text(keys, task_id, field, found[column])
    for column, field in _TREES.items():
        if is_closed(found.get(column)):
            found[column] = open_tree(keys, task_id, field, found[column])
    return found
