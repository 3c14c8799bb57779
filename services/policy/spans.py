"""What policy adds to a task's trace: a span for each decision, and for the end of its reservation."""

from __future__ import annotations

from collections.abc import Iterable

from shared import tracing
from shared.events.decisions import ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope


def record_turn(events: Iterable[Envelope], began_ns: int) -> None:
    """The spans of a turn that is committed and began at `began_ns`; the turn's tasks share its time."""
    if not tracing.is_on():
        return
    for event in events:
        if not tracing.is_traced(event.traceparent):
            continue
        data, said = event.data, {"skeldir.task_id": event.subject}
        if isinstance(data, TaskAllowed):
            tracing.record("policy decide", event.traceparent, began_ns, {**said, "skeldir.decision": "allowed"})
        elif isinstance(data, TaskBlocked):
            said |= {"skeldir.decision": "blocked", "skeldir.blocked_reason": data.reason, "skeldir.rule": data.rule}
            tracing.record("policy decide", event.traceparent, began_ns, said)
        elif isinstance(data, ReservationEnded):
            tracing.record("policy settle", event.traceparent, began_ns, {**said, "skeldir.reservation": data.how})
