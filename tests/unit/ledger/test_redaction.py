"""What the books keep of texts: of an event as it comes in, before anything else is done with it."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

import pytest

from services.ledger.intake import Keys, Owner, Record, read_event
from services.ledger.projections import project
from shared.events.envelope import new
from shared.events.outcomes import TaskFailed, TaskSucceeded, Usage
from shared.events.registry import EVENTS
from shared.events.tasks import Storage, Task, TaskSubmitted, TaskType, ref_of
from shared.partitions import Partition
from shared.texts.cipher import DataKey

TENANT, ID = UUID(int=1), UUID(int=2)
MAIL = "ada@example.com"


def task(storage: Storage) -> Task:
    prompt = {"model": "stub:m", "messages": [{"role": "user", "content": f"I am {MAIL}"}], "temperature": 0.5}
    return Task(
        task_id=ID,
        request_id="r",
        task_type=TaskType.ROUTE,
        provider="stub",
        model="m",
        prompt=prompt,
        fingerprint="f",
        storage=storage,
    )


def stored(payload: Any, keys: Keys | None = None) -> Record:
    event = new(
        payload,
        event_id=ID,
        source="/test",
        subject=str(ID),
        now_ms=1,
        tenantid=TENANT,
        userid=TENANT,
        correlationid="c",
    )
    record = read_event(0, Partition(0).tasks, (b"1-0", {b"data": event.to_json()}), keys)
    assert isinstance(record, Record), record
    return record


def ends(storage: Storage) -> list[Any]:
    metadata = {"completion": {"choices": [{"message": {"content": MAIL}}]}, "chunks": 3, MAIL: MAIL}
    common: dict[str, Any] = {"task": ref_of(task(storage)), "decision_id": ID, "provider_attempted": True}
    return [
        TaskSubmitted(task=task(storage)),
        TaskSucceeded(
            **common,
            was_cached=False,
            output_text=MAIL,
            reasoning_trace={"steps": [MAIL]},
            response_metadata=metadata,
            usage=Usage(cost=7, input_tokens=2),
        ),
        TaskFailed(**common, reason="provider_error:X", detail=f"no {MAIL}", counts_for_breaker=False, spend="none"),
    ]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_redacted_and_none_keep_nothing_private_and_all_that_is_counted(at: int) -> None:
    full, redacted, none = (stored(ends(storage)[at]) for storage in ("full", "redacted", "none"))
    assert MAIL in full.body
    for one in (redacted, none):
        assert MAIL not in one.body
        assert not any(MAIL in str(patch) for patch in one.patches)
        assert (one.id, one.type, one.subject) == (full.id, full.type, full.subject)
    assert "[email]" in redacted.body and "[email]" not in none.body
    assert ('"temperature":0.5' in none.body) == (at == 0), "how it was asked is kept"
    assert ('"cost":7' in none.body, '"chunks":3' in none.body) == (at == 1, at == 1)


class OneKey:
    """The same data key for everybody."""

    encrypts = True

    def key_of(self, owner: Owner) -> DataKey:
        return DataKey(UUID(int=2), b"k" * 64)

    def erased(self, owner: Owner, time: datetime) -> bool:
        return False


@pytest.mark.parametrize("keys", [None, OneKey()])
@pytest.mark.parametrize("storage", ["full", "redacted", "none"])
@pytest.mark.parametrize("at", [0, 1, 2])
def test_the_rows_are_those_that_a_rebuild_makes_of_what_is_stored(
    at: int, storage: Storage, keys: Keys | None
) -> None:
    record = stored(ends(storage)[at], keys)
    assert list(record.patches) == project(EVENTS.decode(record.body))
    hidden = keys is not None and storage != "none"
    assert (record.key_id is not None, MAIL in record.body) == (hidden, storage == "full" and not hidden)
