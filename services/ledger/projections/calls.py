"""`llm_api_calls`: one row a task. Each stage of the chain writes columns of its own."""

from __future__ import annotations

from typing import Any

from services.ledger.projections import storable
from services.ledger.projections.rows import Kind, Patch, Register, Table, stamp
from shared.events.decisions import ReservationEnded, TaskAllowed, TaskBlocked
from shared.events.envelope import Envelope
from shared.events.outcomes import AttemptResolved, AttemptStarted, TaskFailed, TaskSucceeded
from shared.events.tasks import TaskRef, TaskSubmitted

SUBMITTED = Register(
    "submitted_stamp",
    {
        "cache_key": Kind.TEXT,
        "cache_watermark": Kind.BIGINT,
        "max_cost_cents": Kind.MONEY,
        "request_metadata_ref": Kind.JSON,
    },
)
DECISION = Register(
    "decision_stamp",
    {
        "decision_id": Kind.UUID,
        "decided_at": Kind.TIME,
        "budget_reservation_cents": Kind.MONEY,
        "allowed_breaker_state": Kind.TEXT,
    },
)
ATTEMPT = Register("attempt_stamp", {"attempt_id": Kind.UUID})
END = Register(
    "end_stamp",
    {
        "ended_at": Kind.TIME,
        "status": Kind.TEXT,
        "block_reason": Kind.TEXT,
        "failure_reason": Kind.TEXT,
        "failure_detail": Kind.TEXT,
        "was_cached": Kind.BOOLEAN,
        "end_attempted": Kind.BOOLEAN,
        "end_breaker_state": Kind.TEXT,
        "end_cost_cents": Kind.MONEY,
        "output_text": Kind.TEXT,
        "reasoning_trace_ref": Kind.JSON,
        "response_metadata_ref": Kind.JSON,
    },
)
USAGE = Register("usage_stamp", {"input_tokens": Kind.BIGINT, "output_tokens": Kind.BIGINT, "latency_ms": Kind.BIGINT})
# As it was asked for, until an event says that a decision moved it: only those are stamped.
MODEL = Register("moved_stamp", {"provider": Kind.TEXT, "model": Kind.TEXT, "requested_model": Kind.TEXT})
SETTLED = Register("settled_stamp", {"budget_settled_cents": Kind.MONEY})

CALLS = Table(
    "llm_api_calls",
    key={"id": Kind.UUID},
    constants={
        "tenant_id": Kind.UUID,
        "user_id": Kind.UUID,
        "endpoint": Kind.TEXT,
        "request_id": Kind.TEXT,
        "task_type": Kind.TEXT,
        "correlation_id": Kind.TEXT,
    },
    registers=(MODEL, SUBMITTED, DECISION, ATTEMPT, END, USAGE, SETTLED),
    sums={"attempts": Kind.INTEGER},
    earliest={"created_at": Kind.TIME},
    latest={"updated_at": Kind.TIME},
    defaults={
        "cache_watermark": "0",
        "budget_reservation_cents": "0",
        "attempts": "0",
        "status": "'pending'",
        "was_cached": "false",
        "input_tokens": "0",
        "output_tokens": "0",
        "latency_ms": "0",
    },
)


def project(event: Envelope) -> list[Patch]:
    """The patch of the task's row."""
    match event.data:
        case TaskSubmitted() as data:
            return [_patch(event, data.task, _submitted(event, data))]
        case TaskAllowed() as data:
            return [_patch(event, data.task, _allowed(event, data))]
        case AttemptStarted() as data:
            started = {"attempt_stamp": stamp(event), "attempt_id": data.attempt_id, "attempts": 1}
            return [_patch(event, data.task, started)]
        case TaskBlocked() as data:
            return [_patch(event, data.task, _blocked(event, data))]
        case TaskSucceeded() as data:
            return [_patch(event, data.task, {**_succeeded(event, data), **_usage(event, data)})]
        case TaskFailed() as data:
            return [_patch(event, data.task, {**_failed(event, data), **_usage(event, data)})]
        case AttemptResolved(by="late_result") as data:
            return [_patch(event, data.task, _usage(event, data))]
        case ReservationEnded(how="settled" | "released") as data:
            # After an expired decision was released, a second one may be settled: that one counts.
            rank = 1 if data.how == "settled" else 0
            settled = {"settled_stamp": stamp(event, rank), "budget_settled_cents": data.settled}
            return [_patch(event, data.task, settled)]
        case _:
            return []


