"""Structured logs, the same for every service and command."""

from __future__ import annotations

import logging
import sys

import structlog

from shared.events.envelope import Envelope


def configure_logs(level: str) -> None:
    """Structured logs, one JSON object a line, on standard error."""
    number = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(message)s")
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def about(event: Envelope) -> dict[str, str]:
    """Which task a line is about: by the names that the books, the caller and a trace have for it."""
    trace = (event.traceparent or "").split("-")[1:2]
    named = {"task_id": event.subject, "correlation_id": event.correlationid, "trace_id": "".join(trace)}
    return {name: value for name, value in named.items() if value}
