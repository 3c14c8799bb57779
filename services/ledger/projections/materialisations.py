"""What a successful task leaves beside its call: a row of `investigations` or of `budget_optimization_jobs`.

The row's id is the task's: however often a success is delivered, it is one row.
"""

from __future__ import annotations

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Table
from shared.events.envelope import Envelope
from shared.events.outcomes import TaskSucceeded
from shared.events.tasks import TaskType

_OWNER = {"tenant_id": Kind.UUID, "user_id": Kind.UUID}
INVESTIGATIONS = Table(
    "investigations",
    key={"id": Kind.UUID},
    constants={
        **_OWNER,
        "query": Kind.TEXT,
        "status": Kind.TEXT,
        "result": Kind.JSON,
        "cost_cents": Kind.MONEY,
        "created_at": Kind.TIME,
    },
)
BUDGET_JOBS = Table(
    "budget_optimization_jobs",
    key={"id": Kind.UUID},
    constants={
        **_OWNER,
        "status": Kind.TEXT,
        "recommendations": Kind.JSON,
        "cost_cents": Kind.MONEY,
        "created_at": Kind.TIME,
    },
)


def project(event: Envelope) -> list[Patch]:
    """The row, for a success of these two task types."""
    data = event.data
    if not isinstance(data, TaskSucceeded):
        return []
    task = data.task
    row = {
        "id": task.task_id,
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "status": "completed",
        "cost_cents": data.usage.cost,
        "created_at": event.time,
    }
    said = {
        "request_id": task.request_id,
        "provider": task.provider,
        "model": task.model,
        "output_text": data.output_text,
        "was_cached": data.was_cached,
    }
    if task.task_type is TaskType.INVESTIGATION:
        query = storable.text(f"provider:{task.request_id}")
        return [Patch(INVESTIGATIONS, {**row, "query": query, "result": storable.document(said)})]
    if task.task_type is TaskType.BUDGET_OPTIMIZATION:
        return [Patch(BUDGET_JOBS, {**row, "recommendations": storable.document(said)})]
    return []
