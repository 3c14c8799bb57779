"""Anthropic's Messages API, by the official SDK (`ANTHROPIC_API_KEY`, `ANTHROPIC_BASE_URL`)."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import anthropic
import httpx2
import orjson
from anthropic import AsyncAnthropic

from services.executor.providers.anthropic_answer import Transcript, completion_of
from services.executor.providers.anthropic_request import request_of
from services.executor.providers.chunks import Assembly, in_one_piece
from services.executor.providers.completion import answer_of
from services.executor.providers.failures import of_status, redacted
from services.executor.providers.keys import Keys
from services.executor.providers.prompt import not_supported
from services.executor.providers.protocol import Answer, Call, Hear, ProviderFailure
from services.executor.providers.wire import UNCOMPRESSED, bounded, counted, of_lost_connection, server_sent


class AnthropicProvider:
    """Answers in OpenAI's shape. The SDK's own retries are off: each attempt is recorded, and that is ours to do."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = Keys(keys)
        http = anthropic.DefaultAsyncHttpxClient(event_hooks={"response": [counted]}, headers=UNCOMPRESSED)
        self._clients = [
            AsyncAnthropic(api_key=key, max_retries=0, open_telemetry=False, http_client=http) for key in keys
        ]

    async def call(self, call: Call) -> Answer:
        return await self._ask(call, None)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        return await self._ask(call, hear)

    async def embed(self, call: Call) -> Answer:
        raise not_supported("Anthropic has no embeddings")

    async def close(self) -> None:
        for client in self._clients:
            await client.close()

    async def _ask(self, call: Call, hear: Hear | None) -> Answer:
        body = request_of(call)
        key = self._keys.take()
        try:
            async with self._clients[key].messages.with_streaming_response.create(
                model=call.model,
                messages=body.pop("messages"),
                max_tokens=body.pop("max_tokens"),
                timeout=call.timeout_s,
                extra_body=body if hear is None else {**body, "stream": True},
            ) as response:
                if hear is not None and "json" not in response.headers.get("content-type", ""):
                    return answer_of(await _heard(response, call, hear), call)
                answer = _read(await bounded(response.iter_bytes()), call)
        except (anthropic.AnthropicError, httpx2.HTTPError) as error:
            raise self._keys.learn(key, failure_of(error, self._keys.redacted(str(error)))) from error
        return answer if hear is None else in_one_piece(answer, hear)


async def _heard(response: Any, call: Call, hear: Hear) -> dict[str, Any]:
    """The completion that the stream adds up to; each piece is heard as it comes."""
    transcript, assembly = Transcript(call), Assembly()
    async for data in server_sent(response.iter_bytes()):
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise ProviderFailure("InvalidAnswer", f"an event is not JSON: {error}", spend="uncertain") from error
        for one in transcript.chunks(event if isinstance(event, dict) else {}):
            assembly.add(one.body)
            hear(one)
    if not transcript.is_over:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    return assembly.completion()


def _read(body: bytes, call: Call) -> Answer:
    try:
        raw = json.loads(body.decode(errors="replace"))
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    return answer_of(completion_of(raw, call), call)


def failure_of(error: anthropic.AnthropicError | httpx2.HTTPError, detail: str) -> ProviderFailure:
    """Whose fault, whether money went, and whether another try makes sense. `detail` holds no key any more."""
    kind, detail = type(error).__name__, redacted(detail, ())
    if isinstance(error, anthropic.APIStatusError):
        return of_status(kind, detail, error.status_code, error.response.headers, time.time())
    cause = error.__cause__ if isinstance(error, anthropic.APIConnectionError) else error
    return of_lost_connection(kind, detail, cause)
