"""Anthropic's wire format for the mock provider: messages, their events, and its errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.mock_provider import Reply


@dataclass(frozen=True)
class Message(Reply):
    """How one request is answered. `blocks` stand in place of the one of `text`."""

    model: str = "claude-haiku-4-5-20251001"
    usage: Any = field(default_factory=lambda: {"input_tokens": 1000, "output_tokens": 100})
    blocks: tuple[dict[str, Any], ...] | None = None
    stop_reason: str = "end_turn"

    def content(self) -> bytes:
        if self.body is not None:
            return super().content()
        if self.status != 200:
            error = {"type": "scripted_error", "message": f"scripted {self.status}"}
            return json.dumps({"type": "error", "error": error, "request_id": "req_1"}).encode()
        message = {**self._start(), "content": self._blocks(), "stop_reason": self.stop_reason, "usage": self.usage}
        return json.dumps(message).encode()

    def events(self) -> Iterator[bytes]:
        for event in self._events() if self.pieces is None else self.pieces:
            yield event if isinstance(event, bytes) else json.dumps(event).encode()
        while self.endless and self.pieces:
            yield json.dumps(self.pieces[-1]).encode()

    def frame(self, data: bytes) -> bytes:
        return b"event: %s\ndata: %s\n\n" % (str(json.loads(data)["type"]).encode(), data)

    def _start(self) -> dict[str, Any]:
        known = {"id": "msg_1", "type": "message", "role": "assistant", "model": self.model}
        return {**known, "content": [], "stop_reason": None, "stop_sequence": None}

    def _blocks(self) -> list[dict[str, Any]]:
        return [{"type": "text", "text": self.text}] if self.blocks is None else list(self.blocks)

    def _events(self) -> Iterator[dict[str, Any]]:
        yield {"type": "message_start", "message": {**self._start(), "usage": {**self.usage, "output_tokens": 1}}}
        yield {"type": "ping"}
        for index, block in enumerate(self._blocks()):
            kind = block["type"]
            whole = json.dumps(block["input"]) if kind == "tool_use" else str(block[kind])
            name = {"text": "text", "thinking": "thinking", "tool_use": "partial_json"}[kind]
            delta = {"text": "text_delta", "thinking": "thinking_delta", "tool_use": "input_json_delta"}[kind]
            begun = {**block, "input": {}} if kind == "tool_use" else {"type": kind, name: ""}
            yield {"type": "content_block_start", "index": index, "content_block": begun}
            for part in (whole[: len(whole) // 2], whole[len(whole) // 2 :]):
                yield {"type": "content_block_delta", "index": index, "delta": {"type": delta, name: part}}
            yield {"type": "content_block_stop", "index": index}
        stop = {"stop_reason": self.stop_reason, "stop_sequence": None}
        yield {"type": "message_delta", "delta": stop, "usage": {"output_tokens": self.usage["output_tokens"]}}
        yield {"type": "message_stop"}
