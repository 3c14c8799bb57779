"""One task, one trace: spans of all four services below the caller's own, over the wire to a collector."""

from __future__ import annotations

from uuid import uuid4

from tests.collector import CollectedSpan, Collector
from tests.stack import Stack, eventually

CALLERS_TRACE, CALLERS_SPAN = "5b8aa5a2d2c872e8321cf37308d69df2", "051581bf3cb55c13"


def test_a_tasks_trace_shows_all_four_services(impatient_stack: Stack, collector: Collector) -> None:
    stack, secret = impatient_stack, f"a prompt that nobody else sees {uuid4()}"
    body = {"task_type": "route", "prompt": {"text": secret, "simulated_output_text": secret}}
    sampled = f"00-{CALLERS_TRACE}-{CALLERS_SPAN}-01"
    reply = stack.post("/v1/tasks", body, Prefer="wait=30", traceparent=sampled)
    assert reply.json()["status"] == "success", reply.text

    services = {
        "submit route": "gateway",
        "policy decide": "policy",
        "chat model": "executor",
        "policy settle": "policy",
        "ledger record task.submitted": "ledger",
        "ledger record task.allowed": "ledger",
        "ledger record attempt.started": "ledger",
        "ledger record task.succeeded": "ledger",
        "ledger record reservation.ended": "ledger",
    }

    def spans() -> dict[str, CollectedSpan] | None:  # each service sends them when it likes
        found = {span.name: span for span in collector.spans if span.trace_id == CALLERS_TRACE}
        return found if len(found) >= len(services) else None

    found = eventually(spans, "the trace")
    assert {name: span.service.removeprefix("skeldir-") for name, span in found.items()} == services
    submitted = found["submit route"]
    assert submitted.parent_id == CALLERS_SPAN
    assert {span.parent_id for name, span in found.items() if name != "submit route"} == {submitted.span_id}
    call = found["chat model"].attributes
    assert (call["gen_ai.operation.name"], call["gen_ai.provider.name"]) == ("chat", "stub")
    assert call["gen_ai.request.model"] == "model" and call["gen_ai.usage.output_tokens"] >= 0
    assert found["policy decide"].attributes["skeldir.decision"] == "allowed"
    assert all(0 <= span.seconds < 60 for span in found.values())
    assert not any(secret in str(span) for span in collector.spans), "no text leaves by a trace"


def test_a_task_without_a_callers_trace_has_its_own(impatient_stack: Stack, collector: Collector) -> None:
    task_id = impatient_stack.run()["task_id"]

    def services() -> bool:
        traces = {span.trace_id for span in collector.spans if span.attributes.get("skeldir.task_id") == task_id}
        found = {span.service for span in collector.spans if span.trace_id in traces}
        return len(traces) == 1 and len(found) == 4

    eventually(services, "one trace, through all four")


def test_who_begins_a_trace_decides_whether_it_is_sampled(impatient_stack: Stack, collector: Collector) -> None:
    stack, unsampled, sampled = impatient_stack, uuid4().hex, uuid4().hex
    for trace, flags in ((unsampled, "00"), (sampled, "01")):
        body = {"task_type": "route", "prompt": {"text": trace}}
        trace_parent = f"00-{trace}-{CALLERS_SPAN}-{flags}"
        stack.call(stack.post("/v1/tasks", body, Prefer="wait=30", traceparent=trace_parent).json())

    def recorded() -> bool:
        return any(span.trace_id == sampled and span.name == "ledger record task.succeeded" for span in collector.spans)

    eventually(recorded, "the trace that came later")
    assert not any(span.trace_id == unsampled for span in collector.spans)
