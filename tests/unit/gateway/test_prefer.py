"""`Prefer: wait=N` as RFC 7240 has it: beside others, in several fields, with parameters."""

from __future__ import annotations

import pytest
from starlette.requests import Request

from services.gateway.door import wait_of
from services.gateway.problems import Problem


def asked(*fields: str) -> Request:
    return Request({"type": "http", "headers": [(b"prefer", field.encode()) for field in fields]})


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ((), 0),
        (("respond-async",), 0),
        (("wait=2",), 2),
        (("WAIT = 2",), 2),
        (('wait="2"',), 2),
        (("wait=100",), 60),
        (("wait=-1",), 0),
        (("respond-async, wait=2",), 2),
        (("wait=2; foo=bar, handling=lenient",), 2),
        (("respond-async", "wait=2"), 2),
    ],
)
def test_how_long_a_request_waits(fields: tuple[str, ...], seconds: float) -> None:
    assert wait_of(asked(*fields), 60) == seconds


def test_what_is_no_number_of_seconds_is_said() -> None:
    with pytest.raises(Problem):
        wait_of(asked("wait=soon"), 60)