def _patch(event: Envelope, task: TaskRef, written: dict[str, Any]) -> Patch:
    row = {
        "id": task.task_id,
        "tenant_id": event.tenantid,
        "user_id": event.userid,
        "endpoint": task.task_type.endpoint,
        "request_id": storable.text(task.request_id),
        "task_type": task.task_type.value,
        "provider": storable.text(task.provider),
        "model": storable.text(task.model),
        "correlation_id": None if event.correlationid is None else storable.text(event.correlationid),
        "created_at": event.time,
        "updated_at": event.time,
    }
    if task.requested_model is not None:
        row |= {"moved_stamp": stamp(event), "requested_model": storable.text(task.requested_model)}
    return Patch(CALLS, {**row, **written})


def _submitted(event: Envelope, data: TaskSubmitted) -> dict[str, Any]:
    task = data.task
    about = {
        "fingerprint": task.fingerprint,
        "origin": task.origin,
        "cache_enabled": task.cache_key is not None,
        "kill_switch": task.kill_switch,
        "retry_safe": task.retry_safe,
    }
    return {
        "submitted_stamp": stamp(event),
        "cache_key": task.cache_key,
        "cache_watermark": task.cache_watermark,
        "max_cost_cents": task.max_cost,
        "request_metadata_ref": storable.document(about),
    }


def _allowed(event: Envelope, data: TaskAllowed) -> dict[str, Any]:
    return {
        "decision_stamp": stamp(event),
        "decision_id": data.reservation.reservation_id,
        "decided_at": event.time,
        "budget_reservation_cents": data.reservation.amount,
        "allowed_breaker_state": data.breaker_state.value,
    }


def _blocked(event: Envelope, data: TaskBlocked) -> dict[str, Any]:
    return {
        "end_stamp": stamp(event),
        "ended_at": event.time,
        "status": "blocked",
        "block_reason": storable.text(data.reason),
        "end_attempted": False,
        "end_breaker_state": data.breaker_state.value,
        "end_cost_cents": 0,
        "response_metadata_ref": storable.document({"rule": data.rule, "explanation": data.explanation}),
    }


def _succeeded(event: Envelope, data: TaskSucceeded) -> dict[str, Any]:
    return {
        "end_stamp": stamp(event),
        "ended_at": event.time,
        "status": "success",
        "was_cached": data.was_cached,
        "end_attempted": data.provider_attempted,
        "end_cost_cents": data.usage.cost,
        "output_text": storable.text(data.output_text),
        "reasoning_trace_ref": storable.document(data.reasoning_trace),
        "response_metadata_ref": storable.document(data.response_metadata),
    }


def _failed(event: Envelope, data: TaskFailed) -> dict[str, Any]:
    return {
        "end_stamp": stamp(event),
        "ended_at": event.time,
        "status": "failed",
        "failure_reason": storable.text(data.reason),
        "failure_detail": storable.text(data.detail),
        "end_attempted": data.provider_attempted,
        "end_cost_cents": data.usage.cost,
    }


def _usage(event: Envelope, data: TaskSucceeded | TaskFailed | AttemptResolved) -> dict[str, Any]:
    """What a late result says about usage replaces what was known when the task ended."""
    return {
        "usage_stamp": stamp(event, 1 if isinstance(data, AttemptResolved) else 0),
        "input_tokens": data.usage.input_tokens,
        "output_tokens": data.usage.output_tokens,
        "latency_ms": data.usage.latency_ms,
    }
