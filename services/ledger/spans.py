"""What the ledger adds to a task's trace: a span for each of its events that came into the books."""

from __future__ import annotations

from collections.abc import Iterable

import orjson

from services.ledger.intake import Record
from shared import tracing


def record_commit(records: Iterable[Record], began_ns: int) -> None:
    """The spans of a batch that is committed and was read at `began_ns`; its events share its time."""
    if not tracing.is_on():
        return
    for record in records:
        traceparent = orjson.loads(record.body).get("traceparent") if record.partition is not None else None
        said = {"skeldir.task_id": record.subject, "skeldir.event": record.type}
        tracing.record(f"ledger record {record.type}", traceparent, began_ns, said)
