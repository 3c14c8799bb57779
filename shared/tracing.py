"""Traces (OpenTelemetry): a task's spans in all four services, below the span of the request that submitted it.

Events carry the W3C `traceparent` of that request's span; each service records its own span when its work is done.
Nothing is recorded, and hardly anything spent, without an exporter's address in `OTEL_EXPORTER_OTLP_ENDPOINT` (or
`OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`); the SDK's other variables work, too. No span holds a prompt, an answer or a key.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

Attributes = Mapping[str, str | int | float | bool]

_PROPAGATOR = TraceContextTextMapPropagator()
_ODD = frozenset("13579bdf")  # the last bit of the flags says "sampled"


@dataclass(slots=True)
class _Recorder:
    tracer: Tracer | None = None
    close: Callable[[], None] | None = None


_RECORDER = _Recorder()


def start(service: str) -> None:
    """Record from now on, if an exporter's address is set: in batches, from a bounded queue that drops when full."""
    addresses = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, addresses)):
        return
    # Imported here: it takes 50 ms and 10 MB that most processes need not spend.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"skeldir-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _RECORDER.tracer, _RECORDER.close = provider.get_tracer("skeldir"), provider.shutdown


def stop() -> None:
    """Send what is still queued. Takes up to the exporter's time limit, so not on an event loop."""
    close, _RECORDER.tracer, _RECORDER.close = _RECORDER.close, None, None
    if close is not None:
        close()


def is_on() -> bool:
    """Whether any span is recorded."""
    return _RECORDER.tracer is not None


def is_traced(traceparent: str | None) -> bool:
    """Whether spans below `traceparent` are recorded: who began the trace decides whether it is sampled."""
    return _RECORDER.tracer is not None and traceparent is not None and traceparent[-1:] in _ODD


@contextmanager
def request(name: str, traceparent: str | None, kind: SpanKind = SpanKind.SERVER) -> Iterator[str | None]:
    """A span around a submission, below the caller's own; yields the `traceparent` for the events that follow."""
    tracer = _RECORDER.tracer
    if tracer is None:
        yield traceparent
        return
    span = tracer.start_span(name, _below(traceparent), kind)
    try:
        yield _named(span)
    except Exception as error:
        _failed(span, type(error).__name__)
        raise
    finally:
        span.end()


def record(
    name: str,
    traceparent: str | None,
    began_ns: int,
    attributes: Attributes,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    error: str | None = None,
) -> None:
    """A span that is over now, and began at `began_ns` (`time.time_ns`), below `traceparent` where that is traced."""
    tracer = _RECORDER.tracer
    if tracer is None or not is_traced(traceparent):
        return
    span = tracer.start_span(name, _below(traceparent), kind, dict(attributes), start_time=began_ns)
    if error is not None:
        _failed(span, error)
    span.end(max(began_ns, time.time_ns()))


def _failed(span: Span, error: str) -> None:
    span.set_attribute("error.type", error)
    span.set_status(Status(StatusCode.ERROR))


def _below(traceparent: str | None) -> Context:
    return _PROPAGATOR.extract({} if traceparent is None else {"traceparent": traceparent}, Context())


def _named(span: Span) -> str | None:
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return carrier.get("traceparent")
