"""A line of the log says which task it is about, by the names that other places have for it."""

from __future__ import annotations

from typing import ClassVar
from uuid import uuid4

from shared.events.envelope import Payload, new
from shared.logs import about


class Said(Payload):
    event_type: ClassVar[str] = "test.said"


def test_a_line_names_task_correlation_and_trace() -> None:
    trace = uuid4().hex
    said = new(Said(), event_id=uuid4(), source="/test", subject="a task", now_ms=0)
    event = said.model_copy(update={"correlationid": "c-1", "traceparent": f"00-{trace}-051581bf3cb55c13-01"})
    assert about(event) == {"task_id": "a task", "correlation_id": "c-1", "trace_id": trace}
    assert about(said) == {"task_id": "a task"}, "what there is not is not said"
