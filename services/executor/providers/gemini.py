"""Google's Gemini API, by the official SDK (`GEMINI_API_KEY` or `GOOGLE_API_KEY`, `GOOGLE_GEMINI_BASE_URL`)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx2
from google import genai
from google.genai import errors, types

from services.executor.providers.chunks import Assembly
from services.executor.providers.completion import answer_of
from services.executor.providers.failures import of_status, redacted
from services.executor.providers.gemini_answer import Transcript, completion_of
from services.executor.providers.gemini_request import request_of
from services.executor.providers.keys import Keys
from services.executor.providers.prompt import not_supported
from services.executor.providers.protocol import Answer, Call, Hear, ProviderFailure
from services.executor.providers.wire import UNCOMPRESSED, counted, of_lost_connection

_STATUS = re.compile(r"[A-Z_]{2,40}")
_SECONDS = re.compile(r"\d+(\.\d+)?s")
# As the other SDKs': an executor makes more calls at once than the transport's own 100, which would wait in line.
_LIMITS = httpx2.Limits(max_connections=1000, max_keepalive_connections=100)
_INVALID_KEY = "API_KEY_INVALID"


class GeminiProvider:
    """Answers in OpenAI's shape. What the SDK would ask by itself is off: its retries, the continuation of long
    answers, the calling of functions. Each attempt is recorded, and that is ours to do."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._keys = Keys(keys)
        # Given a client, the SDK does not look for aiohttp, with which it tries again on its own.
        self._http = httpx2.AsyncClient(event_hooks={"response": [counted]}, headers=UNCOMPRESSED, limits=_LIMITS)
        options = types.HttpOptions(httpx_async_client=self._http)
        self._clients = [genai.Client(api_key=key, vertexai=False, http_options=options) for key in keys]

    async def call(self, call: Call) -> Answer:
        body, key = request_of(call), self._keys.take()
        try:
            response = await self._clients[key].aio.models.generate_content(
                model=call.model, contents="", config=_config(call, body, should_return_http_response=True)
            )
        except (errors.APIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        raw = response.sdk_http_response
        return _read((raw.body if raw else None) or "", call)

    async def stream(self, call: Call, hear: Hear) -> Answer:
        body, key = request_of(call), self._keys.take()
        try:
            return answer_of(await _heard(await self._events(key, call, body), call, hear), call)
        except (errors.APIError, httpx2.HTTPError) as error:
            raise self._failure(key, error) from error
        except ValueError as error:  # what came cannot be read by the SDK
            raise ProviderFailure("InvalidAnswer", redacted(str(error)[:500], ()), spend="uncertain") from error

    async def embed(self, call: Call) -> Answer:
        raise not_supported("Gemini does not state what embeddings consume")

    async def close(self) -> None:
        for client in self._clients:
            client.close()
        await self._http.aclose()

    async def _events(self, key: int, call: Call, body: dict[str, Any]) -> AsyncIterator[Any]:
        models: Any = self._clients[key].aio.models
        stream: AsyncIterator[Any] = await models.generate_content_stream(
            model=call.model, contents="", config=_config(call, body)
        )
        return stream

    def _failure(self, key: int, error: errors.APIError | httpx2.HTTPError) -> ProviderFailure:
        return self._keys.learn(key, failure_of(error, self._keys.redacted(str(error))))


def _config(call: Call, body: dict[str, Any], **more: Any) -> types.GenerateContentConfig:
    """The body is ours, as it goes over the wire; of the SDK's own settings only what keeps it from asking again."""
    return types.GenerateContentConfig(
        http_options=types.HttpOptions(timeout=max(1, int(call.timeout_s * 1000)), extra_body=body),
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
        automatic_continuation=False,
        **more,
    )


async def _heard(events: AsyncIterator[Any], call: Call, hear: Hear) -> dict[str, Any]:
    """The completion that the stream adds up to; each piece is heard as it comes."""
    transcript, assembly = Transcript(call), Assembly()
    async for event in events:
        for one in transcript.chunks(event.model_dump(mode="json", by_alias=True, exclude_none=True)):
            assembly.add(one.body)
            hear(one)
    if not transcript.is_over:
        raise ProviderFailure("InvalidAnswer", "the stream ended before the answer did", spend="uncertain")
    for one in transcript.end():
        assembly.add(one.body)
        hear(one)
    return assembly.completion()


def _read(body: str, call: Call) -> Answer:
    try:
        raw = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise ProviderFailure("InvalidAnswer", f"not JSON: {error}", spend="uncertain") from error
    return answer_of(completion_of(raw, call), call)


def failure_of(error: errors.APIError | httpx2.HTTPError, detail: str) -> ProviderFailure:
    """Whose fault, whether money went, and whether another try makes sense. `detail` holds no key any more."""
    kind, detail = type(error).__name__, redacted(detail, ())
    if not isinstance(error, errors.APIError):
        return of_lost_connection(kind, detail, error)
    if not isinstance(error.response, httpx2.Response):  # it came within a stream that had begun
        return ProviderFailure("StreamError", detail, spend="uncertain")
    if isinstance(error.status, str) and _STATUS.fullmatch(error.status):
        kind = error.status
    status = 401 if _INVALID_KEY in detail else error.response.status_code  # Google says 400
    found = of_status(kind, detail, status, error.response.headers, time.time())
    if found.retry_after_s is None:
        found.retry_after_s = _retry_after(error.details)
    return found


def _retry_after(details: Any) -> float | None:
    """Seconds, by the `RetryInfo` of Google's error model."""
    error = details.get("error") if isinstance(details, dict) else None
    notes = error.get("details") if isinstance(error, dict) else None
    for note in notes if isinstance(notes, list) else ():
        delay = note.get("retryDelay") if isinstance(note, dict) else None
        if isinstance(delay, str) and _SECONDS.fullmatch(delay):
            return float(delay[:-1])
    return None
