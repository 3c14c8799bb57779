"""Gemini's wire format for the mock provider: answers, their pieces, and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.mock_provider import Reply

STATUSES = {400: "INVALID_ARGUMENT", 429: "RESOURCE_EXHAUSTED", 500: "INTERNAL", 503: "UNAVAILABLE"}


@dataclass(frozen=True)
class Generated(Reply):
    """How one request is answered. `parts` stand in place of the one of `text`."""

    model: str = "gemini-2.5-flash"
    usage: Any = field(default_factory=lambda: {"promptTokenCount": 1000, "candidatesTokenCount": 100})
    parts: tuple[dict[str, Any], ...] | None = None
    finish: str = "STOP"
    details: tuple[dict[str, Any], ...] = ()

    def content(self) -> bytes:
        if self.body is not None:
            return super().content()
        if self.status != 200:
            status = STATUSES.get(self.status, "UNKNOWN")
            error = {"code": self.status, "message": f"scripted {self.status}", "status": status}
            return json.dumps({"error": {**error, "details": list(self.details)}}).encode()
        return json.dumps({**self._piece(self._parts(), self.finish), "usageMetadata": self.usage}).encode()

    def streams(self, path: str, asked: dict[str, Any]) -> bool:
        return ":streamGenerateContent" in path and self.status == 200 and self.body is None

    def events(self) -> Iterator[bytes]:
        for event in self._events() if self.pieces is None else self.pieces:
            yield event if isinstance(event, bytes) else json.dumps(event).encode()
        while self.endless and self.pieces:
            yield json.dumps(self.pieces[-1]).encode()

    def frame(self, data: bytes) -> bytes:
        return b"data: %s\r\n\r\n" % data

    def _parts(self) -> list[dict[str, Any]]:
        return [{"text": self.text}] if self.parts is None else list(self.parts)

    def _piece(self, parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
        candidate = {"content": {"role": "model", "parts": parts}, "index": 0}
        said = {"candidates": [candidate | ({"finishReason": finish} if finish else {})]}
        return {**said, "modelVersion": self.model, "responseId": "response-1"}

    def _events(self) -> Iterator[dict[str, Any]]:
        for part in self._parts():
            whole = part.get("text")
            halves = [part] if whole is None else [{**part, "text": whole[:2]}, {**part, "text": whole[2:]}]
            for half in halves:
                yield {**self._piece([half]), "usageMetadata": {**self.usage, "candidatesTokenCount": 1}}
        yield {**self._piece([{"text": ""}], self.finish), "usageMetadata": self.usage}
