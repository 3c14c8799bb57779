"""What policy stores is what it reads again; what it does not know stops it."""

from __future__ import annotations

from uuid import UUID

import msgspec
import pytest

from services.policy.state import Account, Breaker, Bucket, Hold, Meter, Probes, Take
from services.policy.store import (
    decode_account,
    decode_hold,
    decode_probes,
    encode_account,
    encode_hold,
    encode_probes,
)
from shared.events.decisions import BreakerState
from shared.events.tasks import TaskRef, TaskType

TASK = TaskRef(task_id=UUID(int=4), request_id="r", task_type=TaskType.ROUTE, provider="stub", model="m")


def test_what_is_stored_is_read_again() -> None:
    account = Account(
        version=7,
        hours={"2026-11-23T16": Bucket(5, 6, 7, 8)},
        months={"2026-11": Bucket(1)},
        in_flight=2,
        breaker=Breaker(BreakerState.HALF_OPEN, 3, opened_at_ms=9, last_trip_at_ms=9, probes=1),
        meters={"1-0": {"2026-11": Meter(3, 2, 1)}},
    )
    assert decode_account(encode_account(account)) == account and decode_account(None) == Account()
    hold = Hold(UUID(int=1), UUID(int=2), UUID(int=3), 10**15, "2026-11-23T16", "2026-11", "held", TASK, 5)
    hold = msgspec.structs.replace(hold, takes=(Take("1-0", "tokens", "2026-11", 4),))
    assert decode_hold(encode_hold(hold)) == hold
    probes = {("openai", "gpt"): Probes(1, 2, 3)}
    assert decode_probes(encode_probes(probes)) == probes and decode_probes(None) == {}


def test_an_account_without_meters_is_an_older_releases() -> None:
    stored = b'{"version":1,"hours":{},"months":{},"in_flight":0,"breaker":{"state":"open","opened_at_ms":4}}'
    assert decode_account(stored) == Account(1, breaker=Breaker(BreakerState.OPEN, opened_at_ms=4))


@pytest.mark.parametrize("wrong", [b'{"spent":1,"lent":2}', b'{"spent":"1"}', b"[]"])
def test_what_is_not_known_is_not_guessed(wrong: bytes) -> None:
    with pytest.raises(msgspec.ValidationError):
        decode_account(b'{"hours":{"2026-11-23T16":' + wrong + b"}}")
