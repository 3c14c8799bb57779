"""The two streams that OpenAI's clients read: chunks of a chat completion, and events of a response. Pure."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from services.gateway import openai_shape
from services.gateway.problems import Problem, openai_error
from shared import responses
from shared.events.results import TaskResult
from shared.events.tasks import Operation


class Dialect(Protocol):
    """How pieces, ends and errors are said."""

    @property
    def operation(self) -> Operation:
        """What is asked for."""

    @property
    def end(self) -> bytes:
        """What comes after the last piece."""

    def pieces(self, pieces: Iterable[bytes]) -> bytes:
        """What a provider said, as it goes on to the client."""

    def whole(self, result: TaskResult) -> Iterator[bytes]:
        """An answer that is there already, as the stream that it would have been."""

    def error(self, problem: Problem) -> bytes:
        """The last that is said of a stream that does not end well."""


@dataclass(frozen=True, slots=True)
class Chat:
    """Chunks, and `[DONE]`."""

    usage: bool
    """Whether the client asked for it; we always ask the provider."""
    operation: Operation = "chat"
    end: bytes = openai_shape.DONE

    def pieces(self, pieces: Iterable[bytes]) -> bytes:
        wanted = (piece for piece in pieces if self.usage or not openai_shape.is_usage(piece))
        return b"".join(b"data: %s\n\n" % piece for piece in wanted)

    def whole(self, result: TaskResult) -> Iterator[bytes]:
        return openai_shape.chunks(result, int(time.time()), usage=self.usage)

    def error(self, problem: Problem) -> bytes:
        return openai_shape.sse(openai_error(problem)) + self.end


@dataclass(frozen=True, slots=True)
class Responses:
    """Events with a name; the last one is an end by itself."""

    operation: Operation = "responses"
    end: bytes = b""

    def pieces(self, pieces: Iterable[bytes]) -> bytes:
        return b"".join(_named(orjson.loads(piece), piece) for piece in pieces)

    def whole(self, result: TaskResult) -> Iterator[bytes]:
        for event in responses.events_of(response(result, int(time.time()))):
            yield _named(event, orjson.dumps(event))

    def error(self, problem: Problem) -> bytes:
        error = {
            **openai_error(problem),
            "type": "error",
            "code": problem.code,
            "message": problem.detail,
            "param": None,
        }
        return _named(error, orjson.dumps(error))


def response(result: TaskResult, now_s: int) -> dict[str, Any]:
    """The response as its provider gave it; of an answer that was none, one made now."""
    if result.completion is not None:
        return result.completion
    used, text = result.usage, result.output_text or ""
    return responses.response(str(result.task_id), result.model, text, used.input_tokens, used.output_tokens, now_s)


def _named(event: dict[str, Any], raw: bytes) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (str(event.get("type", "message")).encode(), raw)
